"""Damaged parquet: what is read is sound and complete, or one sentence names the file; see test_fuzz for text."""

import io
import re
import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persrec import datasets
from persrec.errors import UserError
from tests.datasets.test_fuzz import check_sound


class Form(NamedTuple):
    source: str
    name: str
    item: str  # the column that says how many events there are
    columns: dict[str, list[Any]]
    options: dict[str, Any] | None = None


def days(*numbers: int) -> list[datetime]:
    return [datetime(2023, 5, number) for number in numbers]


SECONDS = [1_500_000_000, 1_500_000_060, 1_500_000_120]
ROWS = {"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp": SECONDS, "dwell": [1.0, 2.0, 0.5]}
LISTS = {"user_id": ["u", "v"], "item_id": [[7, 8], [7]], "timestamp": [SECONDS[:2], SECONDS[2:]]}
RECBOLE = {"user_id:token": ["u", "v"], "item_id_list:token_seq": [[7, 8], [9]], "item_id:token": [1, 2]}
MERREC = {"user_id": [1, 1, 2], "product_id": [3, 4, 3], "stime": days(1, 2, 3), "event_id": ["view", "buy", "view"]}
HISTORY = {
    "user_id": [1, 2],
    "impression_time_fixed": [days(1, 2), days(3)],
    "article_id_fixed": [[10, 11], [12]],
    "read_time_fixed": [[5.0, 0.0], [7.0]],
}
BEHAVIORS = {
    "user_id": [1, 2],
    "impression_time": days(8, 9),
    "article_ids_clicked": [[13], [14]],
    "next_read_time": [8.0, 9.0],
}
RETAIL = {"InvoiceNo": ["1", "C2", "3"], "StockCode": ["a", "b", "c"], "InvoiceDate": days(1, 2, 3)} | {
    "CustomerID": [17850.0, 17850.0, None]
}
GLOBO = {"user_id": [1, 1, 2], "click_article_id": [7, 8, 7], "click_timestamp": [1000 * one for one in SECONDS]}
READ_TIMES = {"keep": ["dwell"]}
FORMS = {
    "rows": Form("table", "a.parquet", "item_id", ROWS, READ_TIMES),
    "lists": Form("table", "a.parquet", "item_id", LISTS),
    "RecBole's lists": Form("table", "a.parquet", "item_id_list:token_seq", RECBOLE),
    "MerRec": Form("merrec", "a.parquet", "product_id", MERREC, {"events": True}),
    "MerRec, lists": Form(
        "merrec", "a.parquet", "product_id", {key: [value[:2], value[2:]] for key, value in MERREC.items()} | {
            "user_id": [1, 2]
        }, {"events": True}
    ),
    "Online Retail": Form("online-retail", "a.parquet", "StockCode", RETAIL),
    "Globo": Form("globo-news", "clicks.parquet", "click_article_id", GLOBO),
    "EB-NeRD, history": Form("ebnerd", "history.parquet", "article_id_fixed", HISTORY, READ_TIMES),
    "EB-NeRD, behaviours": Form("ebnerd", "behaviors.parquet", "article_ids_clicked", BEHAVIORS, READ_TIMES),
}  # fmt: skip
STRANGE = [
    None, -1, 0, 2**62, 2**64 - 1, 1.5, float("nan"), float("inf"), -1e300, True, "", "soon", "é\x00\n", "7", b"\xff",
    Decimal("-3.5"), date(1, 1, 1), datetime(9999, 12, 31), datetime(1969, 1, 1, tzinfo=UTC), timedelta(days=1),
    {"a": 1}, [], [None], [1, 2], [1.5, float("nan")], [["x"]],
]  # fmt: skip
KINDS = [
    pl.Datetime("ms"), pl.Datetime("us", "Europe/Copenhagen"), pl.Datetime("ns"), pl.Date, pl.Float32, pl.Int8,
    pl.UInt64, pl.String, pl.Categorical, pl.Duration("us"), pl.List(pl.Int64), pl.Array(pl.Int64, 2), pl.Null,
]  # fmt: skip
NUMBERS = [0, 1, -1, 127, 2**31 - 1, -(2**31), 2**62, -(2**62), 1_500_000_000]


@st.composite
def column(draw: st.DrawFn, height: int) -> pl.Series:
    """A column of one of many types."""
    if draw(st.booleans()):
        value = draw(st.sampled_from(STRANGE))
        return pl.Series([value] * height, dtype=None if value != 2**64 - 1 else pl.UInt64)
    kind = draw(st.sampled_from(KINDS))
    numbers = [draw(st.sampled_from(NUMBERS)) for _ in range(height)]
    if isinstance(kind, pl.List | pl.Array):
        return pl.Series([[number, draw(st.sampled_from(NUMBERS))] for number in numbers], dtype=kind)
    if kind in (pl.Null, pl.Categorical):
        return pl.Series([None] * height if kind == pl.Null else [str(number) for number in numbers], dtype=kind)
    return pl.Series(numbers, dtype=pl.Int64).cast(kind, strict=False)


@st.composite
def damaged(draw: st.DrawFn, form: Form) -> dict[str, pl.Series]:
    """The columns of a form, some of them with other values, of another type, or gone."""
    height = len(form.columns[form.item])
    columns = dict(form.columns)
    strange: dict[str, pl.Series] = {}
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(form.columns)))
        kind = draw(st.sampled_from(["value", "shorter", "null", "column", "gone"]))
        values = list(columns.get(name, form.columns[name]))
        place = draw(st.integers(0, height - 1))
        if kind == "gone":
            columns.pop(name, None)
        elif kind == "column":
            strange[name] = draw(column(height))
        elif kind == "null":
            columns[name] = [None if at == place else value for at, value in enumerate(values)]
        elif isinstance(values[place], list):
            inner = values[place][:-1] + [None] * (kind == "value")
            columns[name] = [inner if at == place else value for at, value in enumerate(values)]
    found = {name: pl.Series(name, values) for name, values in columns.items()}
    return found | {name: series.alias(name) for name, series in strange.items() if name in found}


def written(columns: dict[str, pl.Series], *, twice: str | None = None) -> bytes:
    """As a parquet file, one column of which may stand there twice."""
    file = io.BytesIO()
    table = pl.DataFrame(list(columns.values())).to_arrow()
    names, arrays = list(table.column_names), list(table.columns)
    if twice is not None:
        names, arrays = [*names, twice], [*arrays, table.column(twice)]
    pq.write_table(pa.Table.from_arrays(arrays, names=names), file)
    return file.getvalue()


def entries(series: pl.Series | None) -> int:
    """How many events a column stands for."""
    if series is None:
        return 0
    if isinstance(series.dtype, pl.Array):
        series = series.arr.to_list()
    return int(series.list.len().sum() or 0) if isinstance(series.dtype, pl.List) else len(series)


def answer(form: Form, contents: bytes, bad_rows: str) -> tuple[str, int]:
    """The message that a file of these contents gets, or none, and then how many events were read or skipped."""
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / form.name
        path.write_bytes(contents)
        try:
            frame = datasets.read(
                form.source, path, bad_rows=bad_rows, say=said.append, **(form.options or {})
            ).collect()
        except UserError as error:
            return str(error).replace(f"{folder}/", "FOLDER/"), 0
    check_sound(frame)
    skipped = [found for sentence in said if (found := re.search(r": ([\d,]+) of [\d,]+ rows skipped", sentence))]
    left_out = [
        found for sentence in said if (found := re.search(r"left out are (\d+) lines .* (\d+) of canc", sentence))
    ]
    return "", frame.height + sum(
        int(count.replace(",", "")) for found in skipped + left_out for count in found.groups()
    )


@pytest.mark.parametrize("name", FORMS)
def test_undamaged_files_are_read(name: str) -> None:
    form = FORMS[name]
    columns = {key: pl.Series(key, values) for key, values in form.columns.items()}
    more = 2 if form.name == "a.parquet" and ":" in form.item else 0  # RecBole's last items
    assert answer(form, written(columns), "refuse") == ("", entries(columns[form.item]) + more)


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_columns_end_in_all_events_or_one_sentence(name: str, data: st.DataObject) -> None:
    """What is read and what is said to be skipped are together the events that the file holds."""
    form = FORMS[name]
    columns = data.draw(damaged(form))
    for bad_rows in ("refuse", "skip"):
        message, events = answer(form, written(columns), bad_rows)
        if message:
            assert f"FOLDER/{form.name}" in message
            assert message.isprintable()
        elif ":" not in form.item:
            assert events == entries(columns.get(form.item))


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_files_cut_short_are_named(name: str, data: st.DataObject) -> None:
    form = FORMS[name]
    contents = written({key: pl.Series(key, values) for key, values in form.columns.items()})
    message, _ = answer(form, contents[: data.draw(st.integers(0, len(contents) - 1))], "skip")
    assert re.search(rf"FOLDER/{form.name}: (cannot be read: .*may be truncated|the file is empty)", message)


@pytest.mark.parametrize("name", FORMS)
def test_a_column_that_stands_there_twice_is_named(name: str) -> None:
    form = FORMS[name]
    columns = {key: pl.Series(key, values) for key, values in form.columns.items()}
    message, _ = answer(form, written(columns, twice=form.item), "skip")
    assert f"column with name '{form.item}' has more than one occurrence; rename or remove one" in message
