"""What the drift benchmark reads is what would be served, and what it computes of it has known answers."""

import numpy as np
import pytest
import torch

from benchmarks import drift, late
from persrec.batches import Batch
from persrec.cells import protocol
from persrec.datasets.causes.oracles import Oracle
from persrec.datasets.causes.world import Settings
from persrec.evaluation.evaluate import evaluate
from persrec.models.model import Model
from persrec.prepared import Prepared, Queries
from persrec.recipe.recipe import Recipe, parse
from tests.small import events, model_of, prepared_of

SEGMENT, RECENT, ITEMS = 6, 5, 40
RULE = drift.Rule(SEGMENT, RECENT, updates=7)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Prepared]:
    split = {"kind": "last", "n": 3}
    recipe, data = prepared_of(tmp_path_factory.mktemp("log"), events(), split=split, time="next")
    return recipe, data


def served(model: Model, items: torch.Tensor, known: int) -> np.ndarray:
    """Lists (U, 10) of users whose first `known` events are known, folded and read by the model's own loop."""
    batch = Batch(drift.history(items, 0, known), torch.full((len(items),), known), torch.arange(len(items)))
    return drift.best_items(model, model.queries(batch)[:, None], model.vectors())[:, 0]


def random_model(history: str, **memory: object) -> Model:
    values = {"history": history, "model": {"width": 8}}
    memory = {"kind": "recurrent", "segment": SEGMENT, "recent": RECENT, "tokens": 2, **memory}
    return model_of(parse(values | {"memory": memory}, "of a test"), ITEMS)


@pytest.mark.parametrize("write", drift.WRITES)
def test_lists_after_updates_are_those_that_would_be_served(write: str) -> None:
    model = random_model("compressed", write=write)
    items = torch.randint(1, ITEMS + 1, (3, 60), generator=torch.Generator().manual_seed(0))
    found = drift.remembered(model, items, RULE)
    for update, offset in ((0, 0), (1, 5), (4, 2), (7, 0)):
        known = update * SEGMENT + RECENT + offset
        np.testing.assert_array_equal(found[:, update, offset], served(model, items, known))


def test_full_reads_its_window_and_no_more() -> None:
    model = random_model("full")
    items = torch.randint(1, ITEMS + 1, (3, 60), generator=torch.Generator().manual_seed(0))
    whole = drift.windowed(model, items, RULE, 6, window=1000)
    known = 6 * SEGMENT + RECENT
    np.testing.assert_array_equal(whole[:, -1, 0], served(model, items, known))
    first = known - (drift.TOGETHER - 1) * SEGMENT
    narrow = drift.windowed(model, items, RULE, 6, window=4)
    np.testing.assert_array_equal(narrow[:, 0, 0], served(model, items[:, first - 4 :], 4))


def test_a_list_of_the_oracle_is_as_good_as_can_be_and_one_of_rare_items_is_worth_little() -> None:
    settings = Settings(users=2, events=70, seed=5)
    drawn = drift.lives(settings, 2, 70, part=0)
    rule = drift.Rule(SEGMENT, RECENT, updates=(70 - RECENT) // SEGMENT - 1)
    user, update, offset = (field.ravel() for field in np.indices((2, rule.updates + 1, SEGMENT)))
    chances = Oracle(drawn).probabilities(user, update * SEGMENT + RECENT + offset)
    order = chances.argsort(axis=1).astype(np.int16)
    shape = 2, rule.updates + 1, SEGMENT, drift.K
    best, worst = order[:, ::-1][:, : drift.K].reshape(shape), order[:, : drift.K].reshape(shape)
    found = drift.read(drawn, {"best": best, "worst": worst, "none": np.full_like(best, -1)}, rule)
    np.testing.assert_allclose(found.own["best"], found.own["oracle"])
    assert (found.own["clear"] <= found.own["oracle"].max()).all()
    assert found.own["worst"].max() < 1e-3
    assert np.isnan(found.own["none"]).all()
    assert (found.since[found.since > 0] <= rule.updates).all()
    assert found.facts["worst"].mean() < found.best.mean()


def test_the_item_that_ties_for_the_last_places_is_there_by_chance() -> None:
    """Nine better ones and four alike: one place for four; eleven better ones: none."""
    chances = np.array([[0.1] * 9 + [0.02] * 4 + [0.02 / 4], [0.08] * 11 + [0.06, 0.06, 0.0]])
    np.testing.assert_allclose(drift.in_best(chances, np.array([10, 11])), [0.25, 0.0])
    np.testing.assert_allclose(drift.in_best(chances, np.array([3, 0])), [1.0, 10 / 11])


def test_a_slope_of_two_percent_per_hundred_updates_is_found() -> None:
    """A ratio that falls from 1.02 to 0.98 over 200 updates, the same for users of whom more and less is known."""
    oracle = np.random.default_rng(0).uniform(0.1, 0.3, (6, 1)) * np.ones((6, 201))
    found = drift.slope(oracle * np.linspace(1.02, 0.98, 201), oracle)
    np.testing.assert_allclose(found, [-0.02] * 3)


def test_a_lag_of_nothing_is_the_evaluation_itself(small: tuple[Recipe, Prepared]) -> None:
    recipe, data = small
    data = late.carrying(data, recipe)
    model = model_of(recipe, data.items_count)
    found = late.late_values(model, data, data.test, late.known(data, "events", 0), recipe)
    np.testing.assert_allclose(found, evaluate(model, data, protocol(recipe)).values(late.METRIC))


def test_a_lagging_log_lacks_the_events_between_and_keeps_the_targets(small: tuple[Recipe, Prepared]) -> None:
    _, data = small
    long = np.flatnonzero(data.test.end > 12)
    queries = data.test.take(long)
    ends = late.known(data, "events", 10)[long]
    found = late.lagging(data, queries, ends)
    for row, (user, end, size) in enumerate(zip(*queries, strict=True)):
        first = data.offsets[user]
        own = slice(found.offsets[row], found.offsets[row + 1])
        wanted = np.r_[first : first + end - 10, first + end : first + end + size]
        np.testing.assert_array_equal(found.items[own], data.items[wanted])
        np.testing.assert_array_equal(found.times[own], data.times[wanted])
    assert found.test == Queries(*found.test)
    np.testing.assert_array_equal(found.test.end, queries.end - 10)


def test_days_are_counted_back_from_the_query(small: tuple[Recipe, Prepared]) -> None:
    _, data = small
    minutes = (data.times * 24 * 60).copy()  # a minute between events becomes a day
    stretched = late.replace(data, times=minutes)
    np.testing.assert_array_equal(late.known(stretched, "days", 7), np.maximum(data.test.end - 6, 0))
    np.testing.assert_array_equal(late.known(stretched, "days", 0), data.test.end)
