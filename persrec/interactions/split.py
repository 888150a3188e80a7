"""Which events are trained on and which are asked for.

A split of an ordered log is a bound per user, `train_end`, and queries for validation and test: of a user who has had
the events [0, end), which are the next `size`? Whatever is asked for in the test lies after what is asked for in the
validation, and that after what is trained on; a test query may use validation events as history.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import TIME, USER

INDEX, EVENTS, END, SIZE = "index", "events", "end", "size"  # place in the user's history, its length; see Queries
HOUR = 3_600_000  # ms
CHUNK = 1 << 22  # values compared at a time

Ints = npt.NDArray[np.int64]


class Split(NamedTuple):
    """Rows in the order of the users."""

    bounds: pl.LazyFrame  # train_end Int64, one row per user
    validation: pl.LazyFrame  # user, end, size Int64
    test: pl.LazyFrame


def split(events: pl.LazyFrame, settings: Mapping[str, Any]) -> Split:
    """The split of an ordered log (users 0.., no gaps) by the recipe's section of that name.

    Raises:
        UserError: the split asks for times and the log has none.
    """
    kind = settings["kind"]
    if kind in TIMED and TIME not in events.collect_schema().names():
        raise UserError(
            f"split: got {kind}, which asks for times, but the log has none; use leave-one-out or last, or give the "
            "column of the times (data.columns)"
        )
    place = pl.int_range(pl.len(), dtype=pl.Int64).over(USER).alias(INDEX)
    placed = events.with_columns(place, pl.len().over(USER).cast(pl.Int64).alias(EVENTS))
    return SPLITS[kind](placed, {key: value for key, value in settings.items() if key != "kind"})


def leave_one_out(events: pl.LazyFrame, settings: Mapping[str, Any]) -> Split:
    """The last event of a user is the test target, the one before it the validation target (n >= 3)."""
    return last(events, {"n": 1})


def last(events: pl.LazyFrame, settings: Mapping[str, Any]) -> Split:
    """The last n events of a user are test targets, the n before them validation targets, each by itself.

    Users with fewer than 2n + 1 events are trained on only.
    """
    n = settings["n"]
    enough = pl.col(EVENTS) >= 2 * n + 1
    validation, test = pl.col(EVENTS) - 2 * n, pl.col(EVENTS) - n
    return _cut(
        events,
        pl.when(enough).then(validation).otherwise(pl.col(EVENTS)),
        pl.when(enough).then(test),
        asked=pl.lit(True),
    )


def global_time(events: pl.LazyFrame, settings: Mapping[str, Any]) -> Split:
    """What lies before a moment is trained on; validation and test follow for everybody at the same moments.

    `validation` and `test` are the shares of all events that lie there, or the dates at which they begin; beside a date
    of the test the share of the validation is one of the events before it. Of each user the first n events of either
    part are asked for, each by itself; without n all are.
    """
    if "begins" not in settings:
        settings = with_moments(settings, events.select(TIME).collect().to_series().to_numpy())
    validation, test = ((pl.col(TIME) < moment).sum().over(USER).cast(pl.Int64) for moment in settings["begins"])
    place = pl.col(INDEX) - pl.when(pl.col(INDEX) >= test).then(test).otherwise(validation)
    asked = place < settings["n"] if "n" in settings else pl.lit(True)
    return _cut(events, validation, test, asked=asked)


def with_moments(settings: Mapping[str, Any], times: Ints) -> dict[str, Any]:
    """Settings of `global_time` with the moments (`begins`) at which its parts begin, by the times of the whole log, so
    that they hold for a part of it.

    Raises:
        UserError: the validation does not begin before the test.
    """
    share, late = settings["validation"], settings["test"]
    test = _moment(times, late, len(times))
    before = len(times)
    if isinstance(late, str):
        before = sum(int((times[start : start + CHUNK] < test).sum()) for start in range(0, before, CHUNK))
    elif not isinstance(share, str):
        share += late
    begins = _moment(times, share, before), test
    if not begins[0] < begins[1]:
        raise UserError(
            f"split: got validation {settings['validation']} and test {settings['test']}, by which the validation "
            "does not begin before the test; expected an earlier validation"
        )
    return {**settings, "begins": begins}


def after_break(events: pl.LazyFrame, settings: Mapping[str, Any]) -> Split:
    """The first event after a break of `gap_hours` or more, in the last shares `validation` and `test` of a history."""
    return _cut(events, *_shares(settings), asked=_breaks(settings))


def next_basket(events: pl.LazyFrame, settings: Mapping[str, Any]) -> Split:
    """As `after_break`, but all events up to the next break are asked for, as a set."""
    breaks = _breaks(settings)
    ends = pl.when(breaks).then(pl.col(INDEX)).shift(-1).over(USER)
    ends = ends.fill_null(strategy="backward").over(USER).fill_null(pl.col(EVENTS))
    return _cut(events, *_shares(settings), asked=breaks, size=ends - pl.col(INDEX))


SPLITS: dict[str, Callable[[pl.LazyFrame, Mapping[str, Any]], Split]] = {
    "leave-one-out": leave_one_out,
    "last": last,
    "global-time": global_time,
    "after-break": after_break,
    "next-basket": next_basket,
}
TIMED = ("global-time", "after-break", "next-basket")


def _cut(
    events: pl.LazyFrame, validation: pl.Expr, test: pl.Expr, *, asked: pl.Expr, size: pl.Expr | None = None
) -> Split:
    """The split whose parts begin at places of each history; where `test` is null the user is trained on only."""
    marked = events.with_columns(
        validation.alias("validation"),
        test.alias("test"),
        asked.alias("asked"),
        (pl.lit(1, dtype=pl.Int64) if size is None else size).alias(SIZE),
    )
    bounds = marked.group_by(USER, maintain_order=True).agg(pl.col("validation").first().alias("train_end"))
    wanted = marked.filter(pl.col("asked") & (pl.col(INDEX) >= pl.max_horizontal("validation", 1)))
    later = pl.col(INDEX) >= pl.col("test")
    columns = [pl.col(USER).cast(pl.Int64).alias("user"), pl.col(INDEX).alias(END), pl.col(SIZE).cast(pl.Int64)]
    known = wanted.filter(pl.col("test").is_not_null())
    return Split(bounds.select("train_end"), known.filter(~later).select(columns), known.filter(later).select(columns))


def _shares(settings: Mapping[str, Any]) -> tuple[pl.Expr, pl.Expr]:
    """Where validation and test begin: the last shares of each history."""
    test = (pl.col(EVENTS) * (1 - settings["test"])).round(9).floor().cast(pl.Int64)
    both = (pl.col(EVENTS) * (1 - settings["test"] - settings["validation"])).round(9).floor().cast(pl.Int64)
    return both, test


def _breaks(settings: Mapping[str, Any]) -> pl.Expr:
    """Whether an event comes `gap_hours` or more after the one before it."""
    gap = pl.col(TIME).diff().over(USER)
    return (gap >= settings["gap_hours"] * HOUR).fill_null(False)


def _moment(times: Ints, part: Any, count: int) -> int:
    """The time in ms at which the last share of the first `count` events begins, or that of a date."""
    if isinstance(part, str):
        return int(datetime.fromisoformat(part).replace(tzinfo=UTC).timestamp() * 1000)
    return _smallest(times, math.ceil((1 - part) * (count - 1)))


def _smallest(values: Ints, place: int) -> int:
    """The value that has this place, from 0 on, among all in order; found by halving, without a copy of them."""
    low, high = int(values.min()), int(values.max())
    while low < high:
        middle = (low + high) // 2
        below = sum(int((values[start : start + CHUNK] <= middle).sum()) for start in range(0, len(values), CHUNK))
        low, high = (low, middle) if below > place else (middle + 1, high)
    return low
