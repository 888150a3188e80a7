"""Memories exchanged between readers, in batches of several and of one, boundaries that are moved, and full models that
read recent events alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from persrec.evaluation import evaluate as evaluation
from persrec.evaluation import memory_tests as tested
from persrec.evaluation.evaluate import EvaluationSettings, evaluate
from persrec.evaluation.memory_tests import Exchange, history_tests, memory_tests
from persrec.models import compressor
from persrec.report import worth_sheets
from persrec.targets import targets_of
from tests.evaluation.test_evaluate import SETTINGS
from tests.models.test_memory import given, memory_of
from tests.small import events, model_of, prepared_of


def test_who_is_alone_in_a_batch_reads_one_of_an_earlier_one() -> None:
    exchange = Exchange()
    assert given(exchange(memory_of(3, 0), torch.tensor([10, 11]))) == [None, None], "nobody was read before"
    assert given(exchange(memory_of(3), torch.tensor([12]))) == [0], "user 10, first of its batch"
    assert given(exchange(memory_of(7), torch.tensor([12]))) == [0], "its own earlier memory is none of another user"
    assert exchange.got_none == 1 / 3


@pytest.fixture(scope="module")
def tests_of_one_each(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The tests of a model whose batches are of one user each, as those of long histories nearly are."""
    recipe, data = prepared_of(tmp_path_factory.mktemp("log"), events())
    model, settings = model_of(recipe, data.items_count), EvaluationSettings(**SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "rows_of_reads", lambda device: 1)
        return memory_tests(model, data, settings, evaluate(model, data, settings), "ndcg@10")


def test_batches_of_one_user_exchange_memories_too(tests_of_one_each: list[dict[str, Any]]) -> None:
    emptied, other = tests_of_one_each[:2]
    assert other["memory"] == "of another user"
    assert 0 < other["got_none"] < 0.05, "the one with the fewest segments"
    assert other["ndcg@10"] != emptied["ndcg@10"]


def test_boundaries_stand_where_they_are_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S = 6 and R = 5: who has 11 events or more has a memory, of all events that are not clear."""
    had = [23, 17, 15, 12, 11, 10, 5, 2]  # events before the one that is asked for
    users = np.repeat([f"user {number}" for number in range(len(had))], np.array(had) + 1)
    items = np.random.default_rng(0).integers(0, 30, len(users))
    frame = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": 1_700_000_000_000 + np.arange(len(users))})
    recipe, data = prepared_of(tmp_path, frame)
    model, settings = model_of(recipe, data.items_count), EvaluationSettings(**SETTINGS)
    found = evaluate(model, data, settings)
    reads: list[tuple[list[int], list[int]]] = []
    read = compressor.read

    def seen(*given: Any, **options: Any) -> Any:
        hidden, clear = read(*given, **options)
        order = given[2].user.argsort()
        reads.append((clear.valid.sum(dim=1)[order].tolist(), given[5].count[order].tolist()))
        return hidden, clear

    monkeypatch.setattr(compressor, "read", seen)
    rows = memory_tests(model, data, settings, found, "ndcg@10")
    assert [row["memory"] for row in rows[2:]] == ["5 clear events", "8 clear events", "10 clear events"]
    assert len(reads) == len(rows), "one batch each"
    assert [clear for clear, _ in reads[1:]] == [
        [5, 5, 9, 6, 5, 10, 5, 2],
        [5, 5, 5, 5, 5, 10, 5, 2],
        [8, 8, 8, 8, 8, 10, 5, 2],
        [10, 10, 10, 10, 10, 10, 5, 2],
    ]
    assert [folded for _, folded in reads[2:]] == [
        [18, 12, 10, 7, 6, 0, 0, 0],
        [15, 9, 7, 4, 3, 0, 0, 0],
        [13, 7, 5, 2, 1, 0, 0, 0],
    ]


def test_of_many_queries_those_of_some_users_are_tested(tmp_path: Path) -> None:
    """The ratio is to the same queries: a boundary that stays where it is changes nothing of it."""
    recipe, data = prepared_of(tmp_path, events(), split={"kind": "last", "n": 3})
    model, settings = model_of(recipe, data.items_count), EvaluationSettings(**SETTINGS)
    found = evaluate(model, data, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tested, "MOST", 10)
        chosen = tested.of_some_users(data.test)
        rows = memory_tests(model, data, settings, found, "ndcg@10")
    assert np.unique(data.test.user[chosen], return_counts=True)[1].tolist() == [3, 3, 3]
    index = evaluation.index_of(model, data, settings)
    ranks = evaluation.ranks(model, data, settings, targets_of(data, data.test.take(chosen)), index)
    np.testing.assert_array_equal(ranks, found.rank[chosen])
    assert {row["queries"] for row in rows} == {9}
    (sheet,) = worth_sheets([{"memory_tests": rows, "protocol": {"queries": len(data.test.user)}}], "ndcg@10")
    assert sheet.title == "ndcg@10 of the compressed model on 9 of the queries, its memory"


def test_the_share_that_got_none_is_shown() -> None:
    figure = {"mean": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"memory_tests": [{"memory": "of another user", "got_none": 0.28, "ndcg@10": figure, "ratio": figure}]}]
    (sheet,) = worth_sheets(rows, "ndcg@10")
    assert sheet.rows == [("of another user (28% got none)", "0.5000", "0.5000 [0.400, 0.600]")]


HEAD = {"repeat": "head", "loss": {"kind": "full"}, "evaluation": {"exclude_seen": False}}


@pytest.mark.parametrize("changes", [{}, HEAD], ids=["none", "head"])
def test_a_full_model_reads_recent_events_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What was seen is known as before, however few events are read; who has no more events is as before too."""
    recipe, data = prepared_of(tmp_path, events(), history="full", **changes)
    model = model_of(recipe, data.items_count)
    settings = EvaluationSettings(**SETTINGS | changes.get("evaluation", {}))
    found = evaluate(model, data, settings)
    rows = history_tests(model, data, settings, found, "ndcg@10", segment=recipe.memory.segment)
    assert [row["history"] for row in rows] == ["last 5 events", "last 10 events"]
    for row, length in zip(rows, (5, 10), strict=True):
        alone = evaluate(model, data, replace(settings, length=length))
        assert row["ndcg@10"]["mean"] == pytest.approx(alone.values("ndcg@10").mean(), abs=1e-12)
        assert row["ratio"]["mean"] == pytest.approx(alone.values("ndcg@10").mean() / found.values("ndcg@10").mean())
        short = data.test.end <= length
        assert 0 < short.sum() < len(short)
        np.testing.assert_array_equal(alone.rank[short], found.rank[short])
        assert (alone.rank[~short] != found.rank[~short]).any()
    shorter = replace(settings, length=7)
    rows = history_tests(model, data, shorter, evaluate(model, data, shorter), "ndcg@10", segment=6)
    assert rows[1]["ratio"]["mean"] == 1, "of histories of 7 events, the last 10 are all"
    (sheet,) = worth_sheets([{"history_tests": rows, "protocol": {"queries": len(data.test.user)}}], "ndcg@10")
    assert sheet.title == "ndcg@10 of the full model on the same targets, reading less"
    assert sheet.head == ("history", "ndcg@10", "of full [95%, users]")
