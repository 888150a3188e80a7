"""Quotes in text tables: around whole fields, or signs like any other; nothing is dropped without a word."""

import csv
import io
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec import datasets
from persrec.datasets import quoting
from persrec.datasets.quoting import quoted
from persrec.errors import UserError
from persrec.evaluation import recommendations
from persrec.serving import lists

FIELDS = st.text(st.sampled_from('ab",;\n'), max_size=4)
INCHES = ['5" disk', "fine", '7" disk', "ok"]


@given(
    rows=st.lists(st.lists(FIELDS, min_size=2, max_size=2), max_size=5),
    style=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    ending=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([1, 3, 1000]),
)
def test_what_a_writer_of_csv_writes_is_read_as_it_was(rows: Any, style: Any, ending: str, block: int) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=style, lineterminator=ending).writerows([["x", "y"], *rows])
    text = file.getvalue().encode()
    with patch.object(quoting, "BLOCK", block):
        stands = quoted(io.BytesIO(text), ",", where="log.csv")
    frame = pl.read_csv(io.BytesIO(text), infer_schema=False, quote_char='"' if stands else None)
    assert frame.fill_null("").rows() == [tuple(row) for row in rows]


@given(
    lines=st.lists(st.text(st.sampled_from('a",;'), max_size=6), max_size=6),
    block=st.sampled_from([1, 4, 1000]),
)
def test_a_table_is_refused_or_has_all_its_rows(lines: list[str], block: int) -> None:
    text = "".join(f"u{number},i{number},{line}\n" for number, line in enumerate(lines)).encode()
    with patch.object(quoting, "BLOCK", block), patch.object(quoting, "FIELDS", 2):
        try:
            stands = quoted(io.BytesIO(text), ",", where="log.csv")
        except UserError:
            return
    options: dict[str, Any] = {"has_header": False, "infer_schema": False, "truncate_ragged_lines": True}
    if lines:
        frame = pl.read_csv(io.BytesIO(text), columns=[0, 1], quote_char='"' if stands else None, **options)
        whole = list(csv.reader(io.StringIO(text.decode())))
        assert frame.rows() == [tuple(row[:2]) for row in whole]


@pytest.mark.parametrize("separator", [",", "\t"], ids=["csv", "tsv"])
def test_quotes_inside_of_fields_are_signs_where_no_field_stands_in_quotes(tmp_path: Path, separator: str) -> None:
    """Also in columns that are not read, by which Polars dropped every other row."""
    name = "log.csv" if separator == "," else "log.tsv"
    rows = [("user_id", "item_id", "rank", "title"), *zip("1111", "2345", "1234", INCHES, strict=True)]
    (tmp_path / name).write_text("".join(separator.join(row) + "\n" for row in rows))
    assert datasets.read("table", tmp_path / name, say=print).collect().height == 4
    assert recommendations.read(tmp_path / name).height == 4
    assert lists.read_pairs(tmp_path / name).rows() == [("1", item) for item in "2345"]
    assert lists.read(tmp_path / name) == ["2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("line", "got"),
    [("2,3,5 in\"", "5 in\""), ('2,3,"5"in', '"5"in'), ('2,"3,5', '"3,5'), ('2,3,"5', '"5')],
    ids=["inside", "after", "open", "open at the end"],
)  # fmt: skip
def test_the_row_whose_quotes_cannot_be_told_apart_is_named(tmp_path: Path, line: str, got: str) -> None:
    (tmp_path / "log.csv").write_text(f'user_id,item_id,title\n"1","2","a ""b"""\n{line}\n')
    message = f"log.csv: row 3 has quotes that cannot be told apart (is one not closed?), at {got!r}; expected them"
    with pytest.raises(UserError) as caught:
        datasets.read("table", tmp_path / "log.csv", say=print)
    assert message in str(caught.value)


def test_a_quote_that_is_never_closed_is_not_searched_for_in_all_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quoting, "BLOCK", 100)
    monkeypatch.setattr(quoting, "LONGEST", 200)
    lines = io.BytesIO(b'"a","b"\n"1,2\n' + b"3,4\n" * 1000)
    with pytest.raises(UserError, match=r"log: row 2 has quotes .* at '\"1,2'; expected"):
        quoted(lines, ",", where="log")
    assert lines.tell() < 1000
