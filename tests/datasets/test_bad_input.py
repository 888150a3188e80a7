"""What every kind of bad input gets, as a table: benchmarks/results/bad_input.md is what this test writes.

PERSREC_WRITE=1 writes it anew; else the test fails where the file says something else.
"""

import gzip
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import polars as pl

from persrec import datasets
from persrec.errors import UserError

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "bad_input.md"
HEAD = """# What bad input gets

Written by `tests/datasets/test_bad_input.py` (`PERSREC_WRITE=1` writes it anew). Each message is the one sentence that
a person gets, with exit code 2 and no traceback; the last column is what happens with `data.bad_rows: skip`, which
leaves out rows whose values are missing or cannot be read, counts them and says so. `tests/datasets/test_fuzz.py`
damages files of every reader at random and accepts nothing but a sound log or such a message."""
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


CASES: dict[str, list[Case]] = {
    "table": [
        Case("nothing", "log.csv", b""),
        Case("a header only", "log.csv", b"user_id,item_id\n"),
        Case("no header", "log.csv", CSV.split(b"\n", 1)[1]),
        Case("another separator", "log.csv", CSV.replace(b",", b";")),
        Case("another ending", "log.xlsx", CSV),
        Case("a column named twice", "log.csv", b"user_id,item_id,user_id\n1,2,3\n"),
        Case("a row cut off", "log.csv", CSV + b"u3,"),
        Case("a row with too many fields", "log.csv", CSV + b"u3,d,1500000120,3,9\n"),
        Case("a header in the middle", "log.csv", CSV + CSV),
        Case("empty ids", "log.csv", CSV + b",d,1500000120,3\nu3, ,1500000120,3\n"),
        Case("an id of -1", "log.csv", b"user_id,item_id\n1,2\n-1,3\n"),
        Case("a line break in an id", "log.csv", CSV + b'"u3\nu4",d,1500000120,3\n'),
        Case("a quote that is not closed", "log.csv", CSV + b'"u3,d,1500000120,3\n'),
        Case("a zero byte in an id", "log.csv", CSV + b"u\x003,d,1500000120,3\n"),
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
        Case("other keys", "log.jsonl", JSON.replace(b"user_id", b"visitor")),
        Case("Latin-1", "log.jsonl", JSON + '{"user_id": "é"}\n'.encode("latin-1")),
        Case("lists of different lengths", "log.jsonl", b'{"user_id": 1, "item_id": [7, 8], "timestamp": [9]}\n'),
    ],
    "table, RecBole": [
        Case("a user with two histories", "a.inter", LISTS + b"1\t7 8\t9\n2\t5\t6\n1\t7 8 9\t4\n"),
        Case("a history without its last item", "a.inter", LISTS + b"1\t7 8\n2\t5\t6\n"),
        Case("no item", "a.inter", b"user_id:token\trating:float\n1\t5\n"),
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
}


def answer(source: str, case: Case, bad_rows: str) -> str:
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / case.name
        path.write_bytes(case.contents)
        try:
            frame = datasets.read(source, path, bad_rows=bad_rows, say=said.append).collect()
        except UserError as error:
            return str(error).replace(f"{folder}/", "")
    skipped = [sentence.partition(": ")[2].partition(":")[0] for sentence in said if "rows skipped" in sentence]
    return (
        f"{skipped[0].removesuffix(' (data.bad_rows')}" if skipped else f"read: {frame.select(pl.len()).item()} events"
    )


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table() -> str:
    parts = [HEAD]
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
    read = {
        case.what
        for title, cases in CASES.items()
        for case in cases
        if answer(title.partition(",")[0], case, "refuse").startswith("read:")
    }
    assert read == {"a byte order mark", "CRLF"}
