"""What the readers share: finding the file in a folder, and scanning text without a header."""

import csv
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from persrec.errors import UserError


def one_file(path: Path, *, patterns: Sequence[str], what: str) -> Path:
    """The file itself, or in a folder the one that matches the first pattern that matches any.

    Raises:
        UserError: none, or several.
    """
    if path.is_file():
        return path
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:5])
            raise UserError(f"data.path: {path} has several candidates ({names}); name one of them.")
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise UserError(f"data.path: {path} has no {' or '.join(patterns)}, expected {what}; got {there}.")


def first_line(file: Path) -> str:
    """The first line of a text file, without its end.

    Raises:
        UserError: the file is empty.
    """
    with file.open("rb") as lines:
        line = lines.readline(65536)
    if not line.strip():
        raise UserError(f"{file}: the file is empty; expected a log with one event per row.")
    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")


def scan_text(file: Path, columns: Sequence[str], *, separator: str) -> pl.LazyFrame:
    """A scan of text without a header, every value as text; the first line must have exactly these columns."""
    line = first_line(file)
    got = line.split(separator)
    if len(got) != len(columns):
        raise UserError(
            f"{file}: the first line has {len(got)} column{'s' * (len(got) != 1)} ({line[:80]!r}), expected "
            f"{len(columns)} split by {separator!r}: {' '.join(columns)}. Use source: table for other forms."
        )
    return pl.scan_csv(
        file, has_header=False, separator=separator, infer_schema=False, quote_char=None, new_columns=list(columns)
    )


def uneven_row(file: Path, separator: str) -> str:
    """A sentence on the first row whose number of fields is not that of the first, or nothing; for error messages."""
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = csv.reader(lines, delimiter=separator)
        fields = len(next(rows, []))
        for number, row in enumerate(rows, start=2):
            if len(row) > fields:
                return f"row {number} has {len(row)} fields, expected {fields}; correct or remove it."
    return ""
