"""Damaged files: every reader of text answers with a log that is sound, or with one sentence that names the file."""

import gzip
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persrec import datasets
from persrec.errors import UserError
from persrec.interactions.values import LATEST


class Form(NamedTuple):
    source: str
    name: str
    header: str
    rows: tuple[str, ...]
    between: str  # fields
    options: Mapping[str, Any] = MappingProxyType({})  # of the reader


TABLE = "u1,b,1500000000,5\nu2,c,1500000060,4\nu1,d,1500000120,3\n"
OLD = '{"reviewerID": "A1", "asin": "B01", "overall": 5.0, "unixReviewTime": 1369699200, "style": {"a": "b"}}'
NEW = '{"user_id": "A1", "parent_asin": "B01", "rating": 5.0, "timestamp": 1369699200000, "images": []}'
PLAIN = '{"user_id": "A1", "item_id": 7, "timestamp": 1369699200}'
CARRIED = '{"user_id": "A1", "item_id": 7, "timestamp": 1369699200, "event": "buy", "weight": 2.5, "dwell": 3}'
KEPT = {"keep": ["weight", "dwell"], "events": True}
WHAT = {"user_id": "who", "item_id": "what", "timestamp": "when"}
FORMS = {
    "csv, all that events carry": Form(
        "table",
        "a.csv",
        "user_id,item_id,timestamp,event,weight,dwell\n",
        ("u1,b,1500000000,view,1,0.5", "u2,c,1500000060,buy,2.5,3"),
        ",",
        KEPT,
    ),
    "jsonl, all that events carry": Form("table", "a.jsonl", "", (CARRIED,) * 3, ",", KEPT),
    "csv, names of its own": Form(
        "table", "a.csv", "who,what,when,note\n", ("u1,b,1500000000,x", "u2,c,1500000060,y"), ",", {"columns": WHAT}
    ),
    "jsonl.gz": Form("table", "a.jsonl.gz", "", (PLAIN,) * 3, ","),
    "tsv.gz": Form("table", "a.tsv.gz", "user_id\titem_id\ttimestamp\n", ("1\t2\t15", "1\t3\t16"), "\t"),
    "inter.gz": Form("table", "a.inter.gz", "user_id:token\titem_id:token\n", ("1\t2", "1\t3", "2\t2"), "\t"),
    "csv": Form("table", "a.csv", "user_id,item_id,timestamp,rating\n", (*TABLE.splitlines(),), ","),
    "tsv": Form("table", "a.tsv", "user_id\titem_id\ttimestamp\n", ("1\t2\t15", "1\t3\t16", "2\t2\t17"), "\t"),
    "csv.gz": Form("table", "a.csv.gz", "user_id,item_id,timestamp,rating\n", (*TABLE.splitlines(),), ","),
    "jsonl": Form("table", "a.jsonl", "", (PLAIN,) * 3, ","),
    "inter": Form("table", "a.inter", "user_id:token\titem_id:token\n", ("1\t2", "1\t3", "2\t2"), "\t"),
    "inter lists": Form(
        "table", "a.inter", "user_id:token\titem_id_list:token_seq\titem_id:token\n", ("1\t2 3\t4", "2\t3\t4"), "\t"
    ),
    "1M": Form("movielens", "ratings.dat", "", ("1::1193::5::978300760", "2::661::3::978302109"), "::"),
    "100K": Form("movielens", "u.data", "", ("1\t1193\t5\t978300760", "2\t661\t3\t978302109"), "\t"),
    "latest": Form("movielens", "ratings.csv", "userId,movieId,rating,timestamp\n", ("1,1193,5.0,978300760",) * 3, ","),
    "sasrec": Form("sasrec", "a.txt", "", ("1 7", "1 3", "2 7"), " "),
    "Amazon 2014": Form("amazon", "a.csv", "", ("A39HTATAQ9V7YF,0205616461,5.0,1369699200",) * 3, ","),
    "Amazon 2018": Form("amazon", "a.csv", "", ("0205616461,A39HTATAQ9V7YF,5.0,1369699200",) * 3, ","),
    "Amazon 2023": Form(
        "amazon", "a.csv", "user_id,parent_asin,rating,timestamp\n", ("A,B01,5.0,1588615855070",) * 3, ","
    ),
    "reviews 2014": Form("amazon", "a.json.gz", "", (OLD,) * 3, ","),
    "reviews 2023": Form("amazon", "a.jsonl", "", (NEW,) * 3, ","),
    "retail": Form(
        "online-retail",
        "online_retail.csv",
        "InvoiceNo,StockCode,InvoiceDate,CustomerID\n",
        ("536365,85123A,2010-12-01 08:26:00,17850", "C36366,85123A,2010-12-01 08:28:00,17850"),
        ",",
    ),
    "globo": Form("globo-news", "a.csv", "user_id,click_article_id,click_timestamp\n", ("1,2,1506826800026",) * 3, ","),
}
VALUES = st.sampled_from(
    ["", " ", "null", "NaN", "-1", "-9223372036854775809", "1e400", "inf", "1.5", "abc", '"', '"a', "é", "\ufeff",
     "99999999999", "253402300800000", "18446744073709551616", "2999-01-01", "1969-12-31", "{}", "true", "\x00", "[1]"]
)  # fmt: skip
BYTES = st.sampled_from(
    [b"\xff", b"\x00", b"\xef\xbb\xbf", b'"', b"\r", b"\n\n", b"\xe9", b"\\", b"\xed\xa0\x80", b"::"]
)


def written(form: Form, lines: list[str]) -> bytes:
    return "".join([*([form.header] if form.header else []), *(f"{line}\n" for line in lines)]).encode()


@st.composite
def damaged_header(draw: st.DrawFn, form: Form) -> str:
    """The header of a form, at times with a name that is another one."""
    names = form.header.rstrip("\n").split(form.between)
    if draw(st.integers(0, 3)):
        return form.header
    place, other = (draw(st.integers(0, len(names) - 1)) for _ in range(2))
    name = names[place]
    changed = [
        names[other],
        name.upper(),
        f" {name}",
        f"{name}:token",
        "",
        "datetime",
        f"{name}_duplicated_0",
        "\ufeff",
    ]
    names[place : place + draw(st.integers(0, 1))] = [draw(st.sampled_from(changed))]
    return form.between.join(names) + "\n"


@st.composite
def damaged(draw: st.DrawFn, form: Form) -> bytes:
    """The bytes of a file of this form with one to three faults."""
    lines = list(form.rows) * draw(st.integers(1, 3))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        fields = lines[at].split(form.between)
        place = draw(st.integers(0, len(fields) - 1))
        kind = draw(st.sampled_from(["value", "more", "fewer", "blank"]))
        if kind == "value":
            fields[place] = draw(VALUES)
        elif kind == "more":
            fields.insert(place, draw(VALUES))
        elif kind == "fewer":
            del fields[place]
        lines[at] = "" if kind == "blank" else form.between.join(fields)
    header = draw(damaged_header(form)) * draw(st.sampled_from([0, 1, 1, 1, 2])) if form.header else ""
    text = written(form._replace(header=header), lines)
    text = text.replace(b"\n", draw(st.sampled_from([b"\n", b"\n", b"\r\n"])))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(BYTES) + text[at:]
    if draw(st.booleans()):
        text = text[: draw(st.integers(0, len(text)))]
    if draw(st.integers(0, 9)) == 0:
        text = text.decode("utf-8", errors="replace").encode(draw(st.sampled_from(["utf-16", "latin-1"])), "replace")
    if form.name.endswith(".gz"):
        text = gzip.compress(text)
        text = text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text
    return text


def check_sound(frame: pl.DataFrame) -> None:
    """What all that follows relies on."""
    assert frame.height > 0
    assert frame.null_count().sum_horizontal().item() == 0
    for name in ("user_id", "item_id"):
        assert frame[name].dtype == pl.String or frame[name].dtype.is_integer()
    if "timestamp" in frame.columns:
        assert frame["timestamp"].dtype == pl.Int64
        assert frame["timestamp"].is_between(0, LATEST // 1000).all()
    for name in {"rating", "weight", "dwell"} & {*frame.columns}:
        assert frame[name].is_finite().all()
        assert name == "rating" or (frame[name] >= 0).all()
    if "event" in frame.columns:
        assert frame["event"].dtype == pl.String


def answer(form: Form, contents: bytes, **options: Any) -> tuple[str, int]:
    """What a file of these contents gets: a message, or nothing where the log is sound, and how many rows were read or
    skipped."""
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / form.name
        path.write_bytes(contents)
        try:
            frame = datasets.read(form.source, path, say=said.append, **form.options, **options).collect()
        except UserError as error:
            return str(error).replace(f"{folder}/", "FOLDER/"), 0
    check_sound(frame)
    skipped = [found for sentence in said if (found := re.search(r": ([\d,]+) of [\d,]+ rows skipped", sentence))]
    return "", frame.height + sum(int(found[1].replace(",", "")) for found in skipped)


@pytest.mark.parametrize("name", FORMS)
def test_undamaged_files_are_read(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    contents = written(form, list(form.rows))
    (tmp_path / form.name).write_bytes(gzip.compress(contents) if form.name.endswith(".gz") else contents)
    check_sound(datasets.read(form.source, tmp_path / form.name, **form.options).collect())


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_end_in_a_sound_log_or_one_sentence(name: str, data: st.DataObject) -> None:
    form = FORMS[name]
    contents = data.draw(damaged(form))
    for bad_rows in ("refuse", "skip"):
        message, _ = answer(form, contents, bad_rows=bad_rows)
        assert not message or f"FOLDER/{form.name}" in message
        assert message.isprintable()


def no_quotes_around(value: str) -> bool:
    """Quotes around a value may hold the end of a line, so that two lines are one row."""
    return not re.search(r'(^|[,;|:\s])"', value)


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ("inter lists", "retail")])
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_every_row_is_read_or_said_to_be_skipped(name: str, data: st.DataObject) -> None:
    form = FORMS[name]
    lines = list(form.rows) * 2
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(lines) - 1))
        fields = lines[at].split(form.between)
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(VALUES.filter(no_quotes_around))
        lines[at] = form.between.join(fields)
    header = data.draw(damaged_header(form)) if form.header else ""
    contents = written(form._replace(header=header), lines)
    contents = gzip.compress(contents) if form.name.endswith(".gz") else contents
    for bad_rows in ("refuse", "skip"):
        message, rows = answer(form, contents, bad_rows=bad_rows)
        assert message or rows == len(lines)
