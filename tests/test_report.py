"""Sheets of what was found: known answers."""

import io
import math
import re
from typing import Any

from rich.console import Console

from persrec.evaluation import sheets
from persrec.evaluation.comparison import Pair, Retention
from persrec.evaluation.intervals import Interval
from persrec.report import pairs_sheet, retention_sentences, search_sheets, worth_sheets

FOUND = {"kind": "hnsw", "recall": 0.98765, "milliseconds": 0.0312, "nbytes": 1_234_567}
EXACT = {"exact_milliseconds": 0.25, "exact_nbytes": 400_000}


def test_an_index_beside_exact_search() -> None:
    (sheet,) = search_sheets({"full, seed 0": {"kind": "flat"}, "full, seed 1": FOUND | EXACT, "old": FOUND})
    assert sheet.rows == [
        ("full, seed 1", "hnsw", "0.9877", "0.031", "0.250", "1,234,567", "400,000"),
        ("old", "hnsw", "0.9877", "0.031", "", "1,234,567", ""),
    ]
    assert all(len(row) == len(sheet.head) for row in sheet.rows)


def test_of_exact_search_alone_there_is_nothing_to_say() -> None:
    assert search_sheets({"full, seed 0": {"kind": "flat"}, "before there were indexes": {}}) == []


def test_figures_that_are_not_there() -> None:
    """A ratio to nothing, and one of a user alone."""
    nothing = Interval(math.nan, math.nan, math.nan)
    pair = Pair("full", "recent", Interval(1.2, math.nan, math.nan), nothing, math.nan, 1)
    (row,) = pairs_sheet("pairs", [pair]).rows
    assert row == ("full / recent", "1.200 [-]", "- [-]", "-")
    (said,) = retention_sentences([Retention("mine", None, Interval(1.2, math.nan, math.nan))], "ndcg@10")
    assert said == "mine: Too few users have a hit to say whether history helps: full / recent 1.200 [-] in ndcg@10."


def run_with_tests(*ratios: tuple[float, float, float], got_none: float = 0.0) -> dict[str, Any]:
    """A compressed run's summary: the first test of its memory has the first ratio (mean, low, high), and so on."""
    names = "emptied", "of another user"
    tests = [
        {"memory": name, "ndcg@10": {"mean": mean / 2}, "ratio": {"mean": mean, "low": low, "high": high}}
        for name, (mean, low, high) in zip(names, ratios, strict=False)
    ]
    tests[-1]["got_none"] = got_none
    return {"memory_tests": tests}


def test_ratios_of_memory_tests_stand_with_their_intervals() -> None:
    (sheet,) = worth_sheets([run_with_tests((0.8, 0.7, 0.9), (0.5, 0.45, 0.625))], "ndcg@10")
    assert sheet.head == ("memory", "ndcg@10", "of compressed [95%, users]")
    assert sheet.rows == [
        ("emptied", "0.4000", "0.8000 [0.700, 0.900]"),
        ("of another user", "0.2500", "0.5000 [0.450, 0.625]"),
    ]


def test_of_several_seeds_bounds_are_means_and_seeds_stand_beside() -> None:
    (sheet,) = worth_sheets([run_with_tests((0.8, 0.7, 0.9)), run_with_tests((0.6, 0.4, 0.7))], "ndcg@10")
    assert sheet.rows == [("emptied", "0.3500 ±0.0707", "0.7000 ±0.1414 [0.550, 0.800]")]


def test_memory_tests_fit_a_terminal_without_a_figure_broken() -> None:
    rows = [run_with_tests((0.8, 0.7, 0.9), (mean, 0.4, 0.7), got_none=0.28) for mean in (0.5, 0.6)]
    terminal = Console(width=79, file=io.StringIO())
    with terminal.capture() as captured:
        terminal.print(sheets.rich(worth_sheets(rows, "ndcg@10")[0]))
    lines = captured.get().splitlines()
    assert any(re.search(r"emptied +0.4000 ±0.0000 +0.8000 ±0.0000 \[0.700, 0.900\]", line) for line in lines)
    assert any(re.search(r"none\) +0.2750 ±0.0354 +0.5500 ±0.0707 \[0.400, 0.700\]", line) for line in lines)
    assert max(map(len, lines)) <= 79
