"""Amazon ratings without a header: 2014 is user, item, rating, time; 2018 ("ratings only") is item, user, rating, time.

The two are told apart by the product numbers, which have ten characters; `columns` decides where that fails.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from persrec.datasets.files import one_file, scan_text, uneven_row
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, RATING, TIME, USER, Say, conform, log, reading

PRODUCT = r"^[0-9A-Z]{10}$"
FIELDS = ("1", "2", "3", "4")
SAMPLE = 1000  # rows that decide
SURE = 0.9  # of them look like a product, and fewer than 1 - SURE in the other column


def files(path: Path) -> list[Path]:
    """The csv in a folder, or the file itself."""
    return [one_file(path, patterns=("*.csv",), what="an Amazon ratings csv")]


def read(path: Path, *, columns: Mapping[str, str] | None = None, say: Say = log) -> pl.LazyFrame:
    """The log; `columns` may say in which field the user and the item are: {user_id: "1", item_id: "2"}.

    Raises:
        UserError: there is a header, or the order of user and item cannot be seen.
    """
    (file,) = files(path)
    frame = scan_text(file, FIELDS, separator=",")
    with reading(str(file), lambda: uneven_row(file, ",")):
        head = frame.head(SAMPLE).collect()
    if head["4"].head(1).cast(pl.Int64, strict=False).is_null().all():
        raise UserError(
            f"{file}: the first line is {','.join(map(str, head.row(0)))!r}, expected numbers in fields 3 and 4 and no "
            "header. Use source: table for a file with a header."
        )
    user, item = _given(columns) if columns else _recognised(head, file)
    year = "2014" if user == "1" else "2018"
    say(f"{file}: Amazon ratings in the form of {year}: user in field {user}, item in field {item}.")
    named = frame.select(
        pl.col(user).alias(USER), pl.col(item).alias(ITEM), pl.col("3").alias(RATING), pl.col("4").alias(TIME)
    )
    return conform(named, where=str(file), unit="s", why=lambda: uneven_row(file, ","), say=say)


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
