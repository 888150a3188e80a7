"""EB-NeRD (Kruse et al. 2024): clicks on the articles of Ekstra Bladet, as parquet.

`history.parquet` has one row per user with lists of articles and times, the clicks of the weeks before a split;
`behaviors.parquet` one row per page that was shown, with the articles clicked there, in the week of the split. In a
folder, histories of several splits overlap: what they share counts once. Of the behaviours, only clicks that are later
than all of a user's histories are added; the earlier ones stand there already, at the time when the article was read.

With `keep: dwell` an event carries how long its article was read, in seconds: `read_time_fixed` of a history, and of
behaviours `next_read_time`, that of the article clicked (`read_time` is that of the page it was clicked on). Where a
page has several clicks, it does not say of which one: these clicks come without.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from persrec.datasets import histories
from persrec.datasets.files import one_file, scan_parquet
from persrec.errors import UserError
from persrec.interactions.schema import DWELL, ITEM, ROW, TIME, USER, Say, check_columns, conform, log, reading

HISTORY = {USER: "user_id", ITEM: "article_id_fixed", TIME: "impression_time_fixed", DWELL: "read_time_fixed"}
BEHAVIORS = {USER: "user_id", ITEM: "article_ids_clicked", TIME: "impression_time", DWELL: "next_read_time"}
WHOLE, EARLY = "of a history", "not later than the histories"


def files(path: Path) -> list[Path]:
    """All histories and behaviours below a folder, histories first, or the file itself."""
    if path.is_file():
        return [path]
    found = [*sorted(path.rglob("history.parquet")), *sorted(path.rglob("behaviors.parquet"))]
    return found or [one_file(path, patterns=("history.parquet",), what="EB-NeRD (unpack the zip first)")]


def read(path: Path, *, keep: Sequence[str] = (), bad_rows: str = "refuse", say: Say = log) -> pl.LazyFrame:
    """The log of clicks, with `keep` dwell too.

    Raises:
        UserError: a file is neither a history nor behaviours, or has faults; or something else is to be kept.
    """
    others = [name for name in keep if name != DWELL]
    if others:
        raise UserError(f"data.keep: got {others[0]}, expected {DWELL} or nothing: EB-NeRD has no {others[0]}.")
    found = [_clicks(file, keep, bad_rows, say) for file in files(path)]
    with reading(str(path)):
        events = pl.concat(found, how="vertical_relaxed").unique(
            [USER, ITEM, TIME, WHOLE], keep="first", maintain_order=True
        )
        last = pl.col(TIME).filter(pl.col(WHOLE)).max().over(USER)
        early = ~pl.col(WHOLE) & last.is_not_null() & (pl.col(TIME) <= last)
        clicks = events.with_columns(early.alias(EARLY)).collect()
    _say_left_out(clicks, str(path), say)
    return clicks.filter(~pl.col(EARLY)).drop(WHOLE, EARLY).lazy()


def _say_left_out(clicks: pl.DataFrame, where: str, say: Say) -> None:
    early, every = int(clicks[EARLY].sum()), int((~clicks[WHOLE]).sum())
    if early:
        say(
            f"{where}: {early:,} of {every:,} clicks in behaviours are left out: they are not later than all of their "
            "user's histories, where clicks of that time stand already."
        )


def _clicks(file: Path, keep: Sequence[str], bad_rows: str, say: Say) -> pl.LazyFrame:
    """The clicks of a file in our types, and whether it holds histories."""
    where, lines = str(file), scan_parquet(file)
    names = lines.collect_schema().names()
    whole = HISTORY[ITEM] in names
    columns = {ours: theirs for ours, theirs in (HISTORY if whole else BEHAVIORS).items() if ours != DWELL or keep}
    check_columns(names, where=where, required=list(columns.values()))
    named = lines.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())
    single = histories.exploded(named, where=where, say=say) if whole else _clicked(named, where, say)
    return conform(single, where=where, keep=keep, bad_rows=bad_rows, say=say).with_columns(pl.lit(whole).alias(WHOLE))


def _clicked(pages: pl.LazyFrame, where: str, say: Say) -> pl.LazyFrame:
    """One event per click on a page, of which a row may hold several, one or none."""
    kinds = pages.collect_schema()
    if kinds[ITEM].is_integer() or kinds[ITEM] == pl.String:
        return pages.with_row_index(ROW).drop_nulls(ITEM)
    if kinds[ITEM] != pl.List:
        raise UserError(
            f"{where}: column {BEHAVIORS[ITEM]} is {kinds[ITEM]}, expected an article per row or a list of them."
        )
    several = pl.col(ITEM).list.len() > 1
    if DWELL in kinds:
        with reading(where):
            count = pages.select(several.sum()).collect().item()
        if count:
            say(f"{where}: {count:,} pages with several clicks, whose {BEHAVIORS[DWELL]} is of an unknown one of them.")
        pages = pages.with_columns(pl.when(~several).then(DWELL).alias(DWELL))
    return pages.with_row_index(ROW).filter(pl.col(ITEM).list.len() > 0).explode(ITEM)
