"""MovieLens as published: 1M and 10M (`ratings.dat`), 100K (`u.data`), latest, 20M, 25M and 32M (`ratings.csv`)."""

from pathlib import Path

import polars as pl

from persrec.datasets.files import first_line, one_file, scan_text, uneven
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, RATING, TIME, USER, Say, conform, log

NAMES = ("ratings.dat", "u.data", "ratings.csv")
HEADER = "userId,movieId,rating,timestamp"
COLUMNS = (USER, ITEM, RATING, TIME)


def files(path: Path) -> list[Path]:
    """The ratings in a folder, or the file itself."""
    return [one_file(path, patterns=NAMES, what="MovieLens ratings (unpack the zip first)")]


def read(path: Path, *, bad_rows: str = "refuse", say: Say = log) -> pl.LazyFrame:
    """The log; which of the three forms it has is seen in its first line.

    Raises:
        UserError: the first line has none of them.
    """
    (file,) = files(path)
    line = first_line(file)
    if "::" in line:
        separator, first_row = "::", 1
        frame = scan_text(file, COLUMNS, separator=separator)
    elif "\t" in line:
        separator, first_row = "\t", 1
        frame = scan_text(file, COLUMNS, separator=separator)
    elif line == HEADER:
        separator, first_row = ",", 2
        frame = pl.scan_csv(file, infer_schema=False, with_column_names=lambda _: list(COLUMNS))
    else:
        raise UserError(
            f"{file}: not MovieLens ratings: the first line is {line[:80]!r}, expected user::item::rating::time, the "
            f"same with tabs, or the header {HEADER}. Use source: table for other forms."
        )
    form = {"::": "1M (`::`)", "\t": "100K (tabs)", ",": "latest (csv)"}[separator]
    say(f"{file}: MovieLens in the form of {form}.")
    return conform(
        frame,
        where=str(file),
        unit="s",
        first_row=first_row,
        bad_rows=bad_rows,
        why=uneven(file, separator),
        say=say,
    )
