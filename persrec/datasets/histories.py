"""Rows that hold whole histories: per user a list of items, with lists of times and the like beside it."""

from collections.abc import Mapping
from typing import Final

import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import DWELL, EVENT, ITEM, RATING, ROW, TIME, USER, WEIGHT, Say, Why, log, reading

LIST: Final = "_list"  # RecBole's mark of a field whose values are lists


def of_recbole(frame: pl.LazyFrame, found: Mapping[str, str]) -> pl.LazyFrame:
    """RecBole's history lists with the event after them at their end; `found` maps names without types to columns.

    Lists are text with spaces, or of a parquet file lists.

    user_id item_id_list item_id        user_id item_id
          1 "7 8"        9          ->        1 [7, 8, 9]
    """
    whole, frame = [pl.col(found[USER]).alias(USER)], _as_lists(frame)
    kinds = frame.collect_schema()
    for ours in (ITEM, TIME, RATING, WEIGHT, DWELL, EVENT):
        if f"{ours}{LIST}" in found:
            theirs = found[f"{ours}{LIST}"]
            before = pl.col(theirs)
            if kinds[theirs] == pl.String:
                before = before.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
            after = [pl.col(found[ours])] if ours in found else []
            if after and kinds[theirs] in (pl.String, pl.List):
                before = before.fill_null([])
            whole.append(pl.concat_list(before, *after).alias(ours))
    return frame.select(whole)


def exploded(frame: pl.LazyFrame, *, where: str, first_row: int = 1, why: Why = str, say: Say = log) -> pl.LazyFrame:
    """One event per row of a log in our names whose columns may hold lists; the rest is returned as it is.

    Raises:
        UserError: only some columns hold lists, lists of one row have different lengths, or a user has two rows
            and there are no times to put their events in order.
    """
    with reading(where, why):
        frame = _as_lists(frame)
        schema = frame.collect_schema()
        lists = [name for name, kind in schema.items() if kind == pl.List]
    if not lists:
        return frame
    _check_kinds(lists, list(schema), where=where)
    with reading(where, why):
        again = (~pl.col(USER).is_first_distinct()).alias("again")
        lengths = frame.select(pl.col(lists).list.len().fill_null(0), again).collect()
    _check_lists(lengths, lists, list(schema), where=where, first_row=first_row)
    say(f"{where}: {lengths.height:,} rows with whole histories, one event per entry of {', '.join(lists)}.")
    empty = int((lengths[ITEM] == 0).sum())
    if empty:
        say(f"{where}: {empty:,} rows without any event are left out.")
    return frame.with_row_index(ROW).filter(pl.col(ITEM).list.len() > 0).explode(lists)


def _as_lists(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Lists of a fixed length as any lists."""
    fixed = [name for name, kind in frame.collect_schema().items() if kind == pl.Array]
    return frame.with_columns(pl.col(fixed).arr.to_list()) if fixed else frame


def _check_kinds(lists: list[str], names: list[str], *, where: str) -> None:
    if USER in lists:
        raise UserError(f"{where}: column {USER} holds lists; expected one user per row.")
    single = [name for name in names if name not in (USER, *lists)]
    if single:
        raise UserError(
            f"{where}: column {lists[0]} holds lists and column {single[0]} single values; expected both as lists, or "
            "one event per row."
        )


def _check_lists(lengths: pl.DataFrame, lists: list[str], names: list[str], *, where: str, first_row: int) -> None:
    for name in lists:
        other = (lengths[name] != lengths[ITEM]).arg_true()
        if len(other):
            row = lengths.row(other[0], named=True)
            raise UserError(
                f"{where}: row {other[0] + first_row} has {row[ITEM]} entries of {ITEM} and {row[name]} of {name} "
                f"({len(other):,} such rows); expected lists of the same length."
            )
    again = lengths["again"].arg_true()
    if len(again) and TIME not in names:
        raise UserError(
            f"{where}: row {again[0] + first_row} has a user who had a row before ({len(again):,} such rows); without "
            "times expected one row per user, with the whole history. Files that repeat parts of a history as training "
            "examples cannot be read as logs."
        )
