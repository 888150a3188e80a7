"""The values of a log's columns in one type each, and what is wrong with them, by row.

A log comes part by part. How a column is read depends on all its values: `Plain` and `Clock` look at every part first.
"""

from decimal import Decimal
from typing import Any, Final

import numpy as np
import polars as pl

from persrec.constants import LATEST_MS
from persrec.errors import UserError

UNITS: Final = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}  # microseconds in one unit
CLOCKS: Final = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M")
TIME_FORMS: Final = (*CLOCKS, "%Y-%m-%d")
ZONED_FORMS: Final = tuple(f"{form}%#z" for form in CLOCKS)
LATEST: Final = 1000 * LATEST_MS + 999  # microseconds
CONTROL: Final = "unprintable (line breaks, zero bytes or byte order marks; is a quote not closed?)"
NOTHING: Final = ("NaN", "nan", "null", "NULL", "None", r"\N")  # what programs write for an id that is missing
WORD: Final = "null (a word for nothing such as NaN)"
SHOWN: Final = 5  # rows named in a message
PLAIN: Final = r"^(0|-?[1-9][0-9]{0,18})$"  # no leading zeros, signs or spaces, and hardly more than 64 bits
EXACT: Final[dict[Any, int]] = {
    pl.Float16: 2**11,
    pl.Float32: 2**24,
    pl.Float64: 2**53,
}  # whole numbers up to there are told apart
INEXACT: Final = "inexact (its type cannot tell numbers of this size apart; write ids as whole numbers or text)"
DATES: Final = 19_000_101, 21_991_231  # numbers that may be meant as dates
LIMITS: Final = {"s": 1e11, "ms": 1e14, "us": 1e17}  # times of our days are below


class Faults:
    """What is wrong with the values of a table: sentences, and the rows of the present part that they speak of."""

    def __init__(self, first_row: int) -> None:
        """Of a table whose rows in the file count from `first_row`."""
        self.first_row = first_row
        self.rows: pl.Series | int = 0
        self.bad = pl.Series([], dtype=pl.Boolean)
        self.columns: list[str] = []  # on columns that are wrong as a whole
        self._found: dict[tuple[str, str], tuple[int, list[str]]] = {}

    def begin(self, height: int, rows: pl.Series | int) -> None:
        """Go on with a part of this height; `rows` are its places in the file, or that of its first row."""
        self.rows = rows
        self.bad = pl.repeat(False, height, eager=True)

    def add(self, column: pl.Series, bad: pl.Series, what: str, *, show: bool = True) -> None:
        """The rows where `bad` holds, if there are any; `show` names their values."""
        bad = bad.fill_null(False)
        count, named = self._found.setdefault((column.name, what), (0, []))
        if not bad.any():
            return
        self.bad = self.bad | bad
        places = bad.arg_true()
        for place in places.head(SHOWN - len(named)):
            named.append(f"row {self._row(place)}" + (f" ({_shown(column, place)})" if show else ""))
        self._found[column.name, what] = count + places.len(), named

    def add_column(self, what: str) -> None:
        """A column that is wrong as a whole."""
        if what not in self.columns:
            self.columns.append(what)

    @property
    def sentences(self) -> list[str]:
        """Kind by kind, with the first rows."""
        return [
            f"column {name} has {count:,} {what} value{'s' * (count > 1)}: {', '.join(named)}"
            + ", ..." * (count > SHOWN)
            for (name, what), (count, named) in self._found.items()
            if count
        ]

    def _row(self, place: int) -> int:
        return self.first_row + int(self.rows + place if isinstance(self.rows, int) else self.rows[place])

    def add_nulls(self, column: pl.Series) -> None:
        self.add(column, column.is_null(), "null (empty)", show=False)


def _shown(column: pl.Series, place: int) -> str:
    """A value for a message; a date that no calendar has as a number."""
    if not column.dtype.is_temporal():
        return repr(column[place])
    one = column.slice(place, 1)
    millis = one.cast(pl.Datetime("ms", getattr(column.dtype, "time_zone", None))).to_physical()[0]
    return one.cast(pl.String)[0] if abs(millis) < LIMITS["ms"] else f"{millis} ms since 1970"


class Plain:
    """Whether every id of a column is a plain whole number, so that text becomes Int64 and loses nothing by it."""

    def __init__(self) -> None:
        self.holds = True

    def look(self, column: pl.Series) -> None:
        column = _as_text(column)
        if column.dtype != pl.String or not self.holds:
            return
        column = _without_blanks(column)
        self.holds = bool(
            column.head(1000).str.contains(PLAIN).all()
            and column.str.contains(PLAIN).all()
            and column.cast(pl.Int64, strict=False).null_count() == column.null_count()
        )


class Clock:
    """How the times of a column are read: text as whole numbers, numbers or dates, and numbers in which unit."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._unread = np.zeros(3, dtype=np.int64)  # values that a reading does not understand
        self._below = np.zeros((2, 1 + len(LIMITS)), dtype=np.int64)  # numbers, and how many are below the limits

    def look(self, column: pl.Series) -> None:
        if column.dtype.is_float():
            column = column.fill_nan(None)
        values = [column] * 2
        if column.dtype == pl.String:
            whole = _reading(column, 0)
            unread = [whole.null_count(), whole.null_count(), column.len()]
            values = [whole] * 2
            if whole.null_count() > column.null_count():
                values[1] = _reading(column, 1)
                unread[1:] = values[1].null_count(), _reading(column, 2).null_count()
            self._unread += unread
        if values[1].dtype.is_numeric():
            self._below += [[one.count(), *(_count(one < limit) for limit in LIMITS.values())] for one in values]

    @property
    def reading(self) -> int:
        """Of text: the one that leaves the fewest values unread."""
        return int(self._unread.argmin())

    @property
    def unit(self) -> str:
        """The unit in which most of the numbers are times of our days; a few wild ones do not decide."""
        if self._unit != "auto":
            return self._unit
        count, *below = self._below[min(self.reading, 1)].tolist()
        named = zip(LIMITS, below, strict=True)
        return next((name for name, least in named if 2 * least > count or not count), "ns")

    def sentence(self, top: float) -> str:
        """How numbers up to `top` were understood."""
        last = pl.Series([int(top * UNITS[self.unit])], dtype=pl.Int64).cast(pl.Datetime("us"))
        day = last.dt.strftime("%Y-%m-%d")[0]
        dates = " Dates such as 20240131 are to be written as 2024-01-31." * (DATES[0] <= top <= DATES[1])
        return f"timestamp: numbers up to {top!r} read as {self.unit}, so the last event is of {day}.{dates}"


def ids(column: pl.Series, faults: Faults, plain: Plain) -> pl.Series:
    """Ids as integers or text; whole floats become integers."""
    column = _as_text(column)
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        faults.add(column, (whole != column) | (whole.is_null() & column.is_not_null()), "fractional")
        faults.add(column, (column.abs() > EXACT[column.dtype]) & whole.is_not_null(), INEXACT)
        column = whole
    elif not (column.dtype == pl.String or column.dtype.is_integer()):
        faults.add_column(f"column {column.name} is {column.dtype}; ids are whole numbers or text")
        return column
    if column.dtype == pl.String:
        column = _without_blanks(column)
        faults.add(column, column.str.contains(r"[\x00-\x1f\x{feff}]"), CONTROL)
        faults.add(column, column.is_in(NOTHING), WORD)
    faults.add_nulls(column)
    if column.dtype == pl.String and plain.holds:
        column = column.cast(pl.Int64)
    if column.dtype.is_signed_integer():
        what = "negative (-1 often marks a missing id; if it is meant, write ids as text, such as u-1)"
        faults.add(column, column < 0, what)
    return column


def plain_ids(column: pl.Series, *, where: str) -> pl.Series:
    """Ids of a list, text or whole numbers; whole floats become integers, other ones null.

    Raises:
        UserError: the column holds something else.
    """
    column = _as_text(column)
    if column.dtype.is_float():
        whole = column.fill_nan(None).cast(pl.Int64, strict=False)
        return whole.set(whole.is_not_null() & (whole != column), None)
    if not (column.dtype == pl.String or column.dtype.is_integer()):
        raise UserError(f"{where}: column {column.name} is {column.dtype}, expected ids: whole numbers or text")
    return column


def _as_text(column: pl.Series) -> pl.Series:
    """Categories, numbers that are too large, and whole ones of databases as text, of which plain ones are numbers."""
    dtype = column.dtype
    kinds = pl.Categorical, pl.Enum, pl.Int128, getattr(pl, "UInt128", pl.Int128), pl.Null
    whole = isinstance(dtype, pl.Decimal) and dtype.scale == 0
    return column.cast(pl.String) if whole or dtype in kinds else column


def _without_blanks(column: pl.Series) -> pl.Series:
    """Text of nothing but spaces as null."""
    return column.set(column.str.contains(r"^\s*$").fill_null(False), None)


def times(column: pl.Series, faults: Faults, clock: Clock) -> tuple[pl.Series, float | None]:
    """Times as Int64 milliseconds, of numbers, dates, or text with either; and the greatest of the numbers."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
    faults.add_nulls(column)
    values = _reading(column, clock.reading) if column.dtype == pl.String else column
    if not (values.dtype.is_numeric() or values.dtype in (pl.Date, pl.Datetime)):
        faults.add_column(
            f"column {column.name} is {column.dtype}; times are numbers, dates or text such as 2024-01-31 12:00:00"
        )
        return column, None
    if values.dtype in (pl.Float16, pl.Float32) and ((values.abs() > EXACT[values.dtype]) & values.is_finite()).any():
        faults.add_column(f"column {column.name} is {column.dtype}, too coarse for such times; Float64 holds them")
    top, late = None, "too late (after the year 2199"
    if values.dtype in (pl.Date, pl.Datetime):
        millis = values.cast(pl.Datetime("ms", getattr(values.dtype, "time_zone", None))).cast(pl.Int64)
    else:
        if values.dtype.is_float():
            values = values.set(values.is_infinite().fill_null(False), None)
        millis, top = _scaled(values, clock.unit)
        late += f", read as {clock.unit}; see data.unit"
    what = "unparsable (understood are numbers and text such as 2024-01-31 12:00:00)"
    faults.add(column, values.is_null() & column.is_not_null(), what)
    faults.add(column, (millis > LATEST_MS) | (millis.is_null() & values.is_not_null()), f"{late})")
    faults.add(column, millis < 0, "negative (before 1970)")
    return millis, top


def _reading(column: pl.Series, which: int) -> pl.Series:
    """Text as whole numbers (0), numbers (1) or dates (2); null where it is something else."""
    clean = column.str.strip_chars()
    if which == 0:
        return clean.cast(pl.Int64, strict=False)
    if which == 1:
        return clean.cast(pl.Float64, strict=False).fill_nan(None)
    text = pl.col(column.name)
    local = pl.coalesce(text.str.to_datetime(form, time_unit="us", strict=False) for form in TIME_FORMS)
    zoned = pl.coalesce(
        text.str.replace("( ?UTC|Z)$", "+00:00").str.to_datetime(form, time_unit="us", strict=False)
        for form in ZONED_FORMS
    )
    return clean.to_frame().select(pl.coalesce(local, zoned.dt.replace_time_zone(None))).to_series()


def _scaled(values: pl.Series, unit: str) -> tuple[pl.Series, float | None]:
    """Numbers in `unit` as whole milliseconds, null where they are too large for a time; and the greatest of them."""
    if unit not in UNITS:
        raise UserError(f"data.unit: got {unit!r}, expected one of auto, {', '.join(UNITS)}.")
    size = values.cast(pl.Float64, strict=False) * UNITS[unit]
    fitting = values.set((size.abs() > LATEST).fill_null(False), None)
    top: Any = fitting.max()
    scaled = fitting.to_frame().select(_in_milliseconds(pl.col(values.name), unit, values.dtype)).to_series()
    return scaled, float(top) if isinstance(top, Decimal) else top


def _count(true: pl.Series) -> int:
    return int(true.sum() or 0)


def _in_milliseconds(values: pl.Expr, unit: str, dtype: pl.DataType) -> pl.Expr:
    if not dtype.is_integer():
        return (values.cast(pl.Float64) * (UNITS[unit] / 1000)).round().cast(pl.Int64, strict=False)
    number = values.cast(pl.Int64, strict=False)
    return {"s": number * 1000, "ms": number, "us": number // 1000, "ns": number // 1_000_000}[unit]


def ratings(column: pl.Series, faults: Faults) -> pl.Series:
    """Ratings as Float32."""
    faults.add_nulls(column)
    if not (column.dtype in (pl.String, pl.Null) or column.dtype.is_numeric()):
        faults.add_column(f"column {column.name} is {column.dtype}; {column.name}s are numbers")
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
        faults.add_column(f"column {column.name} is {column.dtype}; types of events are text or whole numbers")
        return column
    faults.add_nulls(column)
    return column.cast(pl.String)
