"""Which events are trained on and which are targets, as bounds into each user's history."""

import polars as pl

BOUNDS = ("train_end", "validation_end", "test_end")


def leave_one_out(users: pl.LazyFrame) -> pl.LazyFrame:
    """Per user of n `events`: [0, train_end) train, then one validation target, then one test target.

    n >= 3 gives (n-2, n-1, n); fewer events are trained on and never asked: (n, n, n).
    """
    held = pl.when(pl.col("events") >= 3).then(1).otherwise(0)
    events = pl.col("events").cast(pl.Int64)
    return users.select(
        (events - 2 * held).alias("train_end"), (events - held).alias("validation_end"), events.alias("test_end")
    )


SPLITS = {"leave-one-out": leave_one_out}
