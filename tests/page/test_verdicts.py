"""What is said of runs: known answers on sides made by hand; a memory is praised only for what recent events lack."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from persrec.evaluation.comparison import Side
from persrec.evaluation.sheets import Sheet
from persrec.page import chapters
from persrec.page.chapters import Material
from persrec.page.layout import Gallery
from persrec.page.verdicts import lists_sheet, protocol_sheet, verdicts
from persrec.run import Run

USERS = 60


def side(history: str, rank: float, recipe: str = "one") -> Side:
    """One run whose targets, one per user, all have this rank, but for a little noise alike in every side."""
    ranks = np.where(np.arange(USERS) % 5 == 0, 9.0, rank)
    fill = {"end": np.full(USERS, 5), "item": np.arange(USERS), "age": np.zeros(USERS), "item_events": np.ones(USERS)}
    table = pa.table({"user": np.arange(USERS), **fill, "rank": ranks})
    return Side(history, history, {"name": recipe, "time": "none"}, {0: table})


@pytest.mark.parametrize(
    ("ranks", "expected", "absent"),
    [
        (
            {"full": 1, "recent": 3, "compressed": 1},
            ["old events help", "compressed history is ahead of"],
            ["no worth"],
        ),
        ({"full": 1, "recent": 3, "compressed": 3}, ["old events help", "is not ahead of recent"], ["no worth"]),
        ({"full": 1, "recent": 1, "compressed": 1}, ["no worth of old events is seen", "is not ahead"], ["help"]),
        ({"full": 1, "compressed": 1}, ["no run that throws old events away"], ["help", "ahead of recent"]),
        ({"recent": 1}, ["only recent events were read"], ["help"]),
        ({"recent": 1, "slist": 3}, ["recent, the only model, is ahead of slist, the only baseline: "], []),
        ({"recent": 3, "slist": 1}, ["is behind slist, the only baseline"], []),
        ({"recent": 1, "slist": 1}, ["cannot be told from slist"], []),
        ({"popular": 1, "slist": 2}, [], ["history", "best of"]),
    ],
)
def test_sentences(ranks: dict[str, float], expected: list[str], absent: list[str]) -> None:
    said = " ".join(verdicts([side(history, rank) for history, rank in ranks.items()], "mrr@10"))
    for words in expected:
        assert words in said
    for words in absent:
        assert words not in said


def test_the_figures_in_a_sentence() -> None:
    """MRR 1 against 1/3 for four of five users, 1/9 for the fifth: (4 + 1/9) / (4/3 + 1/9) = 2.846."""
    (gain,) = verdicts([side("full", 1), side("recent", 3)], "mrr@10")
    assert gain.startswith("one: old events help: the full history gives 2.846 [")
    assert gain.endswith("] times the mrr@10 of recent events alone.")


def run_of(history: str, **found: Any) -> Run:
    """A run of which only the recipe's name and these metrics are known."""
    return Run(Path(), {"name": "one"}, {}, {"history": history, **found}, {})


def test_lists_are_means_over_the_runs_that_have_them() -> None:
    lists = {"coverage": 0.5, "gini": 0.2, "novelty": 3.0, "average_popularity": 10.0, "diversity": 0.25}
    runs = [run_of("full", lists=lists), run_of("full", lists=lists | {"coverage": 1.0}), run_of("recent")]
    sheet = lists_sheet([side("full", 1), side("recent", 1)], runs)
    assert sheet.rows == [("full", "0.75", "0.2", "3", "10", "0.25")]


def test_an_index_stands_beside_exact_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters.verdicts, "protocol_sheet", lambda runs: Sheet("", ("",), []))
    found = {"kind": "hnsw", "recall": 0.5, "milliseconds": 0.25, "nbytes": 5000}
    found |= {"exact_milliseconds": 2.0, "exact_nbytes": 4000}
    index = run_of("full", seed=1, protocol={"retrieval": found})
    exact = run_of("recent", seed=1, protocol={"retrieval": {"kind": "flat"}})
    said = chapters.protocol(Material([], [index, exact], "ndcg@10", {}, [], None), Gallery(tmp_path))
    cells = ("one full, seed 1", "hnsw", "0.5000", "0.250", "2.000", "5,000", "4,000")
    assert "".join(f"<td>{cell}</td>" for cell in cells) in said
    assert "recent" not in said


def test_groups_of_models_with_other_recent_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters.comparison, "all_groups", lambda side: {})
    sides = [side("full", 1), side("recent", 1)]
    for one, recent in zip(sides, (20, 40), strict=True):
        one.recipe["memory"] = {"recent": recent}
    said = chapters.groups(Material(sides, [], "ndcg@10", {}, [], None), Gallery(tmp_path))
    assert "memory.recent differs: 20 (full); 40 (recent)." in said
    assert "differs" not in chapters.groups(Material(sides[:1], [], "ndcg@10", {}, [], None), Gallery(tmp_path))


def test_runs_of_other_searches_and_times_are_told_apart() -> None:
    counts = dict.fromkeys(("users", "queries", "targets", "targets_seen_before", "cold_targets"), 1234)
    same = {**counts, "split": "last-10", "ranked": "all", "exclude_seen": True, "ties": "count half"}
    first = {**same, "time": "none", "length": None}
    second = {**same, "time": "next", "length": 200, "retrieval": {"kind": "hnsw", "recall": 0.9876}}
    rows = dict(protocol_sheet([run_of("full", protocol=first), run_of("full", protocol=second)]).rows)
    assert rows["users asked"] == "1,234"
    assert rows["searched by"] == "flat, hnsw, recall 0.988 of exact search"
    assert rows["time known to the model"] == "none, also that of the query"
    assert rows["history used"] == "all of it, the last 200 events"
    assert rows["items seen before"] == "excluded, the target never"
