"""The one form of a log inside persrec: its columns, their types, and what is refused.

| column    | type                                   |                                                    |
|-----------|----------------------------------------|----------------------------------------------------|
| user_id   | integer or String, the user's own      | required                                           |
| item_id   | integer or String, the user's own      | required                                           |
| timestamp | Int64, milliseconds since 1970 (UTC)   | absent in a log that has only an order (file order) |
| rating    | Float32                                | optional                                           |
"""

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import polars as pl

from persrec.errors import UserError

USER: Final = "user_id"
ITEM: Final = "item_id"
TIME: Final = "timestamp"
RATING: Final = "rating"
REQUIRED: Final = (USER, ITEM)
COLUMNS: Final = (USER, ITEM, TIME, RATING)
UNITS: Final = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}  # microseconds in one unit
TIME_FORMS: Final = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
ZONED_FORMS: Final = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
LATEST: Final = 253_402_300_799_999_999  # microseconds, the end of the year 9999
SHOWN: Final = 5  # rows named in a message

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
    plain = ", ".join(name if name.isprintable() else ascii(name) for name in names)
    got = f"{where}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; got {plain[:200] or 'none'}"
    separators = [sign for sign in ";|\t," if len(names) == 1 and sign in names[0]]
    if separators:
        raise UserError(f"{got}, a single column. If the file is split by {separators[0]!r}, set data.separator.")
    hints = [f"{name}: {match}" for name in missing for match in close_matches(name, names)[:1]]
    hint = f" (perhaps columns: {{{', '.join(hints)}}})" if hints else ""
    raise UserError(f"{got}. Name the columns by data.columns, ours: theirs{hint}.")


@contextmanager
def reading(where: str, why: Why = str) -> Iterator[None]:
    """Turn what Polars cannot read into a UserError that names the file.

    `why` looks for the reason when that happens; an empty text means that it found none.
    """
    try:
        yield
    except pl.exceptions.NoDataError:
        raise UserError(f"{where}: the file is empty; expected a log with one event per row.") from None
    except pl.exceptions.PolarsError as error:
        reason = why() or (
            f"{str(error).strip().splitlines()[0]}. The file may be truncated, damaged, of another format or not "
            "UTF-8; write or download it again."
        )
        raise UserError(f"{where}: cannot be read: {reason}") from None


def conform(
    frame: pl.LazyFrame,
    *,
    where: str,
    unit: str = "auto",
    first_row: int = 1,
    why: Why = str,
    say: Say = log,
) -> pl.LazyFrame:
    """The log in our schema, checked; read into memory once, because id types and the time unit depend on the values.

    Text ids become Int64 where every one is a plain whole number, so that 7 and 10 sort as numbers.

    Raises:
        UserError: missing columns; no rows; null, negative or unparsable values, with their count and first rows
            (`first_row` is the number of the first data row in `where`).
    """
    with reading(where, why):
        names = frame.collect_schema().names()
        check_columns(names, where=where)
        data = frame.select(name for name in COLUMNS if name in names).collect()
    if data.is_empty():
        raise UserError(f"{where}: no events; got a header or an empty table, expected one event per row.")
    faults: list[str] = []
    done = [_ids(data[name], faults, first_row) for name in REQUIRED]
    if TIME in data.columns:
        done.append(_times(data[TIME], faults, first_row, unit=unit, say=say))
    else:
        say(f"{where}: no timestamp column; events keep the order of the file.")
    if RATING in data.columns:
        done.append(_ratings(data[RATING], faults, first_row))
    if faults:
        raise UserError(f"{where}: " + "; ".join(faults) + ". Correct or remove these rows.")
    kinds = ", ".join(f"{column.name} {column.dtype}" for column in done)
    say(f"{where}: {data.height:,} events; {kinds}.")
    return pl.DataFrame(done).lazy()


def _fault(column: pl.Series, bad: pl.Series, what: str, first_row: int, *, show: bool = True) -> list[str]:
    """One sentence on the rows where `bad` holds, or none."""
    rows = bad.fill_null(False).arg_true()
    if rows.is_empty():
        return []
    named = ", ".join(
        f"row {row + first_row}" + (f" ({column[row]!r})" if show else "") for row in rows.head(SHOWN).to_list()
    )
    more = ", ..." if rows.len() > SHOWN else ""
    return [f"column {column.name} has {rows.len():,} {what} value{'s' * (rows.len() > 1)}: {named}{more}"]


def _nulls(column: pl.Series, faults: list[str], first_row: int) -> None:
    faults += _fault(column, column.is_null(), "null (empty)", first_row, show=False)


def _ids(column: pl.Series, faults: list[str], first_row: int) -> pl.Series:
    """Ids as integers or text; whole floats become integers."""
    if column.dtype in (pl.Categorical, pl.Enum, pl.Int128) or column.dtype == pl.Null:
        column = column.cast(pl.String)
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        faults += _fault(column, (whole != column) | (whole.is_null() & column.is_not_null()), "fractional", first_row)
        column = whole
    elif not (column.dtype == pl.String or column.dtype.is_integer()):
        faults.append(f"column {column.name} is {column.dtype}; ids are whole numbers or text")
        return column
    _nulls(column, faults, first_row)
    if column.dtype == pl.String:
        column = _numbers_where_plain(column)
    if column.dtype.is_signed_integer():
        what = "negative (-1 often marks a missing id; if it is meant, write ids as text, such as u-1)"
        faults += _fault(column, column < 0, what, first_row)
    return column


def _numbers_where_plain(column: pl.Series) -> pl.Series:
    """Text as Int64 if that loses nothing: no leading zeros, signs, spaces, or more than 64 bits."""
    if not column.head(1000).str.contains(r"^(0|-?[1-9][0-9]{0,18})$").all():
        return column
    if not column.str.contains(r"^(0|-?[1-9][0-9]{0,18})$").all():
        return column
    numbers = column.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == column.null_count() else column


def _times(column: pl.Series, faults: list[str], first_row: int, *, unit: str, say: Say) -> pl.Series:
    """Times as Int64 milliseconds, of numbers in `unit`, dates, or text with either."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
    _nulls(column, faults, first_row)
    values = _from_text(column) if column.dtype == pl.String else column
    if not (values.dtype.is_numeric() or values.dtype in (pl.Date, pl.Datetime)):
        faults.append(f"column {TIME} is {column.dtype}; times are numbers, dates or text such as 2024-01-31 12:00:00")
        return column
    what = "unparsable (understood are numbers and text such as 2024-01-31 12:00:00)"
    if values.dtype in (pl.Date, pl.Datetime):
        millis = values.cast(pl.Datetime("ms", getattr(values.dtype, "time_zone", None))).cast(pl.Int64)
    else:
        if values.dtype.is_float():
            values = values.set(values.is_infinite().fill_null(False), None)
        millis = _scaled(values, unit, faults, say)
    faults += _fault(column, millis.is_null() & column.is_not_null(), what, first_row)
    faults += _fault(column, millis < 0, "negative (before 1970)", first_row)
    return millis.alias(TIME)


def _from_text(column: pl.Series) -> pl.Series:
    """Whole numbers, else numbers, else dates: the reading that leaves the fewest values unread."""
    clean = column.str.strip_chars()
    readings = [clean.cast(pl.Int64, strict=False)]
    if readings[0].null_count() > column.null_count():
        frame = clean.to_frame()
        local = pl.coalesce(pl.col(TIME).str.to_datetime(form, time_unit="us", strict=False) for form in TIME_FORMS)
        zoned = pl.coalesce(
            pl.col(TIME).str.replace("Z$", "+00:00").str.to_datetime(form, time_unit="us", strict=False)
            for form in ZONED_FORMS
        )
        dates = pl.coalesce(local, zoned.dt.replace_time_zone(None))
        readings += [clean.cast(pl.Float64, strict=False).fill_nan(None), frame.select(dates).to_series()]
    return min(readings, key=pl.Series.null_count)


def _scaled(values: pl.Series, unit: str, faults: list[str], say: Say) -> pl.Series:
    """Numbers in `unit` as whole milliseconds."""
    if unit != "auto" and unit not in UNITS:
        raise UserError(f"data.unit: got {unit!r}, expected one of auto, {', '.join(UNITS)}.")
    top = values.max()
    largest = float(top) if isinstance(top, int | float) else 0.0
    guessed = next((name for name, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if largest < limit), "ns")
    unit = guessed if unit == "auto" else unit
    if largest * UNITS[unit] > LATEST:
        faults.append(f"column {TIME} reaches {top!r}, which in {unit} is after the year 9999; set data.unit")
        return values.cast(pl.Int64, strict=False)
    millis = values.to_frame().select(_in_milliseconds(pl.col(values.name), unit, whole=values.dtype.is_integer()))
    if not faults and largest > 0:
        last = pl.Series([int(largest * UNITS[unit])], dtype=pl.Int64).cast(pl.Datetime("us"))
        day = last.dt.strftime("%Y-%m-%d")[0]
        say(f"timestamp: numbers up to {top!r} read as {unit}, so the last event is of {day}.")
    return millis.to_series()


def _in_milliseconds(values: pl.Expr, unit: str, *, whole: bool) -> pl.Expr:
    if not whole:
        return (values * (UNITS[unit] / 1000)).round().cast(pl.Int64, strict=False)
    number = values.cast(pl.Int64, strict=False)
    return {"s": number * 1000, "ms": number, "us": number // 1000, "ns": number // 1_000_000}[unit]


def _ratings(column: pl.Series, faults: list[str], first_row: int) -> pl.Series:
    """Ratings as Float32."""
    _nulls(column, faults, first_row)
    if not (column.dtype == pl.String or column.dtype.is_numeric()):
        faults.append(f"column {column.name} is {column.dtype}; ratings are numbers")
        return column
    text = column.str.strip_chars() if column.dtype == pl.String else column
    numbers = text.cast(pl.Float32, strict=False).fill_nan(None)
    faults += _fault(column, numbers.is_null() & column.is_not_null(), "unparsable", first_row)
    return numbers
