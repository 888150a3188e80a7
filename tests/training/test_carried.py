"""What events carry, from columns of a log to loss weights and inputs: by hand, without leaks, trained and served."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from persrec import cells
from persrec.batches import History, collate, evaluation_windows
from persrec.errors import UserError
from persrec.event_inputs import bucket, size, target_weights
from persrec.interactions.prepare import prepare
from persrec.models.build import build
from persrec.models.model import Model
from persrec.prepared import Prepared, open_prepared
from persrec.recipe.recipe import Recipe, load, parse
from persrec.run import save
from persrec.serving.recommender import Recommender
from persrec.training import settings
from persrec.training.objective import LossSettings, objective
from tests.small import events, model_of, prepared_of, recipe_of

TYPES = ["view", "cart", "buy"]
DATA = {"source": "table", "events": TYPES, "keep": ["weight", "dwell", "event"]}
INPUTS = ["rating", "weight", "dwell", "event"]


def carrying(seed: int = 0) -> pl.DataFrame:
    """A log whose events have ratings, weights, dwell times and types."""
    frame, random = events(), np.random.default_rng(seed)
    count = len(frame)
    return frame.with_columns(
        pl.Series("rating", random.integers(1, 11, count) / 2),
        pl.Series("weight", random.uniform(0, 3, count)),
        pl.Series("dwell", random.exponential(60, count)),
        pl.Series("event", random.choice(TYPES, count)),
    )


def world(
    folder: Path, frame: pl.DataFrame, inputs: list[str] = INPUTS, kind: str = "hstu", **changes: Any
) -> tuple[Recipe, Prepared]:
    frame.write_csv(folder / "log.csv")
    model = {"kind": kind, "layers": 2, "width": 8, "heads": 2, "dropout": 0.0, "inputs": inputs}
    recipe = recipe_of(
        folder / "log.csv", **{"data": DATA | {"path": str(folder / "log.csv")}, "model": model, **changes}
    )
    return recipe, settings.carrying(open_prepared(prepare(recipe.data, recipe.name, folder / "prepared")), recipe)


def test_prepared_data_keeps_what_is_asked_for_in_the_order_of_the_events(tmp_path: Path) -> None:
    frame = carrying()
    _, data = world(tmp_path, frame)
    users = data.user_ids().to_pylist()
    rows = [
        row for user in users for row in frame.filter(pl.col("user_id") == user).sort("timestamp").iter_rows(named=True)
    ]
    assert data.ratings is not None
    assert data.ratings.tolist() == pytest.approx([row["rating"] for row in rows])
    assert data.weights.tolist() == pytest.approx([row["weight"] for row in rows])
    assert data.dwells.tolist() == pytest.approx([row["dwell"] for row in rows], rel=1e-6)
    assert data.events.tolist() == [TYPES.index(row["event"]) + 1 for row in rows]


def test_a_folder_without_them_is_read_and_keeps_its_name(tmp_path: Path) -> None:
    events().write_csv(tmp_path / "log.csv")
    plain = recipe_of(tmp_path / "log.csv").data
    folder = prepare(plain, "log", tmp_path)
    data = open_prepared(folder)
    assert (data.weights, data.dwells, data.events, data.inputs) == (None, None, None, ())
    assert prepare({"source": "table", "path": str(tmp_path / "log.csv"), "keep": []}, "log", tmp_path) == folder


def test_columns_that_are_not_there_or_negative_are_refused(tmp_path: Path) -> None:
    events().write_csv(tmp_path / "log.csv")
    with pytest.raises(UserError, match=r"data.keep asks for dwell, but there is no such column; got user_id, item_id"):
        prepare({"source": "table", "path": str(tmp_path / "log.csv"), "keep": ["dwell"]}, "log", tmp_path)
    carrying().with_columns(weight=pl.lit(-1.0)).write_csv(tmp_path / "bad.csv")
    with pytest.raises(UserError, match="negative"):
        prepare({"source": "table", "path": str(tmp_path / "bad.csv"), "keep": ["weight"]}, "bad", tmp_path)
    recipe = recipe_of(tmp_path / "log.csv", loss={"weight_by": "rating"})
    data = open_prepared(prepare(recipe.data, "log", tmp_path))
    with pytest.raises(
        UserError, match=r"read rating, but the log of small has no such column; name it by data.columns"
    ):
        settings.carrying(data, recipe)
    nothing, data = prepared_of(tmp_path, events().with_columns(rating=pl.lit(0.0)), loss={"weight_by": "rating"})
    with pytest.raises(UserError, match=r"loss.weight_by: rating, but none of small is above 0, so that no target"):
        settings.carrying(data, nothing)


def test_recipes_name_what_must_be_kept() -> None:
    with pytest.raises(UserError) as told:
        load("quickstart", ["model.inputs=[dwell, event]", "loss.weight_by={buy: 2}", "data.keep=[event]"])
    with pytest.raises(UserError) as more:
        load("quickstart", ["model.inputs=[weight]", "data.min_weight=0.5", "data.min_dwell=30", "data.keep=[weight]"])
    assert "data.min_dwell: reads dwell, expected it in data.keep, which is ['weight']" in str(more.value)
    assert "weight, expected" not in str(more.value)
    for sentence in (
        "model.inputs: reads dwell, expected it in data.keep, which is ['event']",
        "data.keep: keeps event, expected data.events to list the types that count",
        "loss.weight_by: got buy, expected types of data.events = []",
    ):
        assert sentence in str(told.value)
    with pytest.raises(UserError, match=r"loss.weight_by"):
        load("quickstart", ["loss.weight_by={buy: -2}"])
    types = ["data.events=[buy, view]", "data.keep=[event]"]
    with pytest.raises(UserError, match=r"expected a type of data.events that counts more than 0"):
        load("quickstart", [*types, "loss.weight_by={buy: 0, view: 0}"])
    assert load("quickstart", [*types, "loss.weight_by={buy: 0}"]).loss.weight_by == {"buy": 0}
    assert load("quickstart", ["data.events=[1, true]"]).data.events == ("1", "true")


def test_buckets_by_hand() -> None:
    ratings = np.array([np.nan, 0, 0.5, 5, 10, 99, -1], dtype=np.float32)
    assert bucket("rating", ratings).tolist() == [0, 1, 2, 11, 21, 21, 1]
    weights = np.array([np.nan, 0, 1e-9, 2**-16, 0.5, 0.99, 1, 1.99, 2, 100, 2**15, 1e30], dtype=np.float32)
    assert bucket("weight", weights).tolist() == [0, 1, 2, 2, 17, 17, 18, 18, 19, 24, 33, 33]
    dwells = np.array([np.nan, 0, 1, 2.9, 3, 1e30, -5], dtype=np.float32)
    assert bucket("dwell", dwells).tolist() == [0, 1, 2, 2, 3, 33, 1]


@given(some.floats(0, 2**20, width=32))
def test_every_input_has_a_bucket(value: float) -> None:
    for name in INPUTS[:3]:
        found = bucket(name, np.array([value, 2 * value], dtype=np.float32))
        assert 1 <= found[0] <= found[1] < size(name, 0)
        assert name != "weight" or found[1] == (found[0] if value == 0 else min(found[0] + (value >= 2**-16), 33))


def test_targets_count_as_their_own_event_says(tmp_path: Path) -> None:
    _, data = world(tmp_path, carrying())
    users = np.argsort(-np.diff(data.offsets), kind="stable")[:2]
    windows = evaluation_windows(users, np.array([6, 4]), length=None)
    for by, of in (
        ("rating", lambda at: data.ratings[at]),
        ("weight", lambda at: data.weights[at]),
        ("dwell", lambda at: math.log1p(data.dwells[at])),
        ({"buy": 5.0, "view": 0.0}, lambda at: {1: 0.0, 2: 1.0, 3: 5.0}[int(data.events[at])]),
    ):
        weights = partial(target_weights, data, by, TYPES)  # type: ignore[arg-type]
        found = collate(data, windows, weights=weights).history.weight
        for row, user in enumerate(users):
            first = data.offsets[user]
            expected = [of(first + place + 1) for place in range([6, 4][row])]
            assert found[row, : len(expected)].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_weighted_mean(tmp_path: Path) -> None:
    """Weights of 0 and 1 give the mean over the targets that count; weights alike give the plain mean."""
    recipe, data = world(tmp_path, carrying(), history="full")
    model = build(recipe, items=data.items_count).eval()
    windows = evaluation_windows(np.array([0]), np.array([20]), length=None)
    settings = LossSettings(kind="full")

    def loss(weights: np.ndarray | None, keep: torch.Tensor | None = None) -> float:
        batch = collate(data, windows, time="last", weights=None if weights is None else weights.__getitem__)
        if keep is not None:
            batch = batch._replace(history=batch.history.without_targets(~keep))
        return objective(model, batch, settings, reads_all=True).loss.item()

    bought = (data.events == 3).astype(np.float32)
    counted = torch.from_numpy(bought[data.offsets[0] + 1 : data.offsets[0] + 21] > 0)[None]
    assert loss(bought) == pytest.approx(loss(None, counted), rel=1e-5)
    assert loss(np.full(len(bought), 3, np.float32)) == pytest.approx(loss(None), rel=1e-5)
    assert loss(bought) != pytest.approx(loss(None), rel=1e-3)


def test_inputs_start_as_a_model_without_them(tmp_path: Path) -> None:
    recipe, data = world(tmp_path, carrying())
    batch = collate(data, evaluation_windows(np.arange(3), np.array([40, 30, 20]), length=None), time="last")
    with_inputs = build(recipe, items=data.items_count).eval()
    plain = build(
        parse({**recipe.dump(), "model": {**recipe.dump()["model"], "inputs": []}}, "plain"), items=data.items_count
    )
    history = batch.history._replace(inputs=None)
    assert torch.equal(with_inputs.queries(batch), plain.eval().queries(batch._replace(history=history)))


LEAKING = [("hstu", "full"), ("hstu", "recent"), ("hstu", "compressed"), ("decoder", "full"), ("decoder", "compressed")]


@pytest.fixture(scope="module", params=LEAKING, ids=" ".join)
def leaking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Prepared]:
    kind, history = request.param
    time = "none" if kind == "decoder" else "last"
    recipe, data = world(tmp_path_factory.mktemp("leak"), carrying(), kind=kind, history=history, time=time)
    return model_of(recipe, data.items_count), data


@given(changed=some.integers(0, 44), user=some.integers(0, 1))
def test_no_row_sees_the_inputs_of_its_target_or_later(
    leaking: tuple[Model, Prepared], changed: int, user: int
) -> None:
    """Other inputs of event i change no row before i, neither in a segment nor in an open block, but row i itself."""
    model, data = leaking
    longest = np.argsort(-np.diff(data.offsets), kind="stable")[[user]]
    ends = np.diff(data.offsets)[longest]
    at = changed % int(ends[0])
    place = data.offsets[longest[0]] + at
    assert data.ratings is not None
    assert data.weights is not None
    assert data.dwells is not None
    assert data.events is not None
    ratings, weights, dwells = data.ratings.copy(), data.weights.copy(), data.dwells.copy()
    kinds = data.events.copy()
    ratings[place], weights[place], dwells[place], kinds[place] = 9.5, 100.0, 5000.0, kinds[place] % 3 + 1
    twin = replace(data, ratings=ratings, weights=weights, dwells=dwells, events=kinds)

    def rows(log: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden rows, and the positions of their events."""
        hidden, position = [], []

        def score(found: torch.Tensor, history: History) -> None:
            hidden.append(found[history.valid])
            position.append(history.position[history.valid])

        model(collate(log, evaluation_windows(longest, ends, length=None), time="last"), score=score)
        return torch.cat(hidden), torch.cat(position)

    (before, position), (after, _) = rows(data), rows(twin)
    assert len(before) >= ends[0]
    assert torch.equal(before[position < at], after[position < at])
    assert not torch.allclose(before[position == at], after[position == at])


def run_of_inputs(folder: Path, frame: pl.DataFrame, **changes: Any) -> Path:
    """A run folder whose model was never trained and reads inputs."""
    recipe, data = world(folder, frame, **changes)
    return save(
        folder / "run",
        recipe=recipe.dump(),
        weights=model_of(recipe, data.items_count).state_dict(),
        data={"hash": data.hash, "folder": str(data.folder)},
        items=data.folder / "items.arrow",
        metrics={},
        targets=pa.table({"rank": [1.0]}),
    ).folder


@pytest.mark.parametrize("history", ["full", "recent", "compressed"])
def test_histories_given_at_serving_are_answered_as_the_log_is(tmp_path: Path, history: str) -> None:
    frame = carrying()
    run = run_of_inputs(tmp_path, frame, history=history)
    recommender = Recommender.load(run)
    users = ["ü-0", "ü-3", "ü-9"]
    expected = recommender.recommend(users, k=5)
    given_ones = frame.filter(pl.col("user_id").is_in(users))
    found = recommender.recommend(histories=given_ones, k=5)
    key = ["user_id", "rank"]
    assert found.sort(key)["item_id"].to_list() == expected.sort(key)["item_id"].to_list()
    assert found.sort(key)["score"].to_list() == pytest.approx(expected.sort(key)["score"].to_list(), abs=1e-5)
    for other in ({"rating": pl.lit(0.5)}, {"weight": pl.lit(64.0)}, {"dwell": pl.lit(0.0)}, {"event": pl.lit("buy")}):
        changed = recommender.recommend(histories=given_ones.with_columns(**other), k=5).sort(key)["score"].to_list()
        assert changed != pytest.approx(expected.sort(key)["score"].to_list(), abs=1e-4), f"{other} is read"
    with pytest.raises(UserError, match="histories: no rating column, but this model reads rating "):
        recommender.recommend(histories=given_ones.drop("rating"), k=5)


STORED: dict[str, dict[str, Any]] = {
    "without times": {"time": "none"},
    "last": {"time": "last"},
    "next": {"time": "next"},
    "decoder": {"time": "none", "kind": "decoder"},
    "raw": {"time": "last"},
    "length": {"time": "last", "length": 20},
}


@pytest.mark.parametrize("history", ["full", "recent", "compressed"])
@pytest.mark.parametrize("form", list(STORED))
def test_a_store_keeps_what_events_carry(tmp_path: Path, history: str, form: str) -> None:
    """Made of a part of the log and updated with the rest, it answers as the whole histories do."""
    frame, time = carrying().sort("timestamp"), STORED[form]["time"]
    run = run_of_inputs(tmp_path, frame, history=history, **STORED[form])
    recommender = Recommender.load(run, tmp_path / "store")
    earlier = frame.filter(pl.int_range(pl.len()).over("user_id") < pl.len().over("user_id") - 3)
    recommender.compress(earlier, raw=form == "raw")
    later = frame.join(earlier, on=["user_id", "item_id", "timestamp"], how="anti", maintain_order="left")
    for part in (later[::2].sort("timestamp"), later[1::2].sort("timestamp")) if time != "none" else (later,):
        recommender.update(part)
    users = frame["user_id"].unique(maintain_order=True).to_list()
    found = recommender.recommend(users, k=30)
    expected = Recommender.load(run).recommend(histories=frame, k=30)
    key = ["user_id", "item_id"]
    assert found.sort(key)["score"].to_list() == pytest.approx(expected.sort(key)["score"].to_list(), abs=1e-4)
    recommender.rebuild(users, frame)
    again = recommender.recommend(users, k=30)
    assert again.sort(key)["score"].to_list() == pytest.approx(expected.sort(key)["score"].to_list(), abs=1e-4)


def test_a_store_of_a_model_that_reads_other_inputs_is_refused(tmp_path: Path) -> None:
    for name, inputs in (("one", ["rating", "dwell"]), ("other", ["dwell", "rating"])):
        (tmp_path / name).mkdir()
        run_of_inputs(tmp_path / name, carrying(), inputs=inputs)
    Recommender.load(tmp_path / "one" / "run", tmp_path / "store").compress()
    with pytest.raises(UserError, match=r"was made by another model .*inputs: got \[\['rating'\], \['dwell'\]\], "):
        Recommender.load(tmp_path / "other" / "run", tmp_path / "store").recommend(["ü-0"])


def test_histories_in_another_form_lack_what_the_model_reads(tmp_path: Path) -> None:
    run = run_of_inputs(tmp_path, carrying(), inputs=["weight"])
    (tmp_path / "later.dat").write_text("1::2::4::1700000000\n")
    with pytest.raises(UserError, match=r"histories: no weight column, but this model reads weight \(model.inputs\)"):
        Recommender.load(run).recommend(histories=tmp_path / "later.dat")


def test_an_adopted_store_keeps_what_open_events_carry(tmp_path: Path) -> None:
    """And one whose types are numbered otherwise is not taken over."""
    frame = carrying()
    runs = {}
    for name, types in (("old", TYPES), ("new", TYPES), ("other", TYPES[::-1])):
        (tmp_path / name).mkdir()
        data = DATA | {"path": str(tmp_path / name / "log.csv"), "events": types}
        runs[name] = Recommender.load(run_of_inputs(tmp_path / name, frame, data=data), tmp_path / name / "store")
    with runs["old"] as old, runs["new"] as new, runs["other"] as other:
        old.compress()
        new.adopt(old)
        short = [user for user, events in old.memory().select("user_id", "events").iter_rows() if events < 11]
        expected = new.recommend(histories=frame.filter(pl.col("user_id").is_in(short)), k=30)
        found, key = new.recommend(short, k=30), ["user_id", "item_id"]
        assert found.sort(key)["score"].to_list() == pytest.approx(expected.sort(key)["score"].to_list(), abs=1e-4)
        with pytest.raises(UserError, match=r"\['event', 'view', 'cart', 'buy'\]\] then, .*'event', 'buy', 'cart',"):
            other.adopt(old)


@pytest.mark.parametrize("kind", ["hstu", "decoder"])
def test_a_type_that_decides_the_next_item_is_learned(tmp_path: Path, kind: str) -> None:
    """After a `buy` comes the other item, after a `view` the same one: items alone cannot tell."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(60):
        item = int(random.integers(2))
        for moment in range(20):
            done = str(random.choice(["view", "buy"]))
            rows.append((user, f"i{item}", 1000 * moment, done))
            item = 1 - item if done == "buy" else item
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "event"], orient="row")
    frame.write_csv(tmp_path / "log.csv")
    losses = {}
    for name, inputs in (("with", ["event"]), ("without", [])):
        data = {"source": "table", "path": str(tmp_path / "log.csv"), "events": ["view", "buy"], "keep": ["event"]}
        recipe = recipe_of(
            tmp_path / "log.csv",
            data=data,
            model={"kind": kind, "layers": 2, "width": 16, "heads": 2, "dropout": 0.0, "inputs": inputs},
            time="none" if kind == "decoder" else "last",
            loss={"kind": "full"},
            evaluation={"k": [1], "exclude_seen": False},
            primary="ndcg@1",
            training={
                "epochs": 8,
                "batch_users": 10,
                "learning_rate": 0.01,
                "warmup_steps": 0,
                "ema": None,
                "threads": 1,
            },
        )
        log = open_prepared(prepare(recipe.data, recipe.name, tmp_path / "prepared"))
        cells.train(recipe, log, tmp_path / name)
        table = pl.read_csv(tmp_path / name / "training.csv")
        losses[name] = float(table["train_loss"].drop_nulls()[-1])
    assert losses["with"] < 0.2
    assert losses["without"] > 0.6  # log 2 is 0.69
