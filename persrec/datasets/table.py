"""Any table: csv, tsv, parquet or jsonl (text also as .gz) by column mapping, and pandas and Polars frames.

Headers of other libraries are understood: RecTools' `datetime` is our timestamp, RecBole's `user_id:token` our user_id.
A row is an event, or where its columns hold lists (RecBole's `item_id_list:token_seq` among them) a whole history.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from persrec.datasets import histories, json_lines, movielens
from persrec.datasets.files import PACKED, ending, first_line, one_file, scan_parquet, uneven_row
from persrec.datasets.quoting import scan_csv
from persrec.errors import UserError
from persrec.interactions.schema import (
    COLUMNS,
    DWELL,
    EVENT,
    ITEM,
    TIME,
    WEIGHT,
    Say,
    Why,
    check_columns,
    check_twice,
    close_matches,
    conform,
    log,
    reading,
    shown,
)

RECBOLE: Final = ".inter"
SEPARATORS: Final = {".csv": ",", ".tsv": "\t", RECBOLE: "\t"}
PARQUET: Final = (".parquet", ".pq")
JSON_LINES: Final = (".jsonl", ".ndjson")
ALIASES: Final = {"datetime": TIME}
NAMED: Final = (*COLUMNS, WEIGHT, DWELL, EVENT)  # what a mapping may name


def files(path: Path) -> list[Path]:
    """The table in a folder, or the file itself."""
    text = [f"*{known}" for known in (*SEPARATORS, *JSON_LINES)]
    patterns = ["*.parquet", *text, *(f"{pattern}{PACKED}" for pattern in text)]
    return [one_file(path, patterns=patterns, what="a table", alike=True)]


def read(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
    unit: str = "auto",
    events: bool = False,
    keep: Sequence[str] = (),
    bad_rows: str = "refuse",
    say: Say = log,
) -> pl.LazyFrame:
    """The log in a file; `columns` maps our names to the file's, `separator` None goes by the file's ending."""
    (file,) = files(path)
    common: dict[str, Any] = {"where": str(file), "unit": unit, "events": events, "keep": keep, "bad_rows": bad_rows}
    common["say"] = say
    if file.suffix in PARQUET:
        return _conformed(scan_parquet(file), columns, **common)
    if first_line(file) == movielens.HEADER and not columns:
        raise UserError(
            f"{file}: the columns are those of MovieLens ({movielens.HEADER}); read it with --set "
            "data.source=movielens, or call them user_id, item_id, rating, timestamp."
        )
    if ending(file) in JSON_LINES:
        wanted = {*NAMED, *ALIASES, *(columns or {}).values(), *(f"{name}{histories.LIST}" for name in NAMED)}
        scanned = json_lines.scan(file, wanted)
        return _conformed(scanned, columns, why=lambda: json_lines.fault(file, wanted), **common)
    separator = separator or _separator(file)
    plain = ending(file) == RECBOLE  # where quotes are signs like any other
    frame = scan_csv(file, separator=separator, plain=plain)

    def why() -> str:
        return uneven_row(file, separator, quoted=not plain)

    return _conformed(frame, columns, first_row=2, why=why, **common)


def read_frame(
    frame: Any,
    *,
    columns: Mapping[str, str] | None = None,
    unit: str = "auto",
    events: bool = False,
    keep: Sequence[str] = (),
    bad_rows: str = "refuse",
    say: Say = log,
) -> pl.LazyFrame:
    """The log in a pandas or Polars frame."""
    common: dict[str, Any] = {"where": "frame", "unit": unit, "events": events, "keep": keep, "bad_rows": bad_rows}
    common["say"] = say
    return _conformed(as_polars(frame), columns, **common)


def is_frame(given: Any) -> bool:
    """Whether it is a frame of pandas or Polars."""
    if isinstance(given, pl.LazyFrame | pl.DataFrame):
        return True
    return type(given).__module__.partition(".")[0] == "pandas" and hasattr(given, "columns")


def as_polars(frame: Any) -> pl.LazyFrame:
    """A pandas or Polars frame as a LazyFrame; what has a name in the index of pandas is a column too.

    Raises:
        UserError: it is something else, or has a column twice or of several types.
    """
    if isinstance(frame, pl.LazyFrame | pl.DataFrame):
        return frame.lazy()
    if type(frame).__module__.split(".")[0] == "pandas":
        return _from_pandas(frame).lazy()
    raise UserError(f"frame: got {type(frame).__name__}, expected a pandas or Polars frame (or a path to a file).")


def _from_pandas(frame: Any) -> pl.DataFrame:
    if getattr(frame, "columns", None) is None:
        raise UserError(
            f"frame: got a {type(frame).__name__} of pandas, expected a frame with a column for each field."
        )
    if any(name is not None and name not in frame.columns for name in frame.index.names):
        frame = frame.reset_index()
    if not frame.columns.is_unique:
        name = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"frame: column {name} stands there twice; rename or drop one of them.")
    try:
        return pl.DataFrame(frame)
    except (TypeError, ValueError) as error:
        kinds = {name: sorted({type(value).__name__ for value in frame[name]}) for name in frame.columns}
        mixed = [f"{name} ({', '.join(of)})" for name, of in kinds.items() if len(of) > 1]
        advice = f"give each column one type: {'; '.join(mixed) or 'see there'}"
        raise UserError(f"frame: cannot be taken over from pandas: {error}; {advice}.") from None


def rename(
    frame: pl.LazyFrame,
    columns: Mapping[str, str],
    *,
    where: str,
    events: bool = False,
    keep: Sequence[str] = (),
    why: Why = str,
    say: Say = log,
) -> pl.LazyFrame:
    """Our column names, from a mapping (ours: theirs), the same names, or the headers of RecTools and RecBole.

    Raises:
        UserError: the mapping names what is not there, user and item cannot be found, or a column stands there twice.
    """
    with reading(where, why):
        names = frame.collect_schema().names()
    _check_mapping(columns, names, where=where)
    found = {_plain(name): name for name in reversed(names)} | dict(columns)
    single: dict[str, Any] = {"where": where, "meaning": _plain, "chosen": columns}
    if f"{ITEM}{histories.LIST}" in found:
        check_columns(list(dict.fromkeys([ITEM, *found])), where=where)
        check_twice(
            {name: found[name] for name in found if name.removesuffix(histories.LIST) in NAMED}, names, **single
        )
        return histories.of_recbole(frame, found)
    wanted = (*COLUMNS, *keep) + (EVENT,) * events
    used = {ours: found[ours] for ours in wanted if ours in found}
    there = [*used, *(name for name in names if name not in used.values())]
    check_columns(there, where=where, columns=columns, theirs=names)
    twice = sorted(theirs for theirs in set(used.values()) if list(used.values()).count(theirs) > 1)
    if twice:
        raise UserError(f"{where}: data.columns uses {', '.join(twice)} for more than one of our columns.")
    check_twice(used, names, **single)
    renamed = [f"{theirs} is {ours}" for ours, theirs in used.items() if ours != theirs]
    if renamed:
        say(f"{where}: {', '.join(renamed)}.")
    unused = [ours for ours in columns if ours not in wanted]
    if unused:
        say(f"{where}: {', '.join(unused)}: not used.")
    unread = [name for name in names if name not in used.values()]
    if TIME not in used and unread:
        near = [*close_matches(TIME, unread), *close_matches("date", unread), "THEIRS"]
        say(
            f"Note: {where}: no {TIME}; not read are {shown(unread)}. If one of them holds the time, set data.columns: "
            f"{{{TIME}: {near[0]}}}."
        )
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
            hint = f" (did you mean {shown(near[:1])}?)" if near else ""
            raise UserError(f"{where}: data.columns.{ours}: no column {theirs!r}{hint}; got {shown(names)}.")


def _conformed(
    frame: pl.LazyFrame,
    columns: Mapping[str, str] | None,
    *,
    where: str,
    unit: str,
    events: bool,
    keep: Sequence[str],
    bad_rows: str,
    say: Say,
    first_row: int = 1,
    why: Why = str,
) -> pl.LazyFrame:
    named = rename(frame, columns or {}, where=where, events=events, keep=keep, why=why, say=say)
    single = histories.exploded(named, where=where, first_row=first_row, why=why, say=say)
    kept: dict[str, Any] = {"events": events, "keep": keep, "bad_rows": bad_rows}
    return conform(single, where=where, unit=unit, first_row=first_row, why=why, say=say, **kept)


def _separator(file: Path) -> str:
    """What splits the columns of a text file, by its ending."""
    if ending(file) not in SEPARATORS:
        known = ", ".join([*SEPARATORS, *PARQUET, *JSON_LINES])
        raise UserError(f"{file}: unknown ending {ending(file)!r} (known: {known}); set data.separator for text.")
    return SEPARATORS[ending(file)]
