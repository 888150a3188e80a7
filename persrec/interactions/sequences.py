"""From a table of events to one history per user."""

import polars as pl

from persrec.interactions.schema import ITEM, RATING, TIME, USER


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


def grouped(frame: pl.LazyFrame) -> pl.LazyFrame:
    """One row per user of an ordered log: `items`, and `times`, `ratings` where the log has them, as lists.

    user item               user items
       1    9                  1 [9, 7]
       1    7       ->         2 [5]
       2    5
    """
    columns = {ITEM: "items", TIME: "times", RATING: "ratings"}
    lists = [pl.col(ours).alias(name) for ours, name in columns.items() if ours in frame.collect_schema().names()]
    return frame.with_columns(pl.col(USER).set_sorted()).group_by(USER, maintain_order=True).agg(lists)
