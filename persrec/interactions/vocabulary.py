"""Numbers for ids: users 0..U-1, items 1..V (0 is `PAD`), each in the order of its sorted ids."""

import polars as pl

from persrec.interactions.schema import ITEM

INDEX = "index"


def vocabulary(frame: pl.LazyFrame, column: str, *, first: int) -> pl.LazyFrame:
    """The distinct ids of a column, sorted, with their numbers from `first` on as `index` (Int32)."""
    ids = frame.select(column).unique().sort(column)
    return ids.with_columns(pl.int_range(first, pl.len() + first, dtype=pl.Int32).alias(INDEX))


def encode(frame: pl.LazyFrame, vocabularies: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """The log with the ids of the named columns replaced by their numbers; the order of the rows is kept."""
    columns = frame.collect_schema().names()
    for column, ids in vocabularies.items():
        numbers = ids.rename({INDEX: f"{column} number"})
        frame = frame.join(numbers, on=column, how="left", maintain_order="left").drop(column)
        frame = frame.rename({f"{column} number": column})
    return frame.select(columns)


def compact(frame: pl.LazyFrame, ids: pl.LazyFrame, column: str, *, first: int) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Numbers without gaps after events were dropped: the log renumbered, and its smaller vocabulary."""
    left = vocabulary(frame, column, first=first).rename({INDEX: "new", column: INDEX})
    renumbered = encode(frame, {column: left.rename({INDEX: column, "new": INDEX})})
    smaller = ids.join(left, on=INDEX, maintain_order="left").drop(INDEX).rename({"new": INDEX})
    return renumbered, smaller


def item_table(items: pl.LazyFrame, events: pl.LazyFrame) -> pl.LazyFrame:
    """Per item, in the order of its numbers: `item_id`, and how many `events` have it."""
    counts = events.group_by(ITEM).agg(pl.len().cast(pl.Int64).alias("events")).rename({ITEM: INDEX})
    return items.join(counts, on=INDEX, how="left").sort(INDEX).select(ITEM, "events")
