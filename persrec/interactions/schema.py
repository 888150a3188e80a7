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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import polars as pl

from persrec.errors import UserError
from persrec.interactions.parts import Parts
from persrec.interactions.values import Clock, Faults, Plain, amounts, ids, ratings, times, types

USER: Final = "user_id"
ITEM: Final = "item_id"
TIME: Final = "timestamp"
RATING: Final = "rating"
EVENT: Final = "event"
WEIGHT: Final = "weight"
DWELL: Final = "dwell"
ROW: Final = "row of the file"  # of each event, in a log whose rows hold several
PLACE: Final = "place in the log"
REQUIRED: Final = (USER, ITEM)
COLUMNS: Final = (USER, ITEM, TIME, RATING)

Say = Callable[[str], None]
"""Receives, sentence by sentence, what was understood of a file."""

Why = Callable[[], str]
"""Looks for the reason why a file cannot be read."""

log: Say = logging.getLogger("persrec").info


class NoEvents(UserError):
    """A log has our columns, and no row, or none that its filters leave."""


def close_matches(word: str, known: Iterable[str]) -> list[str]:
    """Names like `word`, whatever their case and separators: `userId` for `user_id`."""
    plain = {name: name.lower().replace("_", "").replace("-", "") for name in known}
    wanted = word.lower().replace("_", "").replace("-", "")
    inside = [name for name, short in plain.items() if wanted in short or short in wanted]
    near = difflib.get_close_matches(wanted, plain.values(), n=3, cutoff=0.6)
    return list(dict.fromkeys(inside + [name for name, short in plain.items() if short in near]))[:3]


def check_columns(
    names: Sequence[str],
    *,
    where: str,
    required: Sequence[str] = REQUIRED,
    columns: Mapping[str, str] | None = None,
    theirs: Sequence[str] | None = None,
) -> None:
    """Raise UserError unless all required columns are among `names`.

    Where some were renamed, `theirs` are those of the file, and `columns` maps our names to what a person has said.
    """
    missing = [name for name in required if name not in names]
    if not missing:
        return
    got = f"{where}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; got {shown(theirs or names)}"
    separators = [sign for sign in ";|\t," if len(names) == 1 and sign in names[0]]
    if separators:
        raise UserError(f"{got}, a single column. If the file is split by {separators[0]!r}, set data.separator.")
    if required is not REQUIRED:
        raise UserError(f"{got}. Expected its publisher's columns; for others use source: table with data.columns.")
    asked = [*missing, *([] if TIME in names else [TIME])]
    near = {name: shown(close_matches(name, names)[:1] or ["THEIRS"]) for name in asked}
    named = ", ".join(f"{name}: {one}" for name, one in {**(columns or {}), **near}.items())
    without = "" if TIME in names else f", without {TIME} if there is none"
    raise UserError(
        f"{got}. Rename them, or say in the recipe which they are: --set 'data.columns={{{named}}}'{without}."
    )


def check_twice(
    used: Mapping[str, str],
    names: Sequence[str],
    *,
    where: str,
    meaning: Callable[[str], str] = str,
    chosen: Container[str] = (),
    key: str = "data.columns",
) -> None:
    """Raise UserError where a column that is used stands there twice, or another one has the same meaning.

    `used` maps our names to those of the file, `meaning` a name of the file to ours; of our names that are `chosen`, a
    person has said which column it is.
    """
    for ours, theirs in used.items():
        again = f"{theirs}_duplicated_0"  # the name that Polars gives it
        if again in names:
            numbers = " and ".join(str(names.index(name) + 1) for name in (theirs, again))
            raise UserError(
                f"{where}: the header has {shown([theirs])} more than once (columns {numbers}); rename or remove one "
                "of them."
            )
        same = [name for name in names if meaning(name) == ours]
        if len(same) > 1 and ours not in chosen:
            raise UserError(
                f"{where}: columns {shown(same)} all mean {ours}; say which one counts, as in {key}: "
                f"{{{ours}: {shown(same[:1])}}}, or remove the others."
            )


def shown(names: Iterable[str]) -> str:
    """Names of columns in one line, signs that cannot be printed escaped, cut where there are too many."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names)[:200] or "none"


def _line(error: Exception) -> str:
    """The first line of what Polars says, which quotes the file, with signs that cannot be printed escaped."""
    line = str(error).strip().splitlines()[0]
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


@contextmanager
def reading(where: str, why: Why = str) -> Iterator[None]:
    """Turn what Polars cannot read into a UserError that names the file.

    `why` looks for the reason when that happens; an empty text means that it found none.
    """
    try:
        yield
    except pl.exceptions.NoDataError:
        raise UserError(f"{where}: the file is empty; expected a log with one event per row.") from None
    except pl.exceptions.DuplicateError as error:
        raise UserError(f"{where}: cannot be read: {_line(error)}; rename or remove one of them.") from None
    except (pl.exceptions.SchemaError, pl.exceptions.InvalidOperationError) as error:
        reason = why() or (
            f"{_line(error)}. A column is of another type than expected; ids and times are plain "
            "values, or lists of them."
        )
        raise UserError(f"{where}: cannot be read: {reason}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = why() or (
            f"{_line(error)}. The file may be truncated, damaged, of another format, not UTF-8, "
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
    """The log in our schema, checked; how ids and times are read depends on all values, so it is read for that first.

    Text ids become Int64 where every one is a plain whole number, so that 7 and 10 sort as numbers. `events` keeps
    the types of the events, `keep` names weight and dwell where these are wanted; `bad_rows` skip leaves out the rows
    below instead of refusing the log. A log of one part is in memory then, a larger one is read again, part by part.

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
        frame = frame.select(name for name in wanted if name in names)
    if TIME not in names:
        say(f"{where}: no timestamp column; events keep the order of the file.")
    parts = Parts(frame)

    def read() -> Iterator[pl.DataFrame]:
        several = iter(parts)
        while True:
            with reading(where, why):
                part = next(several, None)
            if part is None:
                return
            yield part

    return _sound(frame, read, where=where, unit=unit, first_row=first_row, skip=bad_rows == "skip", say=say)


def _sound(
    frame: pl.LazyFrame,
    read: Callable[[], Iterable[pl.DataFrame]],
    *,
    where: str,
    unit: str,
    first_row: int,
    skip: bool,
    say: Say,
) -> pl.LazyFrame:
    """The log in our types; all rows, or with `skip` those without faults."""
    good: list[pl.Series] | None = None  # of each part, once faults have been found
    found: list[str] = []
    while True:
        kinds, faults, bad = Kinds(unit), Faults(first_row), []
        for part in _left(read(), good):
            kinds.look(part)
        if good is None and not kinds.events:
            raise NoEvents(f"{where}: no events; got a header or an empty table, expected one event per row.")
        done, tops = [], []
        for part in _left(read(), good):
            faults.begin(part.height, part[ROW] if ROW in part.columns else part[PLACE])
            columns, top = kinds.columns(part, faults)
            bad.append(faults.bad)
            tops += [] if top is None else [top]
            done = [pl.DataFrame(columns)]
        if good is None:
            rows = kinds.events
        found += [*faults.columns, *faults.sentences]
        if faults.columns or not skip or not any(one.any() for one in bad):
            break
        good = _again(good, bad)  # and again: ids that are left may all be numbers
    text = "; ".join(found)
    if found and (faults.columns or not skip):
        advice = "or remove these rows, or set data.bad_rows: skip to leave them out"
        if faults.columns:
            advice = "these columns, or name others by data.columns"
        if all(sentence.startswith(f"column {RATING} ") for sentence in found):
            advice += f"; where nothing asks for ratings, remove the column {RATING}"
        raise UserError(f"{where}: {text}. Correct {advice}.")
    if not kinds.events:
        raise UserError(f"{where}: none of the {rows:,} rows can be used: {text}. Is data.columns right?")
    if found:
        say(f"{where}: {rows - kinds.events:,} of {rows:,} rows skipped (data.bad_rows: skip): {text}.")
    if tops and max(tops) > 0:
        say(kinds.clock.sentence(max(tops)))
    shown_kinds = ", ".join(f"{name} {dtype}" for name, dtype in done[0].schema.items())
    say(f"{where}: {kinds.events:,} events; {shown_kinds}.")
    return done[0].lazy() if len(bad) == 1 else _lazy(frame, kinds, good, done[0].schema)


class Kinds:
    """How the columns of a log are read."""

    def __init__(self, unit: str) -> None:
        self.events = 0
        self.plain = {name: Plain() for name in REQUIRED}
        self.clock = Clock(unit)

    def look(self, part: pl.DataFrame) -> None:
        """Take in a part, before any is read."""
        self.events += part.height
        for name, plain in self.plain.items():
            plain.look(part[name])
        if TIME in part.columns:
            self.clock.look(part[TIME])

    def columns(self, part: pl.DataFrame, faults: Faults) -> tuple[list[pl.Series], float | None]:
        """The columns of a part in our types, and the greatest number among its times."""
        top = None
        done = [ids(part[name], faults, self.plain[name]) for name in REQUIRED]
        if TIME in part.columns:
            moments, top = times(part[TIME], faults, self.clock)
            done.append(moments)
        if RATING in part.columns:
            done.append(ratings(part[RATING], faults))
        done += [amounts(part[name], faults) for name in (WEIGHT, DWELL) if name in part.columns]
        if EVENT in part.columns:
            done.append(types(part[EVENT], faults))
        return done, top


def _left(parts: Iterable[pl.DataFrame], good: list[pl.Series] | None) -> Iterator[pl.DataFrame]:
    """The rows of the parts that are good so far, with their places in the log."""
    first = 0
    for index, part in enumerate(parts):
        placed = part.with_columns(pl.int_range(first, first + part.height, dtype=pl.Int64).alias(PLACE))
        first += part.height
        yield placed if good is None else placed.filter(good[index])


def _again(good: list[pl.Series] | None, bad: list[pl.Series]) -> list[pl.Series]:
    """Which rows of each part are good still, where some of those that were are bad."""
    if good is None:
        return [~one for one in bad]
    return [one.scatter(one.arg_true(), ~now) for one, now in zip(good, bad, strict=True)]


def _lazy(frame: pl.LazyFrame, kinds: Kinds, good: list[pl.Series] | None, schema: pl.Schema) -> pl.LazyFrame:
    """A log that is read again when it is asked for, in our types, without the rows that are not good."""
    kept = None if good is None else pl.concat(good)

    def typed(part: pl.DataFrame) -> pl.DataFrame:
        left = part if kept is None else part.filter(kept.gather(part[PLACE]))
        faults = Faults(0)
        faults.begin(left.height, 0)
        return pl.DataFrame(kinds.columns(left, faults)[0])

    placed = frame if kept is None else frame.with_row_index(PLACE)
    through = dict.fromkeys(("predicate_pushdown", "projection_pushdown", "slice_pushdown"), False)
    return placed.map_batches(typed, schema=schema, streamable=True, **through)


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
