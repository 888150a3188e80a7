"""Lists that anybody recommended, read from a file or frame and scored on the queries of a prepared log.

One row per recommended item, in any order: `user_id, item_id, rank` (1, 2, 3, ... of each user) and, if there is one,
`score`, which must not rise with the rank. These are RecTools' names.

Shapes: Q queries, T targets, F lists of the file, L length of the longest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.constants import PAD
from persrec.datasets import json_lines
from persrec.datasets.files import uneven_row
from persrec.datasets.quoting import scan_csv
from persrec.datasets.table import JSON_LINES, PARQUET, SEPARATORS, as_polars
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, USER, Why, check_twice, reading, shown
from persrec.interactions.values import plain_ids
from persrec.prepared import Prepared
from persrec.retrieval.seen import Seen
from persrec.targets import Targets

RANK: Final = "rank"
SCORE: Final = "score"
COLUMNS: Final = (USER, ITEM, RANK, SCORE)
ROW: Final = "row"  # number of a row in the file
UNKNOWN: Final = -1  # an item that the log does not have: takes its rank, and is no target

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """Where the targets stand in somebody's lists."""

    rank: npt.NDArray[np.float64]  # (T,) inf where a target is not in its list, or there is none
    lists: Ints  # (Q, k) items 1..V; PAD where there is none, or one that the log does not have
    counts: dict[str, int]  # what was left out or missing, by what it is


def read(source: Any) -> pl.DataFrame:
    """The rows of a csv, tsv, parquet or jsonl file, or of a pandas or Polars frame, by user and rank.

    Raises:
        UserError: missing columns, no rows, ids or ranks that are none, an item twice in a list, ranks with gaps or
            repeats, scores that are not numbers or contradict the ranks; the message names file, row and user.
    """
    where, first_row, frame, why = _opened(source)
    with reading(where, why):
        names = frame.collect_schema().names()
        missing = [name for name in (USER, ITEM, RANK) if name not in names]
        if missing:
            raise UserError(
                f"{where}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; got {shown(names)}; "
                f"expected {USER}, {ITEM}, {RANK} and, if there is one, {SCORE}: rename the columns"
            )
        wanted = [name for name in COLUMNS if name in names]
        check_twice({name: name for name in wanted}, names, where=where)
        rows = frame.select(wanted).with_row_index(ROW, offset=first_row).collect()
    if rows.is_empty():
        raise UserError(f"{where}: no rows; expected one per recommended item")
    rows = rows.with_columns(_whole(rows[name], rows, where) for name in (USER, ITEM, RANK))
    if SCORE in wanted:
        rows = rows.with_columns(pl.col(SCORE).cast(pl.Float64, strict=False).fill_nan(None))
    rows = rows.sort(USER, RANK, maintain_order=True)
    _check(rows, where)
    return rows


def score(
    rows: pl.DataFrame, data: Prepared, targets: Targets, *, k: int, exclude_seen: bool, listed: int | None = None
) -> Scored:
    """The rank of each target in its user's list, which answers every query of that user.

    With `exclude_seen` items that the user had before the query take no rank, except the target itself, as when persrec
    ranks; the lists come without them, cut at `listed`, or else at k. Counted: `queries without a list` (all their
    targets are missed), `lists not asked for`, `unknown items` and, in the lists asked for, `seen items`, `lists
    shorter than k`.

    Raises:
        UserError: k below 1; no user or no item of the file is in the log.
    """
    if k < 1:
        raise UserError(f"k: got {k}, expected at least 1, the length of the lists that are looked at")
    users, items = _indices(rows, USER, data.user_ids(), 0), _indices(rows, ITEM, data.item_ids(), 1)
    table, place = _table(rows[RANK].to_numpy(), users, items, data.users)
    asked = place[targets.queries.user]
    there = asked < len(table) - 1  # (Q,) the last row of the table is that of users without a list
    lists = table[asked]  # (Q, L)
    first = data.offsets[targets.queries.user]
    known = Seen.from_ranges(data.items, first, first + targets.queries.end)
    seen = known.contains(np.arange(len(lists)), np.maximum(lists, PAD)) & (lists > PAD)
    hidden = seen if exclude_seen else np.zeros_like(seen)
    listed = k if listed is None else listed
    kept = _cut(lists, hidden, max(k, listed))
    counts = {
        "queries without a list": int((~there).sum()),
        "lists not asked for": rows[USER].n_unique() - len(np.unique(asked[there])),
        "unknown items": int((items == UNKNOWN).sum()),
        "seen items": int(seen.sum()),
        "lists shorter than k": int(((kept[:, :k] != PAD).sum(axis=1)[there] < k).sum()),
    }
    return Scored(_ranks(lists, hidden, targets), np.where(kept == UNKNOWN, PAD, kept)[:, :listed], counts)


def _opened(source: Any) -> tuple[str, int, pl.LazyFrame, Why]:
    """What to call a source, the number of its first row, the source itself, and what tells why it cannot be read."""
    if not isinstance(source, str | Path):
        return "recommendations", 1, as_polars(source), str
    path = Path(source)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected recommendations as csv, tsv, parquet or jsonl")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; expected one row per recommended item")
    if path.suffix in PARQUET:
        return str(path), 1, pl.scan_parquet(path), str
    if path.suffix in JSON_LINES:
        return str(path), 1, json_lines.scan(path, COLUMNS), lambda: json_lines.fault(path, COLUMNS)
    if path.suffix in SEPARATORS:
        separator = SEPARATORS[path.suffix]
        return str(path), 2, scan_csv(path, separator=separator), lambda: uneven_row(path, separator)
    known = ", ".join([*SEPARATORS, *PARQUET, *JSON_LINES])
    raise UserError(f"{path}: unknown ending {path.suffix!r}; expected one of {known}")


def _whole(column: pl.Series, rows: pl.DataFrame, where: str) -> pl.Series:
    """Ids as text or whole numbers, ranks as whole numbers from 1 on; none of them absent."""
    found = _ranks_of(column, where) if column.name == RANK else plain_ids(column, where=where)
    if found.null_count():
        row = rows[ROW].filter(found.is_null())
        expected = "a whole number from 1 on" if column.name == RANK else "an id: text or a whole number"
        value = column.filter(found.is_null())[0]
        got = "empty" if value is None else repr(value)
        raise UserError(
            f"{where}: row {row[0]}: {column.name} is {got} ({len(row):,} such rows); expected {expected}; correct or "
            "remove these rows"
        )
    return found


def _ranks_of(column: pl.Series, where: str) -> pl.Series:
    """Ranks as whole numbers; null where they are none."""
    if not (column.dtype == pl.String or column.dtype.is_numeric()):
        raise UserError(f"{where}: column {RANK} is {column.dtype}, expected whole numbers from 1 on")
    number = column.cast(pl.Float64, strict=False).fill_nan(None)
    whole = number.cast(pl.Int64, strict=False)
    return whole.set(whole.is_not_null() & ((whole != number) | (whole < 1)), None)


def _check(rows: pl.DataFrame, where: str) -> None:
    """Raise UserError unless every user has an item once, ranks 1, 2, 3, ... and scores that do not rise."""
    same = pl.col(USER) == pl.col(USER).shift(1)
    twice = rows.filter(pl.struct(USER, ITEM).is_duplicated()).sort(USER, ITEM, maintain_order=True)
    if len(twice):
        raise UserError(
            f"{where}: user {twice[USER][0]!r} has item {twice[ITEM][0]!r} twice, in rows {twice[ROW][0]} and "
            f"{twice[ROW][1]} ({len(twice):,} rows are of such items); expected each item once in a list"
        )
    wrong = rows.filter(pl.col(RANK) != pl.int_range(1, pl.len() + 1).over(USER))
    if len(wrong):
        ranks = rows.filter(pl.col(USER) == wrong[USER][0])[RANK].head(8).to_list()
        raise UserError(
            f"{where}: user {wrong[USER][0]!r} has the ranks {', '.join(map(str, ranks))} "
            f"({wrong[USER].n_unique():,} users have such); expected 1, 2, 3 and so on, without gaps or repeats"
        )
    if SCORE not in rows.columns:
        return
    absent = rows.filter(pl.col(SCORE).is_null())
    if len(absent):
        raise UserError(
            f"{where}: row {absent[ROW][0]}: a score of user {absent[USER][0]!r} is not a number ({len(absent):,} such "
            f"rows of {absent[USER].n_unique():,} users); expected a number, or no column {SCORE}"
        )
    rising = rows.filter(same & (pl.col(SCORE) > pl.col(SCORE).shift(1)))
    if len(rising):
        raise UserError(
            f"{where}: row {rising[ROW][0]}: the item at rank {rising[RANK][0]} of user {rising[USER][0]!r} has a "
            f"higher score than the one before ({rising[USER].n_unique():,} users have such); expected ranks by "
            f"falling score; rank anew, or leave out the column {SCORE}"
        )


def _indices(rows: pl.DataFrame, column: str, known: Any, first: int) -> Ints:
    """The log's numbers of a column of ids, from `first` on; UNKNOWN for what the log does not have."""
    ids = pl.Series(column, known)
    numbers = pl.DataFrame({column: ids, "number": np.arange(first, first + len(ids))})
    given = rows.select(column)
    if given[column].dtype != ids.dtype:  # "07" is not 7
        numbers, given = (frame.with_columns(pl.col(column).cast(pl.String)) for frame in (numbers, given))
    found = given.join(numbers, on=column, how="left", maintain_order="left")["number"].fill_null(UNKNOWN)
    if (found == UNKNOWN).all():
        raise UserError(
            f"recommendations: no {column} is in the log: got such as {rows[column][0]!r}, expected such as "
            f"{ids[0]!r}; give the ids of the log, and the log that the recommendations were made for"
        )
    return found.to_numpy()


def _table(rank: Ints, users: Ints, items: Ints, count: int) -> tuple[Ints, Ints]:
    """The lists (F+1, L) of the users whom the log has, then an empty one, and which of them is whose (U,)."""
    there = users != UNKNOWN
    own, row = np.unique(users[there], return_inverse=True)
    table = np.full((len(own) + 1, int(rank[there].max())), PAD, dtype=np.int64)
    table[row, rank[there] - 1] = items[there]
    place = np.full(count, len(own))
    place[own] = np.arange(len(own))
    return table, place


def _cut(lists: Ints, hidden: npt.NDArray[np.bool_], k: int) -> Ints:
    """The first k items of each list that are not hidden, in order. (Q, k)"""
    order = np.argsort(hidden | (lists == PAD), axis=1, kind="stable")
    kept = np.take_along_axis(np.where(hidden, PAD, lists), order, axis=1)[:, :k]
    return np.pad(kept, ((0, 0), (0, k - kept.shape[1])), constant_values=PAD)


def _ranks(lists: Ints, hidden: npt.NDArray[np.bool_], targets: Targets) -> npt.NDArray[np.float64]:
    """1 + the items before each target (T,) that are not hidden."""
    ranks = np.full(len(targets.item), np.inf)
    before: Ints = np.cumsum(~hidden, axis=1) - ~hidden
    for column in range(lists.shape[1]):
        found = lists[targets.query, column] == targets.item
        ranks[found] = 1 + before[targets.query[found], column]
    return ranks
