"""From a table of events to one history per user."""

from collections.abc import Sequence

import polars as pl

from persrec.interactions.schema import DWELL, EVENT, ITEM, RATING, TIME, USER, WEIGHT

LISTS = {ITEM: "items", TIME: "times", RATING: "ratings", WEIGHT: "weights", DWELL: "dwells", EVENT: "events"}


def ordered(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Events by user, then time, then the order they came in (without times: by user, then the order they came in).

    user item time          user item time
       2    5   30             1    9   10
       1    7   20     ->      1    7   20
       1    9   10             1    8   20
       1    8   20             2    5   30
    """
    keys = [name for name in (USER, TIME) if name in frame.collect_schema().names()]
    return frame.sort(keys, maintain_order=True)


def coded(frame: pl.LazyFrame, types: Sequence[str]) -> pl.LazyFrame:
    """The types of events as their places in a list, from 1 on."""
    names = [str(kind) for kind in types]
    codes = {name: names.index(name) + 1 for name in names}
    return frame.with_columns(pl.col(EVENT).replace_strict(codes, return_dtype=pl.Int16))


def grouped(frame: pl.LazyFrame) -> pl.LazyFrame:
    """One row per user of an ordered log: `items`, and `times`, `ratings`, ... where the log has them, as lists.

    user item               user items
       1    9                  1 [9, 7]
       1    7       ->         2 [5]
       2    5
    """
    lists = [pl.col(ours).alias(name) for ours, name in LISTS.items() if ours in frame.collect_schema().names()]
    return frame.with_columns(pl.col(USER).set_sorted()).group_by(USER, maintain_order=True).agg(lists)
