"""Any table: csv, tsv, parquet or jsonl by column mapping, and pandas and Polars frames.

Headers of other libraries are understood: RecTools' `datetime` is our timestamp, RecBole's `user_id:token` our user_id.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from persrec.datasets.files import first_line, one_file, uneven_row
from persrec.errors import UserError
from persrec.interactions.schema import COLUMNS, TIME, Say, check_columns, close_matches, conform, log, reading

SEPARATORS: Final = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
PARQUET: Final = (".parquet", ".pq")
JSON_LINES: Final = (".jsonl", ".ndjson")
ALIASES: Final = {"datetime": TIME}
NAMED: Final = (*COLUMNS, "weight", "event")  # what a mapping may name


def files(path: Path) -> list[Path]:
    """The table in a folder, or the file itself."""
    patterns = [f"*{ending}" for ending in (".parquet", ".csv", ".tsv", ".inter", ".jsonl")]
    return [one_file(path, patterns=patterns, what="a table")]


def read(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
    unit: str = "auto",
    say: Say = log,
) -> pl.LazyFrame:
    """The log in a file; `columns` maps our names to the file's, `separator` None goes by the file's ending."""
    (file,) = files(path)
    if file.suffix in PARQUET:
        return _conformed(pl.scan_parquet(file), columns, where=str(file), unit=unit, say=say)
    first_line(file)
    if file.suffix in JSON_LINES:
        frame = pl.scan_ndjson(file, infer_schema_length=None)
        return _conformed(frame, columns, where=str(file), unit=unit, say=say)
    separator = separator or _separator(file)
    frame = pl.scan_csv(file, separator=separator, infer_schema=False)

    def why() -> str:
        return uneven_row(file, separator)

    return _conformed(frame, columns, where=str(file), unit=unit, first_row=2, why=why, say=say)


def read_frame(
    frame: Any, *, columns: Mapping[str, str] | None = None, unit: str = "auto", say: Say = log
) -> pl.LazyFrame:
    """The log in a pandas or Polars frame."""
    return _conformed(as_polars(frame), columns, where="frame", unit=unit, say=say)


def as_polars(frame: Any) -> pl.LazyFrame:
    """A pandas or Polars frame as a LazyFrame.

    Raises:
        UserError: it is something else.
    """
    if isinstance(frame, pl.LazyFrame | pl.DataFrame):
        return frame.lazy()
    if type(frame).__module__.split(".")[0] == "pandas":
        try:
            return pl.DataFrame(frame).lazy()
        except (TypeError, ValueError) as error:
            raise UserError(f"frame: cannot be taken over from pandas: {error}; give each column one type.") from None
    raise UserError(f"frame: got {type(frame).__name__}, expected a pandas or Polars frame (or a path to a file).")


def rename(frame: pl.LazyFrame, columns: Mapping[str, str], *, where: str, say: Say = log) -> pl.LazyFrame:
    """Our column names, from a mapping (ours: theirs), the same names, or the headers of RecTools and RecBole.

    Raises:
        UserError: the mapping names what is not there, or user and item cannot be found.
    """
    with reading(where):
        names = frame.collect_schema().names()
    _check_mapping(columns, names, where=where)
    found = {_plain(name): name for name in reversed(names)}
    used = {ours: found[ours] for ours in COLUMNS if ours in found} | dict(columns)
    used = {ours: theirs for ours, theirs in used.items() if ours in COLUMNS}
    if "item_id_list" in found:
        raise UserError(f"{where}: item_id_list holds whole histories; expected one event per row: explode it first.")
    check_columns([*used, *(name for name in names if name not in used.values())], where=where)
    twice = sorted(theirs for theirs in set(used.values()) if list(used.values()).count(theirs) > 1)
    if twice:
        raise UserError(f"{where}: data.columns uses {', '.join(twice)} for more than one of our columns.")
    renamed = [f"{theirs} is {ours}" for ours, theirs in used.items() if ours != theirs]
    if renamed:
        say(f"{where}: {', '.join(renamed)}.")
    unused = [ours for ours in columns if ours not in COLUMNS]
    if unused:
        say(f"{where}: {', '.join(unused)}: not used.")
    near = [] if TIME in used else close_matches(TIME, names) + close_matches("date", names)
    if near:
        say(f"{where}: no {TIME}; if {near[0]} holds the time, set data.columns: {{{TIME}: {near[0]}}}.")
    return frame.select(pl.col(theirs).alias(ours) for ours, theirs in used.items())


def _plain(name: str) -> str:
    """A header without RecBole's `:type`, by our name."""
    bare = name.strip().partition(":")[0]
    return ALIASES.get(bare, bare)


def _check_mapping(columns: Mapping[str, str], names: list[str], *, where: str) -> None:
    for ours, theirs in columns.items():
        if ours not in NAMED:
            near = close_matches(ours, NAMED)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"data.columns: unknown column {ours!r}, expected {', '.join(NAMED)}{hint}.")
        if theirs not in names:
            near = close_matches(theirs, names)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{where}: data.columns.{ours}: no column {theirs!r}{hint}; got {', '.join(names)}.")


def _conformed(
    frame: pl.LazyFrame, columns: Mapping[str, str] | None, *, where: str, say: Say, **options: Any
) -> pl.LazyFrame:
    return conform(rename(frame, columns or {}, where=where, say=say), where=where, say=say, **options)


def _separator(file: Path) -> str:
    """What splits the columns of a text file, by its ending."""
    if file.suffix not in SEPARATORS:
        known = ", ".join([*SEPARATORS, *PARQUET, *JSON_LINES])
        raise UserError(f"{file}: unknown ending {file.suffix!r} (known: {known}); set data.separator for text.")
    return SEPARATORS[file.suffix]
