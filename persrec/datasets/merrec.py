"""MerRec (Li et al. 2024, arXiv 2402.14230): events of a second-hand market, as shards of parquet.

An item is a product (`product_id`), which many listings share; `columns: {item_id: item_id}` takes the listing instead.
The type of an event is `event_id`: item_view, item_like, item_add_to_cart_tap, offer_make, buy_start or buy_comp.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from persrec.datasets import histories
from persrec.datasets.files import one_file, scan_parquet
from persrec.errors import UserError
from persrec.interactions.schema import EVENT, ITEM, RATING, TIME, USER, Say, conform, log

COLUMNS = {USER: "user_id", ITEM: "product_id", TIME: "stime", EVENT: "event_id"}
NAMED = (*COLUMNS, RATING)  # what a mapping may name


def files(path: Path) -> list[Path]:
    """All shards below a folder (one folder per month), in the order of their names, or the file itself."""
    shards = sorted(path.rglob("*.parquet")) if path.is_dir() else []
    return shards or [one_file(path, patterns=("*.parquet",), what="shards of MerRec")]


def read(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    events: bool = False,
    bad_rows: str = "refuse",
    say: Say = log,
) -> pl.LazyFrame:
    """The log of all shards; raises UserError where a column is missing or of another type than in other shards."""
    unknown = [ours for ours in columns or {} if ours not in NAMED]
    if unknown:
        raise UserError(f"data.columns: unknown column {unknown[0]!r}, expected {', '.join(NAMED)}.")
    shards, where = files(path), str(path)
    named = {name: theirs for name, theirs in (COLUMNS | dict(columns or {})).items() if events or name != EVENT}
    lines = scan_parquet(*shards, columns=list(named.values()))
    say(f"{where}: MerRec, shards: {len(shards):,}; an item is a {named[ITEM]}.")
    ours = lines.select(pl.col(theirs).alias(name) for name, theirs in named.items())
    single = histories.exploded(ours, where=where, say=say)
    return conform(single, where=where, events=events, bad_rows=bad_rows, say=say)
