"""Text tables whose quotes stand around whole fields, or nowhere: of others Polars drops rows without a word."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import polars as pl

from persrec.datasets.files import opened
from persrec.errors import UserError

BLOCK: Final = 1 << 24  # bytes that are looked at together, up to the end of a line
LONGEST: Final = 1 << 26  # bytes of a field in quotes
SHOWN: Final = 40  # signs of what is wrong
FIELDS: Final = 10_000  # that are matched together
OPEN: Final = re.compile(rb'"[^"]*(?:""[^"]*)*')  # the beginning of a field in quotes


def scan_csv(file: Path, *, separator: str = ",", plain: bool = False) -> pl.LazyFrame:
    """A scan of a text table with a header, every value as text; where it is `plain`, quotes are signs in any case.

    Raises:
        UserError: see `quoted`.
    """
    with opened(file) as lines:
        quote = None if plain or not quoted(lines, separator, where=str(file)) else '"'
    return pl.scan_csv(file, separator=separator, infer_schema=False, quote_char=quote)


def quoted(lines: IO[bytes], separator: str, *, where: str) -> bool:
    """Whether fields stand in quotes; where none begins with a quote, quotes are signs like any other.

    Raises:
        UserError: some do, and a field has a quote inside, goes on after its closing one, or is not closed.
    """
    start = lines.tell()
    if not any(_begins(block, separator.encode()) for block in _blocks(lines)):
        return False
    lines.seek(start)
    fields = _fields(separator)
    rest, row = b"", 1
    for block in _blocks(lines):
        text = rest + block
        end = _end(fields, text)
        row += text.count(b"\n", 0, end)
        rest = text[end:]
        if rest and (len(rest) > LONGEST or not OPEN.fullmatch(rest)):
            break
    if rest:
        got = rest.partition(b"\n")[0][:SHOWN].decode("utf-8", errors="replace")
        raise UserError(
            f"{where}: row {row} has quotes that cannot be told apart (is one not closed?), at {got!r}; expected them "
            "around whole fields, and those inside of such a field twice; correct or remove it."
        )
    return True


def _blocks(lines: IO[bytes]) -> Iterator[bytes]:
    """Whole lines, without a byte order mark."""
    block = lines.read(BLOCK).removeprefix(codecs.BOM_UTF8)
    while block:
        yield block + lines.readline()
        block = lines.read(BLOCK)


def _begins(block: bytes, separator: bytes) -> bool:
    """Whether a field of some lines begins with a quote."""
    return block.startswith(b'"') or b'\n"' in block or separator + b'"' in block


def _fields(separator: str) -> re.Pattern[bytes]:
    """Whole fields, each with what ends it. (No possessive groups: Python below 3.11.5 ends them too soon.)"""
    mark = re.escape(separator.encode())
    field = rb'(?:"[^"]*(?:""[^"]*)*"\r?|[^"\n' + mark + rb"]*)"
    return re.compile(rb"(?:" + field + rb"(?:" + mark + rb"|\n|\Z)){0,%d}" % FIELDS)


def _end(fields: re.Pattern[bytes], text: bytes) -> int:
    """Where the whole fields at the beginning of a text end."""
    end, found = 0, fields.match(text)
    while found and found.end() > end:
        end = found.end()
        found = fields.match(text, end)
    return end
