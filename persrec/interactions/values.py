"""The values of a log's columns in one type each, and what is wrong with them, by row."""

from collections.abc import Callable
from typing import Final

import polars as pl

from persrec.errors import UserError

UNITS: Final = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}  # microseconds in one unit
TIME_FORMS: Final = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
ZONED_FORMS: Final = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
LATEST: Final = 7_258_118_399_999_999  # microseconds, the end of the year 2199: no log has later events
CONTROL: Final = "unprintable (line breaks or zero bytes; is a quote not closed?)"
SHOWN: Final = 5  # rows named in a message


class Faults:
    """What is wrong with the values of a table: sentences, and the rows that they speak of."""

    def __init__(self, height: int, first_row: int, rows: pl.Series | None) -> None:
        """Of a table of this height, whose rows in the file count from `first_row`; `rows` are their places there."""
        self.first_row = first_row
        self.rows = rows
        self.bad = pl.repeat(False, height, eager=True)
        self.sentences: list[str] = []
        self.columns: list[str] = []  # on columns that are wrong as a whole

    def add(self, column: pl.Series, bad: pl.Series, what: str, *, show: bool = True) -> None:
        """The rows where `bad` holds, if there are any; `show` names their values."""
        bad = bad.fill_null(False)
        places = bad.arg_true()
        if places.is_empty():
            return
        self.bad = self.bad | bad
        named = ", ".join(
            f"row {self._row(place)}" + (f" ({column[place]!r})" if show else "") for place in places.head(SHOWN)
        )
        more = ", ..." if places.len() > SHOWN else ""
        count = f"{places.len():,} {what} value{'s' * (places.len() > 1)}"
        self.sentences.append(f"column {column.name} has {count}: {named}{more}")

    def _row(self, place: int) -> int:
        return self.first_row + int(place if self.rows is None else self.rows[place])

    def add_nulls(self, column: pl.Series) -> None:
        self.add(column, column.is_null(), "null (empty)", show=False)


def ids(column: pl.Series, faults: Faults) -> pl.Series:
    """Ids as integers or text; whole floats become integers."""
    if column.dtype in (pl.Categorical, pl.Enum, pl.Int128) or column.dtype == pl.Null:
        column = column.cast(pl.String)
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        faults.add(column, (whole != column) | (whole.is_null() & column.is_not_null()), "fractional")
        column = whole
    elif not (column.dtype == pl.String or column.dtype.is_integer()):
        faults.columns.append(f"column {column.name} is {column.dtype}; ids are whole numbers or text")
        return column
    if column.dtype == pl.String:
        column = column.set(column.str.contains(r"^\s*$").fill_null(False), None)
        faults.add(column, column.str.contains(r"[\x00-\x1f]"), CONTROL)
    faults.add_nulls(column)
    if column.dtype == pl.String:
        column = _numbers_where_plain(column)
    if column.dtype.is_signed_integer():
        what = "negative (-1 often marks a missing id; if it is meant, write ids as text, such as u-1)"
        faults.add(column, column < 0, what)
    return column


def _numbers_where_plain(column: pl.Series) -> pl.Series:
    """Text as Int64 if that loses nothing: no leading zeros, signs, spaces, or more than 64 bits."""
    if not column.head(1000).str.contains(r"^(0|-?[1-9][0-9]{0,18})$").all():
        return column
    if not column.str.contains(r"^(0|-?[1-9][0-9]{0,18})$").all():
        return column
    numbers = column.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == column.null_count() else column


def times(column: pl.Series, faults: Faults, *, unit: str, say: Callable[[str], None]) -> pl.Series:
    """Times as Int64 milliseconds, of numbers in `unit`, dates, or text with either."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
    faults.add_nulls(column)
    values = _from_text(column) if column.dtype == pl.String else column
    if not (values.dtype.is_numeric() or values.dtype in (pl.Date, pl.Datetime)):
        faults.columns.append(
            f"column {column.name} is {column.dtype}; times are numbers, dates or text such as 2024-01-31 12:00:00"
        )
        return column
    late = "too late (after the year 2199"
    if values.dtype in (pl.Date, pl.Datetime):
        millis = values.cast(pl.Datetime("ms", getattr(values.dtype, "time_zone", None))).cast(pl.Int64)
    else:
        if values.dtype.is_float():
            values = values.set(values.is_infinite().fill_null(False), None)
        unit = _unit(values) if unit == "auto" else unit
        millis = _scaled(values, unit, say)
        late += f", read as {unit}; see data.unit"
    what = "unparsable (understood are numbers and text such as 2024-01-31 12:00:00)"
    faults.add(column, values.is_null() & column.is_not_null(), what)
    faults.add(column, (millis > LATEST // 1000) | (millis.is_null() & values.is_not_null()), f"{late})")
    faults.add(column, millis < 0, "negative (before 1970)")
    return millis


def _from_text(column: pl.Series) -> pl.Series:
    """Whole numbers, else numbers, else dates: the reading that leaves the fewest values unread."""
    clean = column.str.strip_chars()
    readings = [clean.cast(pl.Int64, strict=False)]
    if readings[0].null_count() > column.null_count():
        frame = clean.to_frame()
        local = pl.coalesce(
            pl.col(column.name).str.to_datetime(form, time_unit="us", strict=False) for form in TIME_FORMS
        )
        zoned = pl.coalesce(
            pl.col(column.name).str.replace("Z$", "+00:00").str.to_datetime(form, time_unit="us", strict=False)
            for form in ZONED_FORMS
        )
        dates = pl.coalesce(local, zoned.dt.replace_time_zone(None))
        readings += [clean.cast(pl.Float64, strict=False).fill_nan(None), frame.select(dates).to_series()]
    return min(readings, key=pl.Series.null_count)


def _unit(values: pl.Series) -> str:
    """The unit in which most of the numbers are times of our days; a few wild ones do not decide."""
    middle = values.median()
    size = float(middle) if isinstance(middle, int | float) else 0.0
    return next((name for name, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if size < limit), "ns")


def _scaled(values: pl.Series, unit: str, say: Callable[[str], None]) -> pl.Series:
    """Numbers in `unit` as whole milliseconds; null where they are too large for a time."""
    if unit not in UNITS:
        raise UserError(f"data.unit: got {unit!r}, expected one of auto, {', '.join(UNITS)}.")
    size = values.cast(pl.Float64, strict=False) * UNITS[unit]
    fitting = values.set((size.abs() > LATEST).fill_null(False), None)
    top = fitting.max()
    if isinstance(top, int | float) and top > 0:
        last = pl.Series([int(top * UNITS[unit])], dtype=pl.Int64).cast(pl.Datetime("us"))
        day = last.dt.strftime("%Y-%m-%d")[0]
        say(f"timestamp: numbers up to {top!r} read as {unit}, so the last event is of {day}.")
    return fitting.to_frame().select(_in_milliseconds(pl.col(values.name), unit, values.dtype)).to_series()


def _in_milliseconds(values: pl.Expr, unit: str, dtype: pl.DataType) -> pl.Expr:
    if not dtype.is_integer():
        return (values * (UNITS[unit] / 1000)).round().cast(pl.Int64, strict=False)
    number = values.cast(pl.Int64, strict=False)
    return {"s": number * 1000, "ms": number, "us": number // 1000, "ns": number // 1_000_000}[unit]


def ratings(column: pl.Series, faults: Faults) -> pl.Series:
    """Ratings as Float32."""
    faults.add_nulls(column)
    if not (column.dtype == pl.String or column.dtype.is_numeric()):
        faults.columns.append(f"column {column.name} is {column.dtype}; ratings are numbers")
        return column
    text = column.str.strip_chars() if column.dtype == pl.String else column
    numbers = text.cast(pl.Float32, strict=False)
    numbers = numbers.set(~numbers.is_finite().fill_null(True), None)
    faults.add(column, numbers.is_null() & column.is_not_null(), "unparsable")
    return numbers


def amounts(column: pl.Series, faults: Faults) -> pl.Series:
    """Numbers that are not negative, as Float32."""
    numbers = ratings(column, faults)
    if numbers.dtype == pl.Float32:
        faults.add(column, (numbers < 0).fill_null(False), "negative")
    return numbers


def types(column: pl.Series, faults: Faults) -> pl.Series:
    """Types of events as text."""
    if not (column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean) or column.dtype.is_integer()):
        faults.columns.append(f"column {column.name} is {column.dtype}; types of events are text or whole numbers")
        return column
    faults.add_nulls(column)
    return column.cast(pl.String)
