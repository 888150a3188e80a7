"""EB-NeRD (Kruse et al. 2024): clicks on the articles of Ekstra Bladet, as parquet.

`history.parquet` has one row per user with lists of articles and times, the clicks of the weeks before a split;
`behaviors.parquet` one row per page that was shown, with the articles clicked there, in the week of the split. In a
folder, histories of several splits overlap: what they share counts once. Of the behaviours, only clicks that are later
than all of a user's histories are added; the earlier ones stand there already, at the time when the article was read.
"""

from pathlib import Path

import polars as pl

from persrec.datasets import histories
from persrec.datasets.files import one_file
from persrec.interactions.schema import ITEM, TIME, USER, Say, check_columns, conform, log, reading

HISTORY = {USER: "user_id", ITEM: "article_id_fixed", TIME: "impression_time_fixed"}
BEHAVIORS = {USER: "user_id", ITEM: "article_ids_clicked", TIME: "impression_time"}
LAST = "last"


def files(path: Path) -> list[Path]:
    """All histories and behaviours below a folder, histories first, or the file itself."""
    if path.is_file():
        return [path]
    found = [*sorted(path.rglob("history.parquet")), *sorted(path.rglob("behaviors.parquet"))]
    return found or [one_file(path, patterns=("history.parquet",), what="EB-NeRD (unpack the zip first)")]


def read(path: Path, *, bad_rows: str = "refuse", say: Say = log) -> pl.LazyFrame:
    """The log of clicks; raises UserError where a file is neither a history nor behaviours."""
    where = str(path)
    known: list[pl.LazyFrame] = []
    shown: list[pl.LazyFrame] = []
    for file in files(path):
        clicks, whole = _clicks(file, say)
        (known if whole else shown).append(clicks)
    with reading(where):
        frame = _together(known)
        if shown:
            last = frame.group_by(USER).agg(pl.col(TIME).max().alias(LAST))
            new = _together(shown).join(last, on=USER, how="left", maintain_order="left").collect()
            later = new.filter(pl.col(LAST).is_null() | (pl.col(TIME) > pl.col(LAST))).drop(LAST)
            _say_left_out(new.height - later.height, new.height, where, say)
            frame = pl.concat([frame, later.lazy()], how="vertical_relaxed")
        frame = frame.collect().lazy()
    return conform(frame, where=where, bad_rows=bad_rows, say=say)


def _say_left_out(early: int, every: int, where: str, say: Say) -> None:
    if early:
        say(
            f"{where}: {early:,} of {every:,} clicks in behaviours are left out: they are not later than all of their "
            "user's histories, where clicks of that time stand already."
        )


def _together(parts: list[pl.LazyFrame]) -> pl.LazyFrame:
    """What overlapping parts hold, once."""
    empty = pl.LazyFrame(schema={USER: pl.UInt32, ITEM: pl.Int32, TIME: pl.Datetime("us")})
    return pl.concat(parts, how="vertical_relaxed").unique(maintain_order=True) if parts else empty


def _clicks(file: Path, say: Say) -> tuple[pl.LazyFrame, bool]:
    """The clicks of a file, and whether it holds histories."""
    where = str(file)
    with reading(where):
        lines = pl.scan_parquet(file)
        names = lines.collect_schema().names()
    whole = HISTORY[ITEM] in names
    columns = HISTORY if whole else BEHAVIORS
    check_columns(names, where=where, required=list(columns.values()))
    named = lines.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())
    if whole:
        return histories.exploded(named, where=where, say=say).select(USER, ITEM, TIME), True
    clicked = named.filter(pl.col(ITEM).list.len() > 0).explode(ITEM)
    return clicked.select(USER, pl.col(ITEM), TIME), False
