"""Sheets of what was found: known answers."""

from persrec.report import search_sheets

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
