"""What the readers share: finding the file in a folder, and scanning text without a header."""

import codecs
import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import check_columns, reading

PACKED: Final = ".gz"
UNPACKING: Final = (EOFError, gzip.BadGzipFile, zlib.error)
AGAIN: Final = "The file may be truncated or damaged; write or download it again."


def one_file(path: Path, *, patterns: Sequence[str], what: str, but: str = "/", alike: bool = False) -> Path:
    """The file itself, or in a folder the one that matches the first pattern that matches any; where these are `alike`,
    the one that matches any.

    Files whose names start with `but` are left out.

    Raises:
        UserError: none, or several.
    """
    if path.is_file():
        return path
    for group in [patterns] if alike else [[pattern] for pattern in patterns]:
        matching = sorted({file for pattern in group for file in path.glob(pattern)})
        found = [file for file in matching if not file.name.startswith(but)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:5])
            raise UserError(f"data.path: {path} has several candidates ({names}); name one of them.")
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise UserError(f"data.path: {path} has no {' or '.join(patterns)}, expected {what}; got {there}.")


def ending(file: Path) -> str:
    """The ending without `.gz`: `.jsonl` for reviews.jsonl.gz."""
    return Path(file.name.removesuffix(PACKED)).suffix


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its name ends in .gz.

    Raises:
        UserError: it is not gzip, or ends before its end.
    """
    try:
        with gzip.open(file) if file.suffix == PACKED else file.open("rb") as lines:
            yield cast(IO[bytes], lines)
    except UNPACKING as error:
        raise UserError(f"{file}: cannot be unpacked: {error}. {AGAIN}") from None


def first_line(file: Path) -> str:
    """The first line of a text file, without its end.

    Raises:
        UserError: the file is empty, or not UTF-8.
    """
    with opened(file) as lines:
        line = lines.readline(65536)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{file}: cannot be read: it is UTF-16, expected UTF-8; save it so.")
    if not line.strip():
        raise UserError(f"{file}: the file is empty; expected a log with one event per row.")
    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")


def scan_parquet(*files: Path, columns: Sequence[str] = ()) -> pl.LazyFrame:
    """A scan of a table in one file or several, of which columns other than `columns` may differ.

    Raises:
        UserError: a file is empty or no parquet, lacks one of the columns, or has it in another type than the first.
    """
    kinds: dict[str, pl.DataType] = {}
    for file in files:
        if not file.stat().st_size:
            raise UserError(f"{file}: the file is empty; expected a log with one event per row.")
        with reading(str(file)):
            found = pl.read_parquet_schema(file)
        check_columns(list(found), where=str(file), required=columns)
        for name in columns:
            if found[name] != kinds.setdefault(name, found[name]):
                raise UserError(
                    f"{file}: column {name} is {found[name]}, expected {kinds[name]} as in {files[0]}; write all files "
                    "of the log with the same types."
                )
    return pl.scan_parquet(list(files), missing_columns="insert", extra_columns="ignore")


def scan_text(file: Path, columns: Sequence[str], *, separator: str) -> pl.LazyFrame:
    """A scan of text without a header, every value as text; the first line must have exactly these columns.

    Of a separator of two equal signs, Polars sees the first as one and the second as another after an empty field.
    """
    line = first_line(file)
    got = line.split(separator)
    if len(got) != len(columns):
        raise UserError(
            f"{file}: the first line has {len(got)} column{'s' * (len(got) != 1)} ({line[:80]!r}), expected "
            f"{len(columns)} split by {separator!r}: {' '.join(columns)}. Use source: table for other forms."
        )
    empty = len(separator) - 1
    names = [part for name in columns for part in (name, *[f"after {name}"] * empty)]
    frame = pl.scan_csv(
        file,
        has_header=False,
        separator=separator[0],
        infer_schema=False,
        quote_char=None,
        new_columns=names[: len(names) - empty],
    )
    return frame.select(columns)


def uneven_row(file: Path, separator: str, *, quoted: bool = True) -> str:
    """A sentence on the first row that cannot be read: too many fields, quotes, or no UTF-8; or nothing."""
    with opened(file) as lines:
        text = (line.decode("utf-8") for line in lines)
        rows = csv.reader(text, delimiter=separator[0], strict=True, quotechar='"' if quoted else None)
        row, fields = 0, 0
        try:
            for values in rows:
                fields = fields or len(values)
                if len(values) > fields:
                    return f"row {row + 1} has {len(values)} fields, expected {fields}; correct or remove it."
                row = rows.line_num
        except UnicodeDecodeError as error:
            sign = error.object[error.start : error.end]
            return f"row {rows.line_num + 1} is not UTF-8 ({sign!r}); save the file as UTF-8."
        except csv.Error:
            return f"row {row + 1} cannot be split (is a quote not closed?); correct or remove it."
    return ""


def uneven(file: Path, separator: str) -> Callable[[], str]:
    """`uneven_row` of text without quotes, to be asked when reading fails."""
    return lambda: uneven_row(file, separator, quoted=False)
