"""JSON lines: scanned as text and lists of text, and what is wrong with a line that is no object."""

import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl

from persrec.datasets.files import opened
from persrec.errors import UserError

SAMPLE: Final = 1000  # lines whose keys are known from the beginning
OBJECT: Final = r'^\{".*\}$'  # how a JSON object reads as text
NESTED: Final = rf'{OBJECT}|^\[(["\[{{\d-].*)?\]$'  # and how a list does; [REC] is text

Seen = dict[str, set[bool]]
"""The keys of objects, and whether their values, null aside, are lists, others or both."""


def scan(file: Path) -> pl.LazyFrame:
    """A scan of JSON lines: numbers and text as text, lists as lists of text, objects as null.

    A key that does not occur in the first `SAMPLE` lines is left out. One that has lists in some of them and other
    values in others is text, and the lists are null.

    Raises:
        UserError: one of these lines is not a JSON object.
    """
    kinds = kinds_of(keys(islice(objects(file), SAMPLE)))
    texts = [pl.col(key) for key, kind in kinds.items() if kind == pl.String]
    return pl.scan_ndjson(file, schema=kinds).with_columns(
        pl.when(~text.str.contains(NESTED)).then(text) for text in texts
    )


def keys(several: Iterable[dict[str, Any]]) -> Seen:
    """What keys objects have."""
    found: Seen = {}
    for one in several:
        for key, value in one.items():
            found.setdefault(key, set()).update([] if value is None else [isinstance(value, list)])
    return found


def kinds_of(seen: Seen) -> dict[str, pl.DataType]:
    """The types by which Polars reads such keys: lists of text where all are lists, else text. Keys with half a
    surrogate pair in them, which no text has, are left out."""
    return {
        key: pl.List(pl.String()) if kinds == {True} else pl.String()
        for key, kinds in seen.items()
        if key.encode(errors="ignore").decode() == key
    }


def objects(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file.

    Raises:
        UserError: a line is none.
    """
    for number, found in _parsed(file):
        if isinstance(found, str):
            raise UserError(f"{file}: cannot be read: row {number} {found}; correct or remove it.")
        yield found


def fault(file: Path, named: Iterable[str] = ()) -> str:
    """A sentence on the first line that is not a JSON object, or in which a named key that had lists before has
    something else; or nothing. For error messages."""
    listed: set[str] = set()
    for number, found in _parsed(file):
        if isinstance(found, str):
            return f"row {number} {found}; correct or remove it."
        for key in named:
            value = found.get(key)
            if key in listed and not isinstance(value, list | None):
                return f"row {number} has no list as {key}, as the rows before it have; write all rows alike."
            listed |= {key} if isinstance(value, list) else set()
    return ""


def _parsed(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The lines of a file that are not blank, by number: their objects, or what is wrong with them."""
    with opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _object(line)


def _object(line: bytes) -> dict[str, Any] | str:
    """The object of a line, or what is wrong with it."""
    shown = repr(line.decode("utf-8", errors="replace").strip()[:60])
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError:
        return f"is not UTF-8 ({shown})"
    except json.JSONDecodeError as error:
        return f"is not JSON ({shown}, from sign {error.colno} on)"
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({shown}: {error})"
    return value if isinstance(value, dict) else f"is not a JSON object ({shown})"


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(number: str) -> float:
    found = float(number)
    if math.isinf(found):
        raise ValueError(f"{number} is too large a number")
    return found
