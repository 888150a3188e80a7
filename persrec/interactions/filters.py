"""Which events stay: by their values, exact duplicates, the newest of a user, by counts and the k-core."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.errors import UserError
from persrec.interactions.parts import Spool
from persrec.interactions.schema import DWELL, EVENT, ITEM, RATING, TIME, USER, WEIGHT, NoEvents, Say, log

DEFAULTS: Final[dict[str, Any]] = {
    "events": None,
    "min_rating": None,
    "max_rating": None,
    "min_weight": None,
    "min_dwell": None,
    "since": None,
    "until": None,
    "max_user_events": None,
    "max_item_events": None,
    "max_history": None,
}
"""The keys of a data section that filter, beside those of the k-core; null: everything stays."""

CARRIED: Final = {
    "events": EVENT,
    "min_rating": RATING,
    "max_rating": RATING,
    "min_weight": WEIGHT,
    "min_dwell": DWELL,
}
"""Those that look at what an event carries, and hold for later events too."""

NEEDED: Final = {**CARRIED, "since": TIME, "until": TIME}

Ints = npt.NDArray[np.int64]


def by_value(frame: pl.LazyFrame, section: Mapping[str, Any], say: Say = log) -> pl.LazyFrame:
    """The events of the types, amounts and times that a data section asks for; what goes is counted and said.

    Raises:
        UserError: the log has no such column.
        NoEvents: nothing is left.
    """
    sieves = sieves_of(section, frame.collect_schema().names())
    if not sieves:
        return frame
    kept = sifted(frame.collect(), sieves)
    for sieve in sieves:
        sieve.settle(say)
    return kept.lazy()


def sieves_of(section: Mapping[str, Any], names: Sequence[str]) -> dict["Sieve", pl.Expr]:
    """What a data section asks of types, ratings, weights, dwell times and times, in order.

    Raises:
        UserError: the log has no such column.
    """
    found = {}
    for key, column in NEEDED.items():
        if section[key] is None:
            continue
        if column not in names:
            kept = f"keep it by data.keep: [{column}], " * (column in (WEIGHT, DWELL))
            raise UserError(
                f"data.{key}: the log has no {column}; {kept}name its column by data.columns, or remove the key."
            )
        found[Sieve(key, section[key])] = _condition(key, section[key])
    return found


def _condition(key: str, value: Any) -> pl.Expr:
    if key == "events":
        return pl.col(EVENT).is_in([str(kind) for kind in value])
    if key in CARRIED:
        return pl.col(CARRIED[key]) >= value if key.startswith("min_") else pl.col(CARRIED[key]) <= value
    moment = int(datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() * 1000)
    return pl.col(TIME) >= moment if key == "since" else pl.col(TIME) < moment


def sifted(part: pl.DataFrame, sieves: Mapping["Sieve", pl.Expr]) -> pl.DataFrame:
    """What all sieves, one after the other, leave of a part."""
    for sieve, keep in sieves.items():
        part = sieve.sift(part, keep)
    return part


class Sieve:
    """What a key leaves of the events of a log that comes part by part."""

    def __init__(self, key: str, value: Any) -> None:
        self.key, self.value = key, value
        self._events = [0, 0]  # before and after
        self._met: dict[tuple[str, int], pl.Series] = {}  # ids by column, before and after
        self._values: list[pl.Series] = []  # types that there are, or the least and the greatest value

    def sift(self, part: pl.DataFrame, keep: pl.Expr | pl.Series) -> pl.DataFrame:
        """The events of a part for which `keep` holds."""
        kept = part.filter(keep)
        for place, frame in enumerate((part, kept)):
            self._events[place] += frame.height
            for name in (USER, ITEM):
                met, own = self._met.get((name, place)), frame[name].unique()
                self._met[name, place] = own if met is None else pl.concat([met, own]).unique()
        if self.key in NEEDED:
            self._values.append(_ends(part[NEEDED[self.key]]))
        return kept

    def settle(self, say: Say) -> None:
        """Say what was left; raises NoEvents where that is nothing."""
        value = self.value
        shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
        events, kept = self._events
        if not kept:
            there = f" (there are {_range(pl.concat(self._values))})" if self._values else ""
            raise NoEvents(f"data.{self.key}: {shown} leaves none of the {events:,} events{there}; change it.")
        users, items = (self._met[name, 0].len() - self._met[name, 1].len() for name in (USER, ITEM))
        say(
            f"data.{self.key}: {shown} leaves {kept:,} of {events:,} events; {users:,} users and {items:,} items "
            "have none."
        )


def _ends(column: pl.Series) -> pl.Series:
    """The types that there are, or the least and the greatest value."""
    if column.name == EVENT:
        return column.unique()
    return pl.Series(column.name, [column.min(), column.max()], dtype=column.dtype)


def _range(column: pl.Series) -> str:
    if column.name == EVENT:
        return ", ".join(column.unique().sort().head(10))
    ends = column.cast(pl.Datetime("ms")) if column.name == TIME else column
    return f"{ends.min()!s} to {ends.max()!s}"


def by_count(events: Spool, section: Mapping[str, Any], say: Say = log) -> Spool:
    """Of a log in order, items being numbers: without users and items that have too many events, then the newest
    events of each user. No user stands in two frames.

    Raises:
        UserError: nothing is left.
    """
    count = pl.len().over(USER)
    ages = {"max_user_events": count, "max_item_events": None, "max_history": count - pl.int_range(pl.len()).over(USER)}
    for key, age in ages.items():
        if section[key] is not None:
            sieve = Sieve(key, section[key])
            events = _at_most(events, sieve, age)
            sieve.settle(say)
    return events


def _at_most(events: Spool, sieve: "Sieve", number: pl.Expr | None) -> Spool:
    """The events whose number, or whose item's events, are at most what the key says."""
    if number is not None:
        return events.each(lambda part: sieve.sift(part, number <= sieve.value))
    few = counts_of(events, ITEM) <= sieve.value
    return events.each(lambda part: sieve.sift(part, _gathered(few, part[ITEM])))


def counts_of(events: Iterable[pl.DataFrame], column: str) -> Ints:
    """Events of each number in a column."""
    counts = np.zeros(0, dtype=np.int64)
    for frame in events:
        own = np.bincount(frame[column].to_numpy(), minlength=len(counts))
        own[: len(counts)] += counts
        counts = own
    return counts


def _gathered(which: npt.NDArray[np.bool_], numbers: pl.Series) -> pl.Series:
    return pl.Series(which[numbers.to_numpy()])


def drop_duplicates(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Without the events that repeat an earlier one in every column; of a log in order (user, time).

    Only events that share user and time can be duplicates, so only those are compared. A log without times
    is returned as it is: there a second mention of an item is a second event.

        user item time          user item time
           1    7   10             1    7   10
           1    8   10     ->      1    8   10
           1    7   10             1    7   11
           1    7   11
    """
    columns = frame.collect_schema().names()
    if TIME not in columns:
        return frame
    same = (pl.col(USER) == pl.col(USER).shift()) & (pl.col(TIME) == pl.col(TIME).shift())
    tied = same.fill_null(False) | same.shift(-1).fill_null(False)
    numbered = frame.with_row_index("row")
    again = numbered.filter(tied).filter(~pl.struct(columns).is_first_distinct()).select("row").collect()
    if again.is_empty():
        return frame
    return numbered.join(again.lazy(), on="row", how="anti", maintain_order="left").drop("row")


def k_core(events: Spool, *, min_user_events: int = 1, min_item_events: int = 1) -> Spool:
    """The largest part of the log in which every user and every item, a number, has enough events.

    Dropping an item may leave a user with too few events, and the reverse: both are repeated until nothing changes. No
    user stands in two frames.

    Raises:
        UserError: nothing is left.
    """
    if min_user_events <= 1 and min_item_events <= 1:
        return events
    first = events.height
    while True:
        before = events.height
        events = events.each(lambda frame: frame.filter(pl.len().over(USER) >= min_user_events))
        enough = counts_of(events, ITEM) >= min_item_events
        events = events.each(lambda frame, enough=enough: frame.filter(_gathered(enough, frame[ITEM])))  # type: ignore[misc]
        if not events.height:
            raise UserError(
                f"data.min_user_events: {min_user_events} and data.min_item_events: {min_item_events} leave none of "
                f"the {first:,} events; lower them."
            )
        if events.height == before:
            return events
