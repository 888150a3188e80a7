"""JSON lines: scanned as text and lists of text, and what is wrong with a line that is no object."""

import codecs
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl

from persrec.datasets.files import opened
from persrec.errors import UserError

SAMPLE: Final = 1000  # lines whose keys are known from the beginning
PART: Final = 1 << 22  # bytes that are searched at once for keys that have not been seen
LINE: Final = "line"
OBJECT: Final = r'^\{(".*)?\}$'  # how a JSON object reads as text
NESTED: Final = rf'{OBJECT}|^\[(["\[{{\d-].*)?\]$'  # and how a list does; [REC] is text

Seen = dict[str, set[bool]]
"""The keys of objects, and whether their values, null aside, are lists, others or both."""


def scan(file: Path, wanted: Collection[str]) -> pl.LazyFrame:
    """A scan of JSON lines: numbers and text as text, lists as lists of text, objects as null.

    A key that is `wanted` is found wherever it first occurs, another one only in the first `SAMPLE` lines. One that is
    not wanted, or has lists in some of these lines and other values in others, is text, and lists are null.

    Raises:
        UserError: one of these lines is not a JSON object.
    """
    seen = keys(islice(objects(file), SAMPLE))
    late = {key for key in wanted if not seen.get(key)}
    seen |= {key: met for key, met in keys(_naming(file, late)).items() if key in late}
    kinds = kinds_of({key: met if key in wanted else set() for key, met in seen.items()})
    texts = [pl.col(key) for key, kind in kinds.items() if kind == pl.String]
    return frame(file, kinds).with_columns(pl.when(~text.str.contains(NESTED)).then(text) for text in texts)


def frame(file: Path, kinds: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """A scan of JSON lines with keys of these types; a byte order mark at the beginning is no part of them."""
    with opened(file) as lines:
        marked = lines.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    if not marked:
        return pl.scan_ndjson(file, schema=dict(kinds))
    whole: dict[str, Any] = {"has_header": False, "separator": "\x1f", "quote_char": None}  # every line is one field
    texts = pl.scan_csv(file, new_columns=[LINE], infer_schema=False, **whole).filter(pl.col(LINE).str.contains(r"\S"))

    def parsed(part: pl.DataFrame) -> pl.DataFrame:
        text = "\n".join(part[LINE]).encode()
        return pl.read_ndjson(text, schema=dict(kinds)) if text else pl.DataFrame(schema=dict(kinds))

    through = dict.fromkeys(("predicate_pushdown", "projection_pushdown", "slice_pushdown"), False)
    return texts.map_batches(parsed, schema=pl.Schema(kinds), streamable=True, **through)


def _naming(file: Path, wanted: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects with one of the keys, up to the part of the file in which the last of them is found.

    Parts in which no key stands are not parsed.
    """
    missing = {key: {json.dumps(key).encode(), f'"{key}"'.encode(errors="ignore")} for key in wanted}
    with opened(file) as lines:
        while missing and (part := lines.read(PART) + lines.readline()):
            names = {name for several in missing.values() for name in several if name in part}
            for line in part.splitlines() if names else ():
                found = _object(line) if any(name in line for name in names) else ""
                if isinstance(found, dict):
                    yield found
                    missing = {key: names for key, names in missing.items() if found.get(key) is None}


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
                yield number, _object(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


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
