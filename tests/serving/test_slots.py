"""Tokens of stored memories as queries of their own."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from persrec import cli
from persrec.errors import UserError
from persrec.serving.recommender import Recommender
from tests.small import events, run_of

LOG = events()
MEMORY = {"segment": 6, "recent": 5, "tokens": 2, "future_set": 0.1}


def stored(folder: Path, **changes: Any) -> Recommender:
    """A recommender with a store of everybody."""
    found = Recommender.load(run_of(folder, LOG, **changes), folder / "store")
    found.compress()
    return found


@pytest.mark.parametrize("kind", ["recurrent", "layered"])
@pytest.mark.parametrize("exclude", [True, False])
def test_an_item_counts_by_the_best_of_query_and_newest_tokens(tmp_path: Path, kind: str, exclude: bool) -> None:
    evaluation = {"k": [1, 5, 10], "exclude_seen": exclude, "length_buckets": [5, 20]}
    with stored(tmp_path, memory=MEMORY | {"kind": kind}, evaluation=evaluation) as recommender:
        found, plain = (recommender.recommend(None, 4, slots=slots) for slots in (True, False))
        kept = recommender.memory()
        vectors = recommender.model.vectors().detach().numpy()
    had = dict(LOG.group_by("user_id").agg("item_id").iter_rows())
    names = recommender.item_ids.to_list()
    different = 0
    for user, events_of, query, rows in kept.select("user_id", "events", "query", "rows").iter_rows():
        width = len(query)
        newest = [np.array(row)[-width:] for row in rows[-2:]]
        queries = np.stack([np.array(query), *(each / np.linalg.norm(each) for each in newest)])
        scores = (queries @ vectors[1:].T).max(axis=0)
        if exclude:
            scores[[names.index(item) for item in had[user]]] = -np.inf
        best = [names[place] for place in np.argsort(-scores, kind="stable")[:4] if np.isfinite(scores[place])]
        own = found.filter(pl.col("user_id") == user)
        assert own["item_id"].to_list() == best
        np.testing.assert_allclose(own["score"].to_numpy(), np.sort(scores)[::-1][: len(own)], atol=1e-5)
        same = own["item_id"].to_list() == plain.filter(pl.col("user_id") == user)["item_id"].to_list()
        assert same or events_of >= 11  # with fewer than R + S there is no token
        different += not same
    assert different > 3


def test_lists_of_items_are_searched_alike(tmp_path: Path) -> None:
    evaluation = {"k": [10], "exclude_seen": False, "length_buckets": [5]}
    with stored(tmp_path, memory=MEMORY, evaluation=evaluation) as recommender:
        allowed = recommender.item_ids.to_list()[5:15]
        whole = recommender.recommend(None, 30, slots=True).filter(pl.col("item_id").is_in(allowed))
        found = recommender.recommend(None, 10, allow=allowed, slots=True)
    assert found["item_id"].to_list() == whole["item_id"].to_list()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"memory": MEMORY | {"future_set": 0.0}},
            "with history compressed, memory.kind layered and memory.future_set 0",
        ),
        ({"history": "recent"}, "slots: got a model with history recent"),
        ({"memory": {"kind": "decayed_mean", "segment": 6, "recent": 5, "tokens": 2}}, "memory.kind decayed_mean"),
        (
            {
                "memory": MEMORY,
                "repeat": "head",
                "loss": {"kind": "full"},
                "evaluation": {"k": [10], "exclude_seen": False, "length_buckets": [5]},
            },
            "slots: got a model with `repeat: head`",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    recommender = Recommender.load(run_of(tmp_path, LOG, **changes), tmp_path / "store")
    with pytest.raises(UserError, match=message):
        recommender.recommend(None, 3, slots=True)


def test_without_a_store_there_are_none(tmp_path: Path) -> None:
    recommender = Recommender.load(run_of(tmp_path, LOG, memory=MEMORY))
    with pytest.raises(UserError, match="slots: got no store, or histories; slots are read from stored memories"):
        recommender.recommend(["ü-3"], 3, slots=True)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stored(tmp_path, memory=MEMORY) as recommender:
        expected = recommender.recommend(["ü-3"], 3, slots=True)
    out = tmp_path / "lists.parquet"
    words = ["persrec", "recommend", str(tmp_path / "run"), "ü-3", "--store", str(tmp_path / "store"), "--slots"]
    monkeypatch.setattr(sys, "argv", [*words, "--k", "3", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert pl.read_parquet(out)["item_id"].to_list() == expected["item_id"].to_list()
