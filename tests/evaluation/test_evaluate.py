"""Evaluation of a small prepared log against a ranking in plain numpy, user by user."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from persrec import cells
from persrec.batches import Budget, collate, evaluation_windows
from persrec.errors import UserError
from persrec.evaluation import evaluate as evaluation
from persrec.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate, protocol
from persrec.models.model import Model
from persrec.prepared import Prepared
from persrec.training import module as training
from tests.small import events, model_of, prepared_of

SETTINGS: dict[str, Any] = {
    "k": (1, 5, 10),
    "exclude_seen": True,
    "users_per_chunk": 7,
    "length_buckets": (5, 20),
    "recent": 5,
    "split": "leave-one-out",
    "time": "last",
    "length": None,
}
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "seen items included": {"exclude_seen": False},
    "seen items at half their odds": {"exclude_seen": False, "seen_odds": 0.5},
    "last 7 events": {"length": 7},
    "time of the next event": {"time": "next"},
    "no time": {"time": "none"},
    "the last item of the catalogue": {"k": (30,)},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Prepared]:
    recipe, data = prepared_of(tmp_path_factory.mktemp("log"), events())
    return model_of(recipe, data.items_count), data


def found(world: tuple[Model, Prepared], **changes: Any) -> Evaluation:
    return evaluate(*world, EvaluationSettings(**(SETTINGS | changes)))


def slow_ranks(model: Model, data: Prepared, settings: dict[str, Any]) -> dict[int, float]:
    """Rank of every user's last event among all items, one user at a time."""
    vectors = model.vectors().detach().numpy()
    ranks = {}
    for user in range(data.users):
        first, last = data.offsets[user], data.offsets[user + 1]
        if last - first < 3:
            continue
        windows = evaluation_windows(np.array([user]), np.array([last - first - 1]), length=settings["length"])
        query = model.queries(collate(data, windows, time=settings["time"])).numpy()[0]
        target, seen = int(data.items[last - 1]), set(data.items[first : last - 1].tolist())
        rank, score = 1.0, vectors @ query
        score[list(seen)] += model.temperature * np.log(settings.get("seen_odds", 1))
        for item in range(1, len(vectors)):
            if item != target and not (settings["exclude_seen"] and item in seen):
                rank += float(score[item] > score[target])
        ranks[user] = rank
    return ranks


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_ranks_and_metrics_are_those_of_the_slow_way(world: tuple[Model, Prepared], changes: dict[str, Any]) -> None:
    got, ranks = found(world, **changes), slow_ranks(*world, SETTINGS | changes)
    deepest = max((SETTINGS | changes)["k"])
    assert got.user.tolist() == sorted(ranks)
    assert got.rank.tolist() == [rank if rank <= deepest else np.inf for rank in ranks.values()]
    summary = got.summary()["metrics"]
    for k in (SETTINGS | changes)["k"]:
        hits = [rank for rank in ranks.values() if rank <= k]
        count = len(ranks)
        assert summary[f"recall@{k}"]["mean"] == pytest.approx(len(hits) / count)
        assert summary[f"hit_rate@{k}"]["mean"] == pytest.approx(len(hits) / count)
        assert summary[f"ndcg@{k}"]["mean"] == pytest.approx(sum(1 / np.log2(rank + 1) for rank in hits) / count)
        assert summary[f"mrr@{k}"]["mean"] == pytest.approx(sum(1 / rank for rank in hits) / count)
        assert summary[f"ndcg@{k}"]["low"] <= summary[f"ndcg@{k}"]["mean"] <= summary[f"ndcg@{k}"]["high"]


def test_the_cases_differ(world: tuple[Model, Prepared]) -> None:
    ranks = [found(world, k=(30,), **{key: value for key, value in case.items() if key != "k"}).rank.tolist()
             for case in CASES.values()]  # fmt: skip
    assert len({tuple(some) for some in ranks}) == len(CASES) - 1


@pytest.mark.parametrize(("exclude_seen", "odds"), [(True, None), (False, None), (False, 0.5)])
def test_validation_by_torch_gives_the_ranks_of_faiss(
    world: tuple[Model, Prepared], exclude_seen: bool, odds: float | None
) -> None:
    model, data = world
    rules: dict[str, Any] = {"exclude_seen": exclude_seen, "seen_odds": odds}
    got = found(world, k=(30,), **rules)
    validation = training.Validation(data, data.test, Budget(6, 5, 300, None), length=None, time="last", **rules)
    assert len(validation) > 3
    ranks = {}
    for batch, targets, seen in (validation[index] for index in range(len(validation))):
        own = training.rank(model, batch, targets, seen, odds=odds)
        ranks |= dict(zip(batch.user.tolist(), own.tolist(), strict=True))
    assert [ranks[user] for user in got.user.tolist()] == got.rank.tolist()


def test_seen_targets_are_counted_and_ranked(world: tuple[Model, Prepared]) -> None:
    _, data = world
    got = found(world, k=(30,))
    again = [
        bool(np.isin(target, data.items[data.offsets[user] : data.offsets[user + 1] - 1]))
        for user, target in zip(got.user, got.targets.item, strict=True)
    ]
    assert 0 < sum(again) < len(again)
    assert got.summary()["protocol"]["targets_seen_before"] == sum(again)
    assert bool(np.isfinite(got.rank[again]).all())


def test_seen_items_are_those_of_the_whole_history(world: tuple[Model, Prepared]) -> None:
    """A history cut to one event excludes as much as before: the most active user can lose to few items only."""
    _, data = world
    got = found(world, k=(30,), length=1)
    longest = int(np.argmax(np.diff(data.offsets)))
    seen = len(set(data.items[data.offsets[longest] : data.offsets[longest + 1] - 1].tolist()))
    assert got.rank[got.user.tolist().index(longest)] <= data.items_count - seen + 1
    assert seen > 20


def test_buckets_by_history_length_add_up(world: tuple[Model, Prepared]) -> None:
    summary = found(world).summary()
    buckets = summary["groups"]["history length"]
    assert [bucket["group"] for bucket in buckets] == ["0-4", "5-19", "20+"]
    assert sum(bucket["targets"] for bucket in buckets) == summary["protocol"]["targets"]
    for metric, whole in summary["metrics"].items():
        parts = sum(bucket["targets"] * bucket["metrics"][metric]["mean"] for bucket in buckets)
        assert parts / summary["protocol"]["targets"] == pytest.approx(whole["mean"])


def test_empty_buckets_are_left_out(world: tuple[Model, Prepared]) -> None:
    buckets = found(world, length_buckets=(1, 1000)).summary()["groups"]["history length"]
    assert [bucket["group"] for bucket in buckets] == ["1-999"]


def test_memory_bytes_by_hand(world: tuple[Model, Prepared]) -> None:
    """Two tokens of 8 float32 numbers per closed segment, for the one layer above the first."""
    _, data = world
    closed = [max(0, (n - 1 - 5) // 6) for n in np.diff(data.offsets) if n >= 3]
    assert found(world).bytes_per_user == pytest.approx(np.mean(closed) * 2 * 8 * 4)


def test_where_tokens_begin_as_means_layer_1_is_stored_too(tmp_path: Path) -> None:
    memory = {"segment": 6, "recent": 5, "tokens": 2, "begin": "means"}
    recipe, data = prepared_of(tmp_path, events(), memory=memory)
    closed = [max(0, (n - 1 - 5) // 6) for n in np.diff(data.offsets) if n >= 3]
    world = model_of(recipe, data.items_count), data
    assert found(world).bytes_per_user == pytest.approx(np.mean(closed) * 2 * 8 * 4 * 2)


def test_chunks_and_batches_change_nothing(world: tuple[Model, Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    once = found(world, k=(30,))
    monkeypatch.setattr(evaluation, "rows_of_reads", lambda device: 50)
    again = found(world, k=(30,), users_per_chunk=1)
    assert again.rank.tolist() == once.rank.tolist()


def test_k_above_the_catalogue_is_refused(world: tuple[Model, Prepared]) -> None:
    with pytest.raises(UserError, match=r"k: got 31, expected a whole number from 1 to 30.*evaluation\.k"):
        found(world, k=(31,))


def test_a_model_in_training_stays_so_and_is_evaluated_without_dropout(world: tuple[Model, Prepared]) -> None:
    model, _ = world
    model.train()
    got = found(world)
    assert model.training
    model.eval()
    assert got.rank.tolist() == found(world).rank.tolist()


def test_progress_is_told_by_queries(world: tuple[Model, Prepared]) -> None:
    counts: list[int] = []
    got = evaluate(*world, EvaluationSettings(**SETTINGS), on_queries=counts.append)
    assert sum(counts) == len(got.user)


def test_a_model_that_diverged_is_an_error(world: tuple[Model, Prepared]) -> None:
    model, data = world
    broken = copy.deepcopy(model)
    item = int(data.items[data.offsets[data.test.user[1]]])
    with torch.no_grad():
        broken.items.table[item] = float("nan")
    reached = [user for user, end in zip(data.test.user, data.test.end, strict=True) if item in had(data, user, end)]
    name = data.user_ids()[int(reached[0])].as_py()
    with pytest.raises(UserError, match=f"the query of user '{name}' is not finite .* training has diverged: lower"):
        evaluate(broken, data, EvaluationSettings(**SETTINGS))


def had(data: Prepared, user: int, end: int) -> list[int]:
    """The items of a user before an event."""
    return data.items[data.offsets[user] : data.offsets[user] + end].tolist()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("hnsw", {"breadth": 64}), ("ivf", {"lists": 5, "probes": 5}), ("ivf", {"lists": 6, "probes": 1})],
)
def test_an_index_is_measured_and_set_to_exact_it_changes_nothing(
    world: tuple[Model, Prepared], kind: str, options: dict[str, int]
) -> None:
    exact, got = found(world), found(world, retrieval=kind, retrieval_options=options)
    told = got.summary()["protocol"]["retrieval"]
    assert told["kind"] == kind
    assert told["nbytes"] > 0
    assert told["milliseconds"] > 0
    assert told["exact_milliseconds"] > 0
    assert told["exact_nbytes"] == 30 * 8 * 4
    if options.get("probes") == 1:
        assert told["recall"] < 1
        assert (got.rank >= exact.rank).mean() < 1 or not np.array_equal(got.rank, exact.rank)
    else:
        assert told["recall"] == 1
        assert got.rank.tolist() == exact.rank.tolist()
        assert got.lists.tolist() == exact.lists.tolist()
    assert exact.summary()["protocol"]["retrieval"] == {"kind": "flat"}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"kind": "ivf_pq"}, "retrieval.kind: got ivf_pq for 30 items, expected at least 256"),
        ({"kind": "ivf", "lists": 31}, "retrieval.lists: got 31, expected at most 30"),
    ],
)
def test_an_index_that_cannot_be_is_refused_before_a_model_is_trained(
    tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    chosen, data = prepared_of(tmp_path, events(), retrieval=keys)
    with pytest.raises(UserError, match=expected):
        cells.fit(chosen.grid()[0], data, tmp_path / "run", resume=False, overwrite=False, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "same"), [({"lists": 4, "probes": 4, "rescore": 400}, True), ({"lists": 8, "probes": 1}, False)]
)
def test_codes_by_recipe_are_measured_and_set_to_exact_change_nothing(
    tmp_path: Path, keys: dict[str, int], same: bool
) -> None:
    """By the recipe's section, on a catalogue that is large enough for codes to be learned."""
    chosen, data = prepared_of(
        tmp_path, events(users=120, items=400), retrieval={"kind": "ivf_pq", "code_bytes": 4, **keys}
    )
    model = model_of(chosen, data.items_count)
    assert data.items_count > 256
    got = evaluate(model, data, protocol(chosen))
    exact = evaluate(model, data, replace(protocol(chosen), retrieval="flat", retrieval_options={}))
    told = got.summary()["protocol"]["retrieval"]
    assert (told["kind"], told["recall"] == 1) == ("ivf_pq", same)
    assert told["nbytes"] > 0
    assert (got.lists.tolist() == exact.lists.tolist()) == same
    assert (got.rank.tolist() == exact.rank.tolist()) or not same


def test_lists_as_wholes(world: tuple[Model, Prepared]) -> None:
    _, data = world
    got = found(world)
    lists = evaluation.list_metrics(got, data)
    assert lists["coverage"] == len(np.unique(got.lists[got.lists > 0])) / 30
    assert 0 < lists["gini"] < 1
    assert 0 < lists["diversity"] < 2
    popularity = data.training_events_per_item[got.lists[got.lists > 0]].mean()
    assert lists["average_popularity"] == pytest.approx(popularity, rel=0.1)
    assert lists["novelty"] > 0


@pytest.mark.parametrize("time", ["none", "last", "next"])
@pytest.mark.parametrize("history", ["compressed", "recent", "full"])
def test_many_queries_of_a_user_are_read_in_one_pass_as_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, history: str, time: str
) -> None:
    recipe, data = prepared_of(tmp_path_factory.mktemp("log"), events(), history=history)
    model = model_of(recipe, data.items_count)
    lengths = np.diff(data.offsets)
    user = np.repeat(np.arange(data.users), lengths - 1)
    end = np.concatenate([np.arange(1, length) for length in lengths])
    some = np.random.default_rng(0).permutation(np.flatnonzero(user != 3))
    windows = evaluation_windows(user[some], end[some], length=None)
    counts: list[int] = []
    together = evaluation.read_users(model, data, windows, time, on_queries=counts.append)
    assert len(np.unique(windows.user)) * evaluation.TOGETHER <= len(some) == sum(counts)
    alone = [evaluation.read_users(model, data, windows.take(np.array([row])), time) for row in range(len(some))]
    np.testing.assert_allclose(together.queries, np.concatenate([one.queries for one in alone]), atol=1e-5)
