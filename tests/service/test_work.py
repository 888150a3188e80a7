"""Requests that are worked on together."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from persrec.errors import UserError
from persrec.service import work
from persrec.service.line import Line
from persrec.service.work import WORK, recommend, score
from persrec.serving.recommender import Recommender
from tests.small import events, run_of
from tests.training.test_carried import DATA, carrying, run_of_inputs

LOG = events().with_columns(pl.col("user_id").str.extract(r"(\d+)").cast(pl.Int64))
LAST = int(LOG["timestamp"].max())


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Recommender]:
    with Recommender.load(run_of(tmp_path, LOG), tmp_path / "store") as made:
        made.compress()
        yield made


def test_updates_beside_a_faulty_one_are_applied_once(kept: Recommender) -> None:
    began, went = threading.Event(), threading.Event()

    def wait(common: None, rests: list[None]) -> list[None]:
        began.set()
        went.wait(20)
        return rests

    line = Line({"wait": wait, "update": partial(WORK["update"], kept)}, longest=10, together=10)
    line.put("wait", None, None)
    assert began.wait(20)
    sent: list[dict[str, Any]] = [
        {"user_id": 3, "item_id": "чай 1", "timestamp": LAST + place} for place in range(1, 4)
    ]
    sent[1]["timestamp"] = None  # which this model needs
    answers = [line.put("update", None, [event]) for event in sent]
    went.set()
    assert [answers[place].result(60)["applied"] for place in (0, 2)] == [1, 1]
    with pytest.raises(UserError, match="update: no timestamp column"):
        answers[1].result(60)
    line.close()
    assert kept.memory([3])["events"].item() == LOG.filter(pl.col("user_id") == 3).height + 2


def test_what_events_carry_enters_as_from_a_log_whatever_its_columns_are_called(tmp_path: Path) -> None:
    frame = carrying()
    columns = {"user_id": "customer", "rating": "stars"}
    data = {**DATA, "path": str(tmp_path / "log.csv"), "columns": columns}
    run = run_of_inputs(tmp_path, frame.rename(columns), data=data)
    earlier, last = frame[:-3], frame[-3:]
    with Recommender.load(run, tmp_path / "store") as kept:
        kept.compress(earlier.rename(columns))
        sent = [row | {"timestamp": int(row["timestamp"])} for row in last.iter_rows(named=True)]
        strange = sent[-1] | {"event": "wish"}
        (answer,) = work.update(kept, None, [[*sent, strange]])
        assert isinstance(answer, dict), answer
        assert (answer["applied"], answer["filtered"]) == (3, 1)
        (nothing,) = work.update(kept, None, [[strange]])
        assert isinstance(nothing, dict), nothing
        assert (nothing["applied"], nothing["filtered"]) == (0, 1)
        user = str(last["user_id"][-1])
        expected = kept.recommend(histories=frame.filter(pl.col("user_id") == user).rename(columns), k=20)
        found = kept.recommend([user], k=20)
        assert found["score"].to_list() == pytest.approx(expected["score"].to_list(), abs=1e-4)
        (fault,) = work.update(kept, None, [[sent[0], sent[1] | {"rating": None}]])
        assert str(fault) == (
            "update: event 2 of 2 has no rating, expected one with every event, as this model or the filters of its "
            "log read it"
        )


def test_a_user_who_is_asked_for_as_number_and_as_text_is_one(kept: Recommender) -> None:
    (alone,) = recommend(kept, (3, None), [[7]])
    found = recommend(kept, (3, None), [[7], ["7"], ["7", 7]])
    assert [one["user_id"] for request in found for one in request] == [7, "7", "7", 7]
    assert [one["items"] for request in found for one in request] == 4 * [alone[0]["items"]]
    assert len(alone[0]["items"]) == 3


def test_one_request_that_breaks_the_work_leaves_its_neighbours_alone() -> None:
    """But updates, which may have been applied in part, are not tried again."""
    began, went = threading.Event(), threading.Event()

    def done(common: None, rests: list[int]) -> list[int]:
        began.set()
        went.wait(20)
        if 3 in rests:
            raise IndexError(rests)
        return rests

    line = Line({"score": done, "update": done}, longest=10, together=10)
    first = line.put("score", None, 0)
    assert began.wait(20)
    scores, updates = ([line.put(kind, None, place) for place in (1, 3, 5)] for kind in ("score", "update"))
    went.set()
    assert first.result(20) == 0
    broken = [answer.exception(20) is not None for answer in (*scores, *updates)]
    line.close()
    assert broken == [False, True, False, True, True, True]


def test_requests_of_a_kind_that_wait_at_once_are_answered_together() -> None:
    began, went = threading.Event(), threading.Event()
    batches: list[tuple[str, list[int]]] = []

    def work_of(kind: str) -> Any:
        def done(common: None, rests: list[int]) -> list[int]:
            began.set()
            went.wait(20)
            batches.append((kind, list(rests)))
            return rests

        return done

    line = Line({kind: work_of(kind) for kind in ("score", "update")}, longest=10, together=10)
    first = line.put("score", None, 0)
    assert began.wait(20)
    answers = [line.put("update" if place % 2 else "score", None, place) for place in range(1, 6)]
    went.set()
    assert [answer.result(20) for answer in (first, *answers)] == [0, 1, 2, 3, 4, 5]
    line.close()
    assert batches == [("score", [0]), ("update", [1, 3, 5]), ("score", [2, 4])]


def test_scores_asked_together_are_those_of_each_alone(kept: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    items = LOG["item_id"].unique(maintain_order=True).to_list()
    requests: list[dict[str, Any]] = [
        {"users": [7, 3], "candidates": items[:3]},
        {"users": ["7"], "candidates": items[1:5]},
        {"users": [3, 7, 3], "candidates": items[5:6]},
    ]
    alone = [score(kept, None, [request])[0] for request in requests]
    expected = kept.score([7, 3], items[:3])["score"].to_list()
    assert alone[0] == [{"user_id": 7, "scores": expected[:3]}, {"user_id": 3, "scores": expected[3:]}]
    for most in (1_000_000, 7, 1):
        monkeypatch.setattr(work, "MOST_SCORES", most)
        together = score(kept, None, requests)
        for one, other in zip(together, alone, strict=True):
            assert [asked["user_id"] for asked in one] == [asked["user_id"] for asked in other]
            for mine, theirs in zip(one, other, strict=True):
                assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-6)
