"""The one form of a log inside persrec: its columns, their types, and what is refused.

| column    | type                                   |                                                    |
|-----------|----------------------------------------|----------------------------------------------------|
| user_id   | integer or String, the user's own      | required                                           |
| item_id   | integer or String, the user's own      | required                                           |
| timestamp | Int64, milliseconds since 1970 (UTC)   | absent in a log that has only an order (file order) |
| rating    | Float32                                | optional                                           |
| weight    | Float32, not negative                  | only where it is asked for                         |
| dwell     | Float32, not negative                  | only where it is asked for                         |
| event     | String, its type                       | only where it is asked for                         |
"""

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import polars as pl

from persrec.errors import UserError
from persrec.interactions.values import Faults, amounts, ids, ratings, times, types

USER: Final = "user_id"
ITEM: Final = "item_id"
TIME: Final = "timestamp"
RATING: Final = "rating"
EVENT: Final = "event"
WEIGHT: Final = "weight"
DWELL: Final = "dwell"
ROW: Final = "row of the file"  # of each event, in a log whose rows hold several
REQUIRED: Final = (USER, ITEM)
COLUMNS: Final = (USER, ITEM, TIME, RATING)

Say = Callable[[str], None]
"""Receives, sentence by sentence, what was understood of a file."""

Why = Callable[[], str]
"""Looks for the reason why a file cannot be read."""

log: Say = logging.getLogger("persrec").info


def close_matches(word: str, known: Iterable[str]) -> list[str]:
    """Names like `word`, whatever their case and separators: `userId` for `user_id`."""
    plain = {name: name.lower().replace("_", "").replace("-", "") for name in known}
    wanted = word.lower().replace("_", "").replace("-", "")
    inside = [name for name, short in plain.items() if wanted in short or short in wanted]
    near = difflib.get_close_matches(wanted, plain.values(), n=3, cutoff=0.6)
    return list(dict.fromkeys(inside + [name for name, short in plain.items() if short in near]))[:3]


def check_columns(names: Sequence[str], *, where: str, required: Sequence[str] = REQUIRED) -> None:
    """Raise UserError unless all required columns are among `names`."""
    missing = [name for name in required if name not in names]
    if not missing:
        return
    got = f"{where}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; got {shown(names)}"
    separators = [sign for sign in ";|\t," if len(names) == 1 and sign in names[0]]
    if separators:
        raise UserError(f"{got}, a single column. If the file is split by {separators[0]!r}, set data.separator.")
    if required is not REQUIRED:
        raise UserError(f"{got}. Expected its publisher's columns; for others use source: table with data.columns.")
    hints = [f"{name}: {shown([match])}" for name in missing for match in close_matches(name, names)[:1]]
    hint = f" (perhaps columns: {{{', '.join(hints)}}})" if hints else ""
    raise UserError(f"{got}. Name the columns by data.columns, ours: theirs{hint}.")


def shown(names: Iterable[str]) -> str:
    """Names of columns in one line, signs that cannot be printed escaped, cut where there are too many."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names)[:200] or "none"


@contextmanager
def reading(where: str, why: Why = str) -> Iterator[None]:
    """Turn what Polars cannot read into a UserError that names the file.

    `why` looks for the reason when that happens; an empty text means that it found none.
    """
    try:
        yield
    except pl.exceptions.NoDataError:
        raise UserError(f"{where}: the file is empty; expected a log with one event per row.") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = why() or (
            f"{str(error).strip().splitlines()[0]}. The file may be truncated, damaged, of another format, not UTF-8, "
            "or have a quote that is not closed; write or download it again."
        )
        raise UserError(f"{where}: cannot be read: {reason}") from None


def conform(
    frame: pl.LazyFrame,
    *,
    where: str,
    unit: str = "auto",
    first_row: int = 1,
    events: bool = False,
    keep: Sequence[str] = (),
    bad_rows: str = "refuse",
    why: Why = str,
    say: Say = log,
) -> pl.LazyFrame:
    """The log in our schema, checked; read into memory once, because id types and the time unit depend on the values.

    Text ids become Int64 where every one is a plain whole number, so that 7 and 10 sort as numbers. `events` keeps
    the types of the events, `keep` names weight and dwell where these are wanted; `bad_rows` skip leaves out the rows
    below instead of refusing the log.

    Raises:
        UserError: missing columns; no rows; null, negative or unparsable values, with their count and first rows
            (`first_row` is the number of the first data row in `where`).
    """
    with reading(where, why):
        names = frame.collect_schema().names()
        check_columns(names, where=where)
        if events:
            _check_event_column(names, where=where)
        _check_kept(names, keep, where=where)
        wanted = (*COLUMNS, *keep, ROW) + (EVENT,) * events
        data = frame.select(name for name in wanted if name in names).collect()
    if data.is_empty():
        raise UserError(f"{where}: no events; got a header or an empty table, expected one event per row.")
    if TIME not in data.columns:
        say(f"{where}: no timestamp column; events keep the order of the file.")
    done = _sound(data, where=where, unit=unit, first_row=first_row, skip=bad_rows == "skip", say=say)
    kinds = ", ".join(f"{column.name} {column.dtype}" for column in done)
    say(f"{where}: {len(done[0]):,} events; {kinds}.")
    return pl.DataFrame(done).lazy()


def _sound(data: pl.DataFrame, *, where: str, unit: str, first_row: int, skip: bool, say: Say) -> list[pl.Series]:
    """The columns in our types, of all rows; with `skip`, of those without faults."""
    rows = data.height
    found: list[str] = []
    while True:
        faults = Faults(data.height, first_row, data[ROW] if ROW in data.columns else None)
        heard: list[str] = []
        done = _columns(data, faults, unit=unit, say=heard.append)
        found += [*faults.columns, *faults.sentences]
        if faults.columns or not skip or not faults.bad.any():
            break
        data = data if ROW in data.columns else data.with_row_index(ROW)
        data = data.filter(~faults.bad)  # and again: ids that are left may all be numbers
    text = "; ".join(found)
    if found and (faults.columns or not skip):
        advice = "" if faults.columns else ", or set data.bad_rows: skip to leave them out"
        raise UserError(f"{where}: {text}. Correct or remove these rows{advice}.")
    if data.is_empty():
        raise UserError(f"{where}: none of the {rows:,} rows can be used: {text}. Is data.columns right?")
    if found:
        say(f"{where}: {rows - data.height:,} of {rows:,} rows skipped (data.bad_rows: skip): {text}.")
    for sentence in heard:
        say(sentence)
    return done


def _columns(data: pl.DataFrame, faults: Faults, *, unit: str, say: Say) -> list[pl.Series]:
    """The columns of a table in our types."""
    done = [ids(data[name], faults) for name in REQUIRED]
    if TIME in data.columns:
        done.append(times(data[TIME], faults, unit=unit, say=say))
    if RATING in data.columns:
        done.append(ratings(data[RATING], faults))
    done += [amounts(data[name], faults) for name in (WEIGHT, DWELL) if name in data.columns]
    if EVENT in data.columns:
        done.append(types(data[EVENT], faults))
    return done


def _check_kept(names: Sequence[str], keep: Sequence[str], *, where: str) -> None:
    for name in keep:
        if name not in names:
            raise UserError(
                f"{where}: data.keep asks for {name}, but there is no such column; got "
                f"{shown(each for each in names if each != ROW)}. Name it by data.columns: {{{name}: ...}}."
            )


def _check_event_column(names: Sequence[str], *, where: str) -> None:
    if EVENT not in names:
        got = shown(name for name in names if name != ROW)
        raise UserError(
            f"{where}: data.events asks for the type of each event, but there is no column {EVENT}; got {got}. Name "
            f"it by data.columns: {{{EVENT}: ...}}, or remove data.events."
        )
