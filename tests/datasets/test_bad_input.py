"""What every kind of bad input gets, as a table: benchmarks/results/bad_input.md is what this test writes.

PERSREC_WRITE=1 writes it anew; else the test fails where the file says something else.
"""

import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow.parquet as pq

from persrec import datasets
from persrec.errors import UserError
from persrec.evaluation import recommendations
from persrec.items import table as items
from persrec.recipe.sections import Items
from persrec.serving import lists
from tests.datasets.test_fuzz import FORMS, Form, written

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "bad_input.md"
HEAD = """# What bad input gets

Written by `tests/datasets/test_bad_input.py` (`PERSREC_WRITE=1` writes it anew). Each message is the one sentence that
a person gets, with exit code 2 and no traceback; the last column is what happens with `data.bad_rows: skip`, which
leaves out rows whose values are missing or cannot be read, counts them and says so. `tests/datasets/test_fuzz.py` and
`test_fuzz_parquet.py` damage files of every reader at random and accept nothing but a sound log or such a message."""
CSV = b"user_id,item_id,timestamp,rating\nu1,b,1500000000,5\nu2,c,1500000060,4\n"
PACKED = gzip.compress(b"user_id,item_id\n" + b"".join(b"%d,%d\n" % (row, row * 7919) for row in range(5000)), mtime=0)
JSON = b'{"user_id": "a", "item_id": 7, "timestamp": 1500000000}\n'
DOTS = b"1::1193::5::978300760\n"
TABS = b"1\t1193\t5\t978300760\n"
AMAZON = b"A39HTATAQ9V7YF,0205616461,5.0,1369699200\n"
REVIEW = b'{"user_id": "A1", "parent_asin": "B01", "rating": 5.0, "timestamp": 1369699200000}\n'
LISTS = b"user_id:token\titem_id_list:token_seq\titem_id:token\n"


class Case(NamedTuple):
    what: str
    name: str
    contents: bytes
    more: dict[str, bytes] | None = None  # files beside it; the folder is read then


def parquet(columns: dict[str, Any], *, twice: str | None = None) -> bytes:
    """A table as parquet; one of its columns may stand there twice."""
    file, frame = io.BytesIO(), pl.DataFrame(columns).to_arrow()
    pq.write_table(frame if twice is None else frame.append_column(twice, frame.column(twice)), file)
    return file.getvalue()


MAY = [datetime(2023, 5, 1), datetime(2023, 5, 2)]
ROWS: dict[str, Any] = {"user_id": [1, 2], "item_id": [7, 8], "timestamp": [1500000000, 1500000060]}
WHOLE: dict[str, Any] = {"user_id": [1, 2], "item_id": [[7, 8], [9]], "timestamp": [[1500000000, 1500000060], [1]]}
SHARD: dict[str, Any] = {"user_id": [1, 2], "product_id": [7, 8], "stime": MAY, "event_id": ["item_view", "buy_comp"]}
HISTORY: dict[str, Any] = {
    "user_id": [1, 2],
    "impression_time_fixed": [MAY, MAY[:1]],
    "article_id_fixed": [[10, 11], [12]],
    "read_time_fixed": [[5.0, 6.0], [7.0]],
}
PAGES: dict[str, Any] = {
    "user_id": [1, 2],
    "impression_time": MAY,
    "article_ids_clicked": [[13], [14]],
    "next_read_time": [8.0, 9.0],
}
FAR = pl.Series([2**62, 1_500_000_000_000_000]).cast(pl.Datetime("us"))


CASES: dict[str, list[Case]] = {
    "table": [
        Case("nothing", "log.csv", b""),
        Case("a header only", "log.csv", b"user_id,item_id\n"),
        Case("no header", "log.csv", CSV.split(b"\n", 1)[1]),
        Case("another separator", "log.csv", CSV.replace(b",", b";")),
        Case("ratings of MovieLens", "ratings.csv", b"userId,movieId,rating,timestamp\n1,1193,5.0,978300760\n"),
        Case("another ending", "log.xlsx", CSV),
        Case("a column named twice", "log.csv", b"user_id,item_id,user_id\n1,2,3\n"),
        Case("two columns that mean the same", "log.csv", b"user_id,item_id,timestamp,datetime\n1,2,3,4\n"),
        Case("a row cut off", "log.csv", CSV + b"u3,"),
        Case("a row with too many fields", "log.csv", CSV + b"u3,d,1500000120,3,9\n"),
        Case("a header in the middle", "log.csv", CSV + CSV),
        Case("empty ids", "log.csv", CSV + b",d,1500000120,3\nu3, ,1500000120,3\n"),
        Case("words for nothing as ids", "log.csv", CSV + b"NaN,d,1500000120,3\nu3,\\N,15,3\nN/A,d,15,3\n"),
        Case("an id of -1", "log.csv", b"user_id,item_id\n1,2\n-1,3\n"),
        Case("a line break in an id", "log.csv", CSV + b'"u3\nu4",d,1500000120,3\n'),
        Case("a quote that is not closed", "log.csv", CSV + b'"u3,d,1500000120,3\n'),
        Case("quotes inside of fields, beside fields in quotes", "log.csv", CSV + b'"u3",5" disk,1500000120,3\n'),
        Case("a zero byte in an id", "log.csv", CSV + b"u\x003,d,1500000120,3\n"),
        Case("a byte order mark in an id", "log.csv", CSV + "\ufeffu3,d,1500000120,3\n".encode()),
        Case("a time that is none", "log.csv", CSV + b"u3,d,soon,3\n"),
        Case("an empty time", "log.csv", CSV + b"u3,d,,3\n"),
        Case("NaN as a time", "log.csv", CSV + b"u3,d,NaN,3\n"),
        Case("a negative time", "log.csv", CSV + b"u3,d,-5,3\n"),
        Case("a date before 1970", "log.csv", b"user_id,item_id,timestamp\n1,2,2001-01-01\n1,3,1969-12-31\n"),
        Case("a time in the far future", "log.csv", CSV + b"u3,d,99999999999,3\n"),
        Case("one time in milliseconds among seconds", "log.csv", CSV + b"u3,d,1500000120000,3\n"),
        Case("a time beyond 64 bits", "log.csv", CSV + b"u3,d,18446744073709551616,3\n"),
        Case("a rating that is none", "log.csv", CSV + b"u3,d,1500000120,good\n"),
        Case("an infinite rating", "log.csv", CSV + b"u3,d,1500000120,inf\n"),
        Case("Latin-1", "log.csv", CSV + "André,d,1500000120,3\n".encode("latin-1")),
        Case("UTF-16", "log.csv", CSV.decode().encode("utf-16")),
        Case("a byte order mark", "log.csv", b"\xef\xbb\xbf" + CSV),
        Case("CRLF", "log.csv", CSV.replace(b"\n", b"\r\n")),
        Case("gzip cut short", "log.csv.gz", PACKED[: len(PACKED) // 2]),
        Case("no gzip", "log.csv.gz", CSV),
    ],
    "table, JSON lines": [
        Case("a line cut off", "log.jsonl", JSON + JSON[:30]),
        Case("a line that is no object", "log.jsonl", JSON + b"[1, 2]\n"),
        Case("NaN, which JSON has not", "log.jsonl", JSON.replace(b"7", b"NaN")),
        Case("an object in place of an id", "log.jsonl", JSON + JSON.replace(b"7", b'{"n": 7}')),
        Case("null in place of an id", "log.jsonl", JSON + JSON.replace(b"7", b"null")),
        Case("a key that is missing in a line", "log.jsonl", JSON + b'{"user_id": "a", "timestamp": 1500000000}\n'),
        Case("a byte order mark", "log.jsonl", b"\xef\xbb\xbf" + JSON),
        Case("a list in place of an id", "log.jsonl", JSON + JSON.replace(b"7", b"[7]")),
        Case("a time from row 2,000 on", "log.jsonl", JSON.replace(b', "timestamp": 1500000000', b"") * 1999 + JSON),
        Case("other keys", "log.jsonl", JSON.replace(b"user_id", b"visitor")),
        Case("Latin-1", "log.jsonl", JSON + '{"user_id": "é"}\n'.encode("latin-1")),
        Case("lists of different lengths", "log.jsonl", b'{"user_id": 1, "item_id": [7, 8], "timestamp": [9]}\n'),
    ],
    "table, RecBole": [
        Case("a user with two histories", "a.inter", LISTS + b"1\t7 8\t9\n2\t5\t6\n1\t7 8 9\t4\n"),
        Case("a history without its last item", "a.inter", LISTS + b"1\t7 8\n2\t5\t6\n"),
        Case("no item", "a.inter", b"user_id:token\trating:float\n1\t5\n"),
    ],
    "table, parquet": [
        Case("nothing", "a.parquet", b""),
        Case("parquet cut short", "a.parquet", parquet(ROWS)[:-300]),
        Case("text", "a.parquet", CSV),
        Case("no rows", "a.parquet", parquet({name: values[:0] for name, values in ROWS.items()})),
        Case("a column that stands there twice", "a.parquet", parquet(ROWS, twice="item_id")),
        Case("a column that is missing", "a.parquet", parquet({"item_id": [1], "visitor": [2]})),
        Case("a word for nothing as an id", "a.parquet", parquet(ROWS | {"item_id": ["7", "None"]})),
        Case("null as an id", "a.parquet", parquet(ROWS | {"item_id": [7, None]})),
        Case("NaN as a time", "a.parquet", parquet(ROWS | {"timestamp": [1.5e9, float("nan")]})),
        Case("a negative time", "a.parquet", parquet(ROWS | {"timestamp": [1500000000, -5]})),
        Case("a date that no calendar has", "a.parquet", parquet(ROWS | {"timestamp": FAR})),
        Case("dates as ids", "a.parquet", parquet(ROWS | {"item_id": MAY})),
        Case("ids as floats, too large for them", "a.parquet", parquet(ROWS | {"item_id": [2.0**54, 8.0]})),
        Case(
            "times in 32 bits",
            "a.parquet",
            parquet(ROWS | {"timestamp": pl.Series([1.5e9, 1.5e9], dtype=pl.Float32)}),
        ),
        Case("objects as times", "a.parquet", parquet(ROWS | {"timestamp": [{"day": 1}, {"day": 2}]})),
        Case("lists of different lengths", "a.parquet", parquet(WHOLE | {"item_id": [[7, 8], [9, 7]]})),
        Case("lists beside single values", "a.parquet", parquet(WHOLE | {"rating": [5.0, 4.0]})),
        Case("lists in lists", "a.parquet", parquet(WHOLE | {"item_id": [[[7], [8]], [[9]]]})),
        Case("null in a list", "a.parquet", parquet(WHOLE | {"item_id": [[7, None], [9]]})),
        Case("users as lists", "a.parquet", parquet(WHOLE | {"user_id": [[1, 1], [2]]})),
    ],
    "merrec": [
        Case("other columns", "a.parquet", parquet(ROWS)),
        Case("a shard with ids of another type", "a.parquet", parquet(SHARD),
             {"b.parquet": parquet(SHARD | {"product_id": ["7", "8"]})}),
        Case("a shard without a column", "a.parquet", parquet(SHARD),
             {"b.parquet": parquet({name: values for name, values in SHARD.items() if name != "stime"})}),
        Case("a shard cut short", "a.parquet", parquet(SHARD), {"b.parquet": parquet(SHARD)[:400]}),
        Case("an empty shard", "a.parquet", parquet(SHARD), {"b.parquet": b""}),
        Case("null as a type", "a.parquet", parquet(SHARD | {"event_id": ["item_view", None]})),
        Case("numbers with a point as types", "a.parquet", parquet(SHARD | {"event_id": [1.5, 2.5]})),
    ],
    "ebnerd": [
        Case("articles", "articles.parquet", parquet({"article_id": [1], "title": ["x"]})),
        Case("lists of different lengths", "history.parquet", parquet(HISTORY | {"read_time_fixed": [[5.0], [7.0]]})),
        Case("a negative read time", "history.parquet", parquet(HISTORY | {"read_time_fixed": [[5.0, -1.0], [7.0]]})),
        Case("one read time per user", "history.parquet", parquet(HISTORY | {"read_time_fixed": [5.0, 7.0]})),
        Case("no read times", "behaviors.parquet", parquet(PAGES | {"next_read_time": [None, None]})),
        Case("several clicks with one read time", "behaviors.parquet",
             parquet(PAGES | {"article_ids_clicked": [[13, 15], [14]]})),
        Case("clicks on half articles", "behaviors.parquet", parquet(PAGES | {"article_ids_clicked": [13.5, 14.5]})),
        Case("null as a time", "behaviors.parquet", parquet(PAGES | {"impression_time": [None, MAY[0]]}),
             {"history.parquet": parquet(HISTORY)}),
    ],
    "movielens": [
        Case("another table", "ratings.csv", b"a,b\n1,2\n"),
        Case("too few fields in the first row", "ratings.dat", b"1::2\n"),
        Case("a row cut off", "ratings.dat", DOTS + b"1::661"),
        Case("a row with too many fields", "u.data", TABS + b"1\t661\t3\t978302109\t1\n"),
        Case("a rating that is none", "u.data", TABS + TABS.replace(b"\t5", b"\tgood")),
    ],
    "sasrec": [
        Case("three columns", "a.txt", b"1 7 9\n"),
        Case("a row cut off", "a.txt", b"1 7\n1\n"),
    ],
    "amazon": [
        Case("users that look like items", "a.csv", b"1,2,5.0,1369699200\n"),
        Case("a header of somebody's", "a.csv", b"user,item,rating,time\n" + AMAZON),
        Case("a column named twice", "a.csv", b"user_id,parent_asin,rating,timestamp,rating\nA,B,1,1588615855070,5\n"),
        Case("a row cut off", "a.csv", AMAZON + b"A3JM6GV9MNOF9X,B0000"),
        Case("a review cut off", "a.jsonl", REVIEW + REVIEW[:40]),
        Case("metadata in place of reviews", "a.jsonl", b'{"parent_asin": "B01", "title": "Soap"}\n'),
    ],
    "online-retail": [
        Case("other columns", "a.csv", b"InvoiceNo,InvoiceDate,CustomerID\n1,2010-12-01 08:26:00,17850\n"),
        Case(
            "a date that is none",
            "a.csv",
            b"InvoiceNo,StockCode,InvoiceDate,CustomerID\n1,x,2010-12-01 08:26:00,1\nC2,x,,1\n3,x,12/1/10,1\n",
        ),
    ],
    "globo-news": [Case("other columns", "a.csv", b"user_id,article\n1,2\n")],
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {"merrec": {"events": True}, "ebnerd": {"keep": ["dwell"]}}


def answer(source: str, case: Case, bad_rows: str) -> str:
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in {case.name: case.contents, **(case.more or {})}.items():
            (Path(folder) / name).write_bytes(contents)
        path, options = Path(folder) / ("" if case.more else case.name), OPTIONS.get(source, {})
        try:
            frame = datasets.read(source, path, bad_rows=bad_rows, say=said.append, **options).collect()
        except UserError as error:
            return str(error).replace(f"{folder}/", "")
    skipped = [sentence.partition(": ")[2].partition(":")[0] for sentence in said if "rows skipped" in sentence]
    return (
        f"{skipped[0].removesuffix(' (data.bad_rows')}" if skipped else f"read: {frame.select(pl.len()).item()} events"
    )


FIELDS: dict[str, tuple[Any, Any]] = {  # of forms in test_fuzz.py: the places, or keys, of user and time
    "1M": (0, 3),
    "100K": (0, 3),
    "latest": (0, 3),
    "sasrec": (0, None),
    "Amazon 2014": (0, 3),
    "Amazon 2018": (1, 3),
    "Amazon 2023": (0, 3),
    "reviews 2014": ("reviewerID", "unixReviewTime"),
    "reviews 2023": ("user_id", "timestamp"),
    "retail": (3, 2),
    "globo": (0, 2),
}
EVERYWHERE = "a byte order mark", "CRLF"


def changed(form: Form, field: Any, value: Any) -> bytes:
    """The first row of a form twice, with another value in the second."""
    rows = [form.rows[0], form.rows[0]]
    if isinstance(field, str):
        rows[1] = json.dumps(json.loads(rows[1]) | {field: value})
    else:
        fields = rows[1].split(form.between)
        rows[1] = form.between.join(str(value) if place == field else one for place, one in enumerate(fields))
    return written(form, rows)


def spoilt(form: Form, user: Any, time: Any) -> Iterator[Case]:
    """What may be wrong with any text, in a form of a source."""
    rows = [form.rows[0], form.rows[0]]
    plain = written(form, rows)
    half = len(rows[1]) // 2 if isinstance(user, str) else len(rows[1].partition(form.between)[2]) + 1

    def case(what: str, contents: bytes) -> Case:
        return Case(what, form.name, gzip.compress(contents, mtime=0) if form.name.endswith(".gz") else contents)

    yield case(EVERYWHERE[0], b"\xef\xbb\xbf" + plain)
    yield case(EVERYWHERE[1], plain.replace(b"\n", b"\r\n"))
    yield case("bytes that are not UTF-8", changed(form, user, "Am?lie").replace(b"?", b"\xe9"))
    yield case("the last row cut off", plain[: -half - 1])
    yield case("a user that is empty", changed(form, user, ""))
    if time is not None:
        dates = form.source == "online-retail"
        yield case("NaN as a time", changed(form, time, "NaN"))
        yield case("a time before 1970", changed(form, time, "1969-12-31 00:00:00" if dates else -5))
        yield case("a time in the far future", changed(form, time, "2999-01-01 00:00:00" if dates else 10**17))
    if form.header:
        names = form.header.rstrip("\n").split(form.between)
        header = form.between.join([*names[:-1], names[0]]) + "\n"
        yield case("a column named twice", written(form._replace(header=header), rows))
    if form.name.endswith(".gz"):
        yield Case("gzip cut short", form.name, gzip.compress(plain, mtime=0)[:-12])


for name, fields in FIELDS.items():
    CASES[f"{FORMS[name].source}, {name}"] = [*spoilt(FORMS[name], *fields)]

PAIR, BEST = b"user_id,item_id\nu,1\n", b"user_id,item_id,rank\na,i1,1\na,i2,2\n"
OTHERS: dict[str, tuple[Callable[[Path], Any], list[Case]]] = {
    "items table": (
        lambda path: items.read(Items(path=str(path))),
        [
            Case("nothing", "items.csv", b""),
            Case("a header only", "items.csv", b"item_id,title\n"),
            Case("no ids", "items.csv", b"name,title\n1,a\n"),
            Case("two columns of ids", "items.csv", b"asin,parent_asin,title\n1,2,b\n"),
            Case("a column named twice", "items.csv", b"item_id,title,title\n1,a,b\n"),
            Case("a row with too many fields", "items.csv", b"item_id,title\n1,a\n2,b,c\n"),
            Case("bytes that are not UTF-8", "items.csv", b"item_id,title\n1,Am\xe9lie\n"),
            Case("another separator", "movies.dat", b"1;a;x\n"),
            Case("another ending", "items.xml", b"<a/>"),
            Case("a line cut off", "items.jsonl", b'{"asin": 1}\n{"asin": \n'),
            Case("one object cut off", "items.json", b'{\n"1": "a",\n'),
            Case("gzip cut short", "items.csv.gz", gzip.compress(b"item_id,title\n1,a\n" * 99, mtime=0)[:-12]),
        ],
    ),
    "allow and block lists": (
        lists.read,
        [
            Case("nothing", "ids.csv", b""),
            Case("other columns", "ids.csv", b"what,note\n1,a\n2,b\n"),
            Case("bytes that are not UTF-8", "ids.txt", b"Am\xe9lie\n"),
            Case("a line cut off", "ids.jsonl", b'{"item_id": 7}\n{"item_id"'),
        ],
    ),
    "candidates by user": (
        lists.read_pairs,
        [
            Case("nothing", "pairs.csv", b""),
            Case("no users", "pairs.csv", b"item_id\n1\n"),
            Case("an item that is empty", "pairs.csv", PAIR + b"v,\n"),
            Case("a row with too many fields", "pairs.csv", PAIR + b"v,1,2\n"),
        ],
    ),
    "recommendations": (
        recommendations.read,
        [
            Case("nothing", "best.csv", b""),
            Case("no ranks", "best.csv", b"user_id,item_id\na,i1\n"),
            Case("a user that is empty", "best.csv", BEST + b",i1,1\n"),
            Case("a rank that is none", "best.csv", BEST + b"b,i1,first\n"),
            Case("half a rank", "best.csv", BEST + b"b,i1,1.5\n"),
            Case("an item twice", "best.csv", BEST + b"a,i1,3\n"),
            Case("a rank left out", "best.csv", BEST + b"a,i3,4\n"),
            Case("scores that are no numbers", "best.csv", b"user_id,item_id,rank,score\na,i1,1,nan\n"),
            Case("scores that rise", "best.csv", b"user_id,item_id,rank,score\na,i1,1,0.1\na,i2,2,0.3\n"),
        ],
    ),
}  # fmt: skip


def other_answer(read: Callable[[Path], Any], case: Case) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / case.name
        path.write_bytes(case.contents)
        try:
            read(path)
        except UserError as error:
            return str(error).replace(f"{folder}/", "")
    return "read"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table() -> str:
    parts = [HEAD]
    for title, (read, cases) in OTHERS.items():
        parts += [f"\n## {title}\n", "| input | file | message |", "|---|---|---|"]
        parts += [f"| {case.what} | `{case.name}` | {cell(other_answer(read, case))} |" for case in cases]
    for title, cases in CASES.items():
        parts += [f"\n## {title}\n", "| input | file | message | with `bad_rows: skip` |", "|---|---|---|---|"]
        for case in cases:
            source = title.partition(",")[0]
            refused, skipped = (answer(source, case, bad_rows) for bad_rows in ("refuse", "skip"))
            other = "the same" if skipped == refused else cell(skipped)
            parts.append(f"| {case.what} | `{case.name}` | {cell(refused)} | {other} |")
    return "\n".join(parts) + "\n"


def test_the_table_of_bad_inputs_says_what_happens() -> None:
    text = table()
    if os.environ.get("PERSREC_WRITE"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text


def test_only_what_is_sound_is_read() -> None:
    read = [
        (title, case.what)
        for title, cases in CASES.items()
        for case in cases
        if answer(title.partition(",")[0], case, "refuse").startswith("read:")
    ]
    shop = "online-retail, retail"
    no_customer = {(shop, "the last row cut off"), (shop, "a user that is empty")}  # a quarter of its rows has none
    assert {what for _, what in {*read} - no_customer} == {*EVERYWHERE}
    assert {*read} > no_customer


def test_nothing_else_that_is_wrong_is_read() -> None:
    assert not [case.what for read, cases in OTHERS.values() for case in cases if other_answer(read, case) == "read"]
