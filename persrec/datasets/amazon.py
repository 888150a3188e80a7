"""Amazon reviews and ratings of 2014, 2018 and 2023 (McAuley et al. 2015, Ni et al. 2019, Hou et al. 2024).

| file                          | 2014 and 2018                                 | 2023                              |
|-------------------------------|-----------------------------------------------|-----------------------------------|
| reviews, JSON lines, also .gz | reviewerID, asin, overall, unixReviewTime (s) | user_id, parent_asin, rating,     |
|                               |                                               | timestamp (ms)                    |
| ratings, csv, also .gz        | no header: user, item, rating, time in 2014;  | a header with these names         |
|                               | item, user, rating, time in 2018              |                                   |

The two forms without a header are told apart by the product numbers, which have ten characters; `columns` decides
where that fails.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from persrec.datasets import json_lines
from persrec.datasets.files import first_line, one_file, scan_text, uneven
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, RATING, TIME, USER, Say, check_columns, check_twice, conform, log, reading

PRODUCT = r"^[0-9A-Z]{10}$"
FIELDS = ("1", "2", "3", "4")
SAMPLE = 1000  # rows that decide
SURE = 0.9  # of them look like a product, and fewer than 1 - SURE in the other column
PATTERNS = ("*.csv", "*.csv.gz", "*.jsonl", "*.jsonl.gz", "*.json", "*.json.gz")
OLD = {USER: "reviewerID", ITEM: "asin", RATING: "overall", TIME: "unixReviewTime"}
NEW = {USER: "user_id", ITEM: "parent_asin", RATING: "rating", TIME: "timestamp"}


def files(path: Path) -> list[Path]:
    """The reviews or ratings in a folder (not the metadata, whose names start with `meta_`), or the file itself."""
    return [one_file(path, patterns=PATTERNS, what="Amazon reviews or ratings", but="meta_")]


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, bad_rows: str = "refuse", say: Say = log
) -> pl.LazyFrame:
    """The log; `columns` may say in which field user and item of a csv are: {user_id: "1", item_id: "2"}.

    Raises:
        UserError: none of the forms is seen, or the order of user and item is not.
    """
    (file,) = files(path)
    line, where = first_line(file), str(file)
    common: dict[str, Any] = {"where": where, "bad_rows": bad_rows, "say": say}
    if line.startswith("{"):
        frame = json_lines.scan(file, {*OLD.values(), *NEW.values()})
        with reading(where):
            names = frame.collect_schema().names()
        return conform(
            _named(frame, names, where, say), why=lambda: json_lines.fault(file), unit=_unit(names), **common
        )
    if NEW[ITEM] in line.split(","):
        frame = pl.scan_csv(file, infer_schema=False, quote_char=None)
        with reading(where, uneven(file, ",")):
            names = frame.collect_schema().names()
        named = _named(frame, names, where, say)
        return conform(named, first_row=2, why=uneven(file, ","), unit=_unit(names), **common)
    frame = _without_header(file, columns, say)
    return conform(frame, unit="s", why=uneven(file, ","), **common)


def _unit(names: list[str]) -> str:
    return "s" if OLD[USER] in names else "ms"


def _named(frame: pl.LazyFrame, names: list[str], where: str, say: Say) -> pl.LazyFrame:
    """Our columns of reviews with names, of either form."""
    old = OLD[USER] in names
    columns = OLD if old else NEW
    check_columns(names, where=where, required=list(columns.values()))
    check_twice(columns, names, where=where)
    say(f"{where}: Amazon in the form of {'2014 and 2018' if old else '2023'}: an item is a {columns[ITEM]}.")
    return frame.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())


def _without_header(file: Path, columns: Mapping[str, str] | None, say: Say) -> pl.LazyFrame:
    """Our columns of ratings without a header."""
    frame = scan_text(file, FIELDS, separator=",")
    with reading(str(file), uneven(file, ",")):
        head = frame.head(SAMPLE).collect()
    if str(head.row(0)[0]).lstrip().startswith(("[", "{")):
        raise UserError(
            f"{file}: is JSON, but not of one event per line; expected ratings without a header, or lines of JSON. "
            "Write one object per line and call it .jsonl."
        )
    if head["4"].head(1).cast(pl.Int64, strict=False).is_null().all():
        raise UserError(
            f"{file}: the first line is {','.join(map(str, head.row(0)))!r}, expected numbers in fields 3 and 4 and no "
            "header. Use source: table for a file with a header."
        )
    user, item = _given(columns) if columns else _recognised(head, file)
    year = "2014" if user == "1" else "2018"
    say(f"{file}: Amazon ratings in the form of {year}: user in field {user}, item in field {item}.")
    return frame.select(
        pl.col(user).alias(USER), pl.col(item).alias(ITEM), pl.col("3").alias(RATING), pl.col("4").alias(TIME)
    )


def _given(columns: Mapping[str, str]) -> tuple[str, str]:
    """The fields of user and item, as the user has them."""
    user, item = columns.get(USER, ""), columns.get(ITEM, "")
    if {user, item} != {"1", "2"} or len(columns) != 2:
        raise UserError(
            f'data.columns: got {dict(columns)}, expected {{user_id: "1", item_id: "2"}} (2014) or '
            '{user_id: "2", item_id: "1"} (2018) for source amazon.'
        )
    return user, item


def _recognised(head: pl.DataFrame, file: Path) -> tuple[str, str]:
    """The fields of user and item, as the values show them."""
    first, second = (head[field].str.contains(PRODUCT).sum() / head.height for field in ("1", "2"))
    if second >= SURE and first <= 1 - SURE:
        return "1", "2"
    if first >= SURE and second <= 1 - SURE:
        return "2", "1"
    raise UserError(
        f"{file}: cannot tell users from items: {first:.0%} of field 1 and {second:.0%} of field 2 have the ten "
        'characters of a product number. Set data.columns: {user_id: "1", item_id: "2"} (2014) or '
        '{user_id: "2", item_id: "1"} (2018).'
    )
