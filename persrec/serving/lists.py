"""Lists of items that may, or may not, be recommended, and of those that are to be scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.datasets import json_lines
from persrec.datasets.files import uneven_row
from persrec.datasets.quoting import scan_csv
from persrec.datasets.table import JSON_LINES, PARQUET, SEPARATORS, as_polars, is_frame
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, USER, check_twice, reading, shown
from persrec.interactions.values import plain_ids
from persrec.serving.histories import OneOrMore, Say, examples, ids_of, plain_id

Ints = npt.NDArray[np.int64]
TEXT = ".txt"


def chosen(item_ids: pl.Series, allow: OneOrMore | None, block: OneOrMore | None, say: Say) -> Ints | None:
    """The items (1..V, ascending) that `allow` names, or all, without those that `block` names; None: all.

    Ids that the catalogue does not have are counted and said. Raises UserError where no item is left.
    """
    if allow is None and block is None:
        return None
    left = np.ones(len(item_ids), dtype=bool) if allow is None else _named(item_ids, allow, "allow", say)
    if allow is not None and not left.any():
        raise UserError(
            f"allow: got a list without any item of the run's catalogue, expected ids such as {item_ids[0]!r}; leave "
            "the list out to allow every item"
        )
    if block is not None:
        left &= ~_named(item_ids, block, "block", say)
    if not left.any():
        raise UserError("block: got every item that is allowed, so there is nothing to recommend; block fewer")
    return np.flatnonzero(left) + 1


def _named(item_ids: pl.Series, listed: OneOrMore, what: str, say: Say) -> npt.NDArray[np.bool_]:
    """Which items of the catalogue a list names."""
    asked = pl.Series(list(dict.fromkeys(map(plain_id, ids_of(listed)))), dtype=pl.String)
    known = item_ids.cast(pl.String)
    unknown = asked.filter(~asked.is_in(known.implode()))
    if len(unknown):
        say(
            f"{what}: {len(unknown):,} of {len(asked):,} ids are not in the run's catalogue ({examples(unknown)}); "
            "they are left out"
        )
    return known.is_in(asked.implode()).to_numpy()


def is_file(given: Any) -> TypeGuard[str | Path]:
    """Whether ids were given as a file: a Path, or text that ends or stands as one."""
    endings = (TEXT, *SEPARATORS, *PARQUET, *JSON_LINES)
    return isinstance(given, Path) or (isinstance(given, str) and (given.endswith(endings) or Path(given).is_file()))


def read(path: str | Path) -> list[str]:
    """The ids of a file: the column `item_id` of a table, or one per line of a .txt.

    Raises:
        UserError: there is no such file, it cannot be read, has no such column, or a row without an id.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected ids of items, one per line (.txt) or a table with {ITEM}")
    if path.suffix == TEXT:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{path}: is not UTF-8; save it as UTF-8, with one id per line") from None
        return [line.strip() for line in lines if line.strip()]
    return _columns(path, [ITEM], known=[TEXT])[ITEM].to_list()


class Candidates(NamedTuple):
    """Items by user."""

    by_user: Mapping[Any, Any]
    rows: Ints | None = None  # where each of them stood, user by user, in a table of pairs


def by_user(candidates: Any) -> Candidates | None:
    """The items of each user, of a mapping, a file or a frame of pairs; None: a list of items for all of them."""
    if isinstance(candidates, Mapping):
        return Candidates(candidates)
    if not isinstance(candidates, Path) and not is_frame(candidates):
        return None
    pairs = read_pairs(candidates) if isinstance(candidates, Path) else _pairs(candidates)
    own = pairs.with_row_index("row").group_by(USER, maintain_order=True).agg(ITEM, "row")
    return Candidates(dict(zip(own[USER], own[ITEM], strict=True)), own["row"].explode().to_numpy().astype(np.int64))


def _pairs(frame: Any) -> pl.DataFrame:
    pairs = as_polars(frame).collect()
    missing = [name for name in (USER, ITEM) if name not in pairs.columns]
    if missing or pairs.is_empty():
        got = shown(pairs.columns) if missing else "no rows"
        raise UserError(f"candidates: got {got}, expected a frame with a row for each pair of {USER} and {ITEM}")
    return pairs.select(USER, ITEM)


def read_pairs(path: str | Path) -> pl.DataFrame:
    """The ids, as text, of a table with a row for each pair of `user_id` and `item_id`.

    Raises:
        UserError: there is no such file, it cannot be read, lacks a column, has no row, or a row without an id.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a table with {USER} and {ITEM}, a row for each pair to score")
    pairs = _columns(path, [USER, ITEM])
    if pairs.is_empty():
        raise UserError(f"{path}: no rows; expected one for each pair of user and item to score")
    return pairs


def _columns(path: Path, wanted: list[str], *, known: Sequence[str] = ()) -> pl.DataFrame:
    """Columns of ids of a table, as text; `known` are endings that are read elsewhere."""
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; expected a table with {' and '.join(wanted)}")

    def fault() -> str:
        if path.suffix in JSON_LINES:
            return json_lines.fault(path, wanted)
        return uneven_row(path, SEPARATORS[path.suffix]) if path.suffix in SEPARATORS else ""

    with reading(str(path), fault):
        table = _table(path, wanted, known)
        names = table.collect_schema().names()
        missing = [name for name in wanted if name not in names]
        if missing:
            absent = f"missing column{'s' * (len(missing) > 1)} {', '.join(missing)}"
            raise UserError(f"{path}: {absent}; got {shown(names)}; name the columns {', '.join(wanted)}")
        check_twice({name: name for name in wanted}, names, where=str(path))
        found = table.select(wanted).collect()
    ids = pl.DataFrame([plain_ids(found[name], where=str(path)).cast(pl.String) for name in wanted])
    for name in wanted:
        if ids[name].null_count():
            row = int(ids[name].is_null().arg_true()[0]) + 1 + (path.suffix in SEPARATORS)
            raise UserError(
                f"{path}: {ids[name].null_count():,} rows have no {name}, the first is row {row}; remove them"
            )
    return ids


def _table(path: Path, wanted: list[str], known: Sequence[str]) -> pl.LazyFrame:
    if path.suffix in PARQUET:
        return pl.scan_parquet(path)
    if path.suffix in JSON_LINES:
        return json_lines.scan(path, wanted)
    if path.suffix in SEPARATORS:
        return scan_csv(path, separator=SEPARATORS[path.suffix])
    endings = ", ".join([*known, *SEPARATORS, *PARQUET, *JSON_LINES])
    raise UserError(f"{path}: unknown ending {path.suffix!r}; expected one of {endings}")
