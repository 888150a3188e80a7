"""Which events stay: exact duplicates and the k-core."""

import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import ITEM, TIME, USER


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
