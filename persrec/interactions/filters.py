"""Which events stay: by their values, exact duplicates, the newest of a user, by counts and the k-core."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import EVENT, ITEM, RATING, TIME, USER, Say, log

DEFAULTS: Final[dict[str, Any]] = {
    "events": None,
    "min_rating": None,
    "since": None,
    "until": None,
    "max_user_events": None,
    "max_item_events": None,
    "max_history": None,
}
"""The keys of a data section that filter, beside those of the k-core; null: everything stays."""

NEEDED: Final = {"events": EVENT, "min_rating": RATING, "since": TIME, "until": TIME}
COUNTED: Final = {"max_user_events": USER, "max_item_events": ITEM}


def by_value(frame: pl.LazyFrame, section: Mapping[str, Any], say: Say = log) -> pl.LazyFrame:
    """The events of the types, ratings and times that a data section asks for; what goes is counted and said.

    Raises:
        UserError: the log has no such column, or nothing is left.
    """
    names = frame.collect_schema().names()
    for key, column in NEEDED.items():
        if section[key] is None:
            continue
        if column not in names:
            raise UserError(f"data.{key}: the log has no {column}; name its column by data.columns, or remove the key.")
        frame = _counted(frame, _condition(key, section[key]), key, section[key], say)
    return frame


def _condition(key: str, value: Any) -> pl.Expr:
    if key == "events":
        return pl.col(EVENT).is_in([str(kind) for kind in value])
    if key == "min_rating":
        return pl.col(RATING) >= value
    moment = int(datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() * 1000)
    return pl.col(TIME) >= moment if key == "since" else pl.col(TIME) < moment


def by_count(frame: pl.LazyFrame, section: Mapping[str, Any], say: Say = log) -> pl.LazyFrame:
    """Of a log in order: without users and items that have too many events, then the newest events of each user.

    Raises:
        UserError: nothing is left.
    """
    most = {key: section[key] for key in COUNTED if section[key] is not None}
    conditions = {key: pl.len().over(COUNTED[key]) <= limit for key, limit in most.items()}
    if section["max_history"] is not None:
        most["max_history"] = section["max_history"]
        age = pl.len().over(USER) - pl.int_range(pl.len()).over(USER)
        conditions["max_history"] = age <= section["max_history"]
    for key, condition in conditions.items():
        frame = _counted(frame, condition, key, most[key], say)
    return frame


def _counted(frame: pl.LazyFrame, condition: pl.Expr, key: str, value: Any, say: Say) -> pl.LazyFrame:
    """The events where the condition holds, with a sentence on how many these are not."""
    data = frame.collect()
    kept = data.filter(condition)
    shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
    if kept.is_empty():
        there = ""
        if key in NEEDED:
            column = data[NEEDED[key]]
            there = f" (there are {_range(column)})"
        raise UserError(f"data.{key}: {shown} leaves none of the {data.height:,} events{there}; change it.")
    users = data[USER].n_unique() - kept[USER].n_unique()
    items = data[ITEM].n_unique() - kept[ITEM].n_unique()
    say(
        f"data.{key}: {shown} leaves {kept.height:,} of {data.height:,} events; {users:,} users and {items:,} items "
        "have none."
    )
    return kept.lazy()


def _range(column: pl.Series) -> str:
    """The types that there are, or the least and the greatest value."""
    if column.name == EVENT:
        return ", ".join(column.unique().sort().head(10))
    ends = column.cast(pl.Datetime("ms")) if column.name == TIME else column
    return f"{ends.min()!s} to {ends.max()!s}"


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


def k_core(frame: pl.LazyFrame, *, min_user_events: int = 1, min_item_events: int = 1) -> pl.LazyFrame:
    """The largest part of the log in which every user and every item has enough events.

    Dropping an item may leave a user with too few events, and the reverse: both are repeated until nothing changes.

    Raises:
        UserError: nothing is left.
    """
    if min_user_events <= 1 and min_item_events <= 1:
        return frame
    data = frame.collect()
    events = data.height
    while True:
        kept = data.filter(pl.len().over(USER) >= min_user_events)
        kept = kept.filter(pl.len().over(ITEM) >= min_item_events)
        if kept.is_empty():
            raise UserError(
                f"data.min_user_events: {min_user_events} and data.min_item_events: {min_item_events} leave none of "
                f"the {events:,} events; lower them."
            )
        if kept.height == data.height:
            return kept.lazy()
        data = kept
