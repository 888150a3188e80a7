"""What benchmarks/peers.py counts and scores, by hand."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import machine, peers
from benchmarks.peers_persrec import Questions, cell_of, from_store
from benchmarks.peers_rows import Measured, cell_row, pair_rows
from benchmarks.peers_shared import Asked, Log, Settings, found, keep, lists_of, ndcg, recall
from persrec.models.model import Model
from persrec.recipe.recipe import Recipe
from tests.small import events, model_of, prepared_of

ITEMS = np.array([5, 6, 7, 1, 2, 3, 4])


def log() -> Log:
    """A user of three events and one of four; the last ones are asked for, before them the validation's."""
    return Log(
        np.array([0, 3, 7]),
        ITEMS,
        ITEMS * 1000,
        np.array([1, 2]),
        Asked(np.array([0, 1]), np.array([1, 2])),
        Asked(np.array([0, 1]), np.array([2, 3])),
    )


def settings(**changed: Any) -> Settings:
    numbers = {"negatives": 4, "width": 8, "layers": 2, "heads": 2, "length": 20, "batch": 16, "epochs": 3, "seed": 1}
    names = {"model": "hstu", "sampling": "negatives", "time": "next", "folder": "", "recipe": "", "history": "full"}
    return Settings(**numbers | names | {"events": None, "dropout": 0.1, "overrides": ()} | changed)  # type: ignore[arg-type]


def measured(library: str, validation: list[float], values: list[float], **costs: float) -> Measured:
    """Epochs of 10 seconds."""
    seconds = [10.0 * (epoch + 1) for epoch in range(len(validation))]
    about = {"seconds": seconds, "cpu_seconds": seconds, "validation": validation, "recommend_seconds": 3.0}
    about |= {"metrics_seconds": 1.0, "peak_mb": 500.0} | costs
    return Measured(library, settings(), about, np.array(values), np.array(values))


def test_scores_of_lists_by_hand() -> None:
    lists = lists_of([0, 0, 1], [1, 2, 3], [7, 9, 4], queries=2)
    assert lists[:, :3].tolist() == [[7, 9, 0], [0, 0, 4]]
    assert ndcg(lists, np.array([9, 4])).tolist() == pytest.approx([1 / np.log2(3), 0.5])
    assert recall(lists, np.array([9, 5])).tolist() == [1.0, 0.0]


def test_queries_see_what_lies_before_them() -> None:
    query, place = log().events(*log().test)
    assert query.tolist() == [0, 0, 1, 1, 1]
    assert ITEMS[place].tolist() == [5, 6, 1, 2, 3]
    assert log().targets(log().test).tolist() == [7, 4]
    assert log().targets(log().validation).tolist() == [6, 3]
    asked = log().at(log().test)
    assert asked is not None
    assert asked.tolist() == [7000, 4000]


def test_a_log_is_what_was_saved_with_or_without_its_times(tmp_path: Path) -> None:
    log().save(tmp_path / "log.npz")
    again = Log.load(tmp_path / "log.npz", timed=True)
    np.testing.assert_equal(asdict(again), asdict(log()))
    assert Log.load(tmp_path / "log.npz", timed=False).times is None


def test_a_cell_is_what_was_kept(tmp_path: Path) -> None:
    lists = np.arange(20).reshape(2, 10)
    keep(tmp_path / "cell.npz", settings(), lists, {"peak_mb": 7.0})
    again, about = found(tmp_path / "cell.npz")
    assert again.tolist() == lists.tolist()
    assert about["peak_mb"] == 7.0
    assert about["settings"]["sampling"] == "negatives"
    assert [path.name for path in tmp_path.iterdir()] == ["cell.npz"]


def test_the_target_is_reached_at_the_end_of_the_first_epoch_that_is_as_good() -> None:
    users = np.arange(2)
    row = cell_row(measured("persrec", [0.1, 0.3, 0.2], [0.5, 0.7]), 0.2, users)
    assert (row["seconds_per_epoch"], row["seconds_to_target"], row["best_epoch"]) == (10.0, 20.0, 2)
    assert row["ndcg10"] == pytest.approx(0.6)
    assert cell_row(measured("persrec", [0.1], [0.5, 0.7]), 0.2, users)["seconds_to_target"] is None


def test_compressed_histories_are_of_any_length_and_their_rows_say_so(tmp_path: Path) -> None:
    given: dict[str, Any] = {"overrides": [], "seeds": [1], "models": ["hstu/negatives"], "negatives": 4, "epochs": 1}
    arguments = Namespace(**given, histories=None, rectools_epochs=None, out=tmp_path)
    for name in ("ml-100k", "ml-1m"):
        todo = list(peers.cells(name, arguments, tmp_path))
        assert [(cell.library, cell.settings.history, cell.settings.length) for cell in todo] == [
            ("rectools", "full", 200),
            ("persrec", "full", 200),
            ("persrec", "compressed", None),
        ]
        plain, compressed = (cell_of(cell.settings) for cell in todo[1:])
        assert (plain.length, plain.training.batch_users, plain.training.batch_events) == (200, 128, None)
        assert (compressed.length, compressed.training.batch_users) == (None, 128)
        assert compressed.training.batch_events == 128 * 200, "no more events in a step than RecTools has at most"
    row = cell_row(measured("persrec", [0.1], [0.5, 0.7]), 0.1, np.arange(2))
    assert (row["length"], row["histories"]) == (20, "the last 20 events")
    any_length = measured("persrec", [0.1], [0.5, 0.7])._replace(settings=settings(length=None))
    assert cell_row(any_length, 0.1, np.arange(2))["histories"] == "of any length"


def questions(folder: Path, **changes: Any) -> tuple[Model, Recipe, Questions]:
    """Of a model of random weights: 40 users are asked for their last events."""
    cell, data = prepared_of(folder, events(), time="next", **changes)
    model = model_of(cell, data.items_count)
    model.compressor.maker = model.maker()  # type: ignore[attr-defined]
    return model, cell, Questions(peers.log_of(data), cell, data.items_count)


def test_a_store_of_memories_answers_as_the_histories_that_are_asked_at_the_same_times(tmp_path: Path) -> None:
    model, cell, asked = questions(tmp_path)
    assert from_store(model, cell, asked)["same_from_memory"] == 1
    late, last = asked.recommend(model), asked.recommend(model, at_last=True)
    assert not late.equals(last), "the time of the question says something here"
    lists = asked.lists(late)
    own = {name: value for name, value in asked.measure(late).items() if name in ("recall@10", "ndcg@10")}
    assert own == pytest.approx({f"{of.__name__}@10": of(lists, asked.targets).mean() for of in (recall, ndcg)})
    assert own["recall@10"] > 0


def test_a_store_of_raw_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="keeps raw events, and is no store of memories"):
        from_store(*questions(tmp_path, length=20))


def test_persrec_over_rectools() -> None:
    ours = {1: measured("persrec", [0.3], [0.4, 0.8], recommend_seconds_from_memory=0.5, peak_mb=250.0)}
    theirs = {1: measured("rectools", [0.1, 0.2], [0.2, 0.4], recommend_seconds=9.0)}
    rows = {row["metric"]: row for row in pair_rows(ours, theirs, {1: 0.2}, np.arange(2))}
    assert rows["ndcg10"]["mean"] == pytest.approx(2)
    assert rows["seconds_to_target"]["mean"] == pytest.approx(0.5)
    assert not rows["seconds_to_target"]["met"]
    assert rows["answer_seconds"]["mean"] == pytest.approx(0.4)
    assert rows["answer_seconds_from_memory"]["mean"] == pytest.approx(0.15)
    assert rows["peak_mb"]["met"]


def test_rows_of_other_data_sets_are_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "peers.json")
    assert peers.others(path, ["ml-1m"]) == []
    machine.write(path, [{"dataset": "ml-100k", "ndcg10": 0.1}, {"dataset": "ml-1m", "ndcg10": 0.2}])
    kept = peers.others(path, ["ml-1m"])
    machine.write(path, [{"dataset": "ml-1m", "ndcg10": 0.3}], keep=kept)
    assert [(row["dataset"], row["ndcg10"]) for row in machine.rows_of(path)] == [("ml-100k", 0.1), ("ml-1m", 0.3)]
