"""Readers of raw logs, one file per source, with `files(path)`, what it reads, and `read(path, ...)`, the log.

A new source is one module and one entry of `SOURCES`.
"""

import hashlib
import inspect
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import polars as pl

from persrec.datasets import (
    amazon,
    causes,
    ebnerd,
    globo_news,
    merrec,
    movielens,
    online_retail,
    sasrec,
    synthetic,
    table,
)
from persrec.errors import UserError
from persrec.interactions.schema import EVENT, Say, close_matches, log
from persrec.recipe.sections import MADE

SOURCES: Final[dict[str, ModuleType]] = {
    "amazon": amazon,
    "causes": causes,
    "ebnerd": ebnerd,
    "globo-news": globo_news,
    "merrec": merrec,
    "movielens": movielens,
    "online-retail": online_retail,
    "sasrec": sasrec,
    "synthetic": synthetic,
    "table": table,
}


def read(source: str, path: str | Path | None = None, *, say: Say = log, **options: Any) -> pl.LazyFrame:
    """The log of a source; options are those of its reader.

    Raises:
        UserError: unknown source, missing file, an option this source does not have, or a fault in the log.
    """
    module = _module(source)
    known = [name for name in inspect.signature(module.read).parameters if name not in ("path", "say")]
    wrong = [name for name in options if name not in known]
    if wrong:
        raise UserError(
            f"data.{wrong[0]} does not apply to source {source!r} (it takes {', '.join(known) or 'no options'}); "
            "remove it, or use source: table."
        )
    frame: pl.LazyFrame = module.read(_located(source, path), say=say, **options)
    return frame


def read_section(section: Mapping[str, Any], *, frame: Any = None, say: Say = log) -> pl.LazyFrame:
    """The log of a recipe's data section, or of `frame` with the section's columns and unit."""
    options: dict[str, Any] = {key: section[key] for key in ("columns", "separator") if section[key]}
    options |= {"events": True} if section["events"] else {}
    keep = [name for name in section["keep"] if name != EVENT]
    options |= {"keep": keep} if keep else {}
    options |= {key: section[key] for key, plain in (("unit", "auto"), ("bad_rows", "refuse")) if section[key] != plain}
    if frame is not None:
        options.pop("separator", None)
        return table.read_frame(frame, say=say, **options)
    if section["source"] in MADE:
        options |= section[section["source"]]
    return read(section["source"], section["path"], say=say, **options)


def files(source: str, path: str | Path | None) -> list[Path]:
    """The files that reading would read."""
    found: list[Path] = _module(source).files(_located(source, path))
    return found


def frame_digest(frame: Any, columns: Mapping[str, str], *, events: bool = False, keep: Sequence[str] = ()) -> str:
    """SHA-256 of those columns of a pandas or Polars frame that are read."""
    bytes_of = io.BytesIO()
    read_of = table.rename(table.as_polars(frame), columns, where="frame", events=events, keep=keep)
    read_of.collect().rechunk().write_ipc(bytes_of)
    return hashlib.sha256(bytes_of.getbuffer()).hexdigest()


def _module(source: str) -> ModuleType:
    if source not in SOURCES:
        near = close_matches(source, SOURCES)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"data.source: got {source!r}, expected one of {', '.join(SOURCES)}{hint}.")
    return SOURCES[source]


def _located(source: str, path: str | Path | None) -> Path | None:
    """The path with ~ and variables expanded, which must be there."""
    if source in MADE:
        if path is not None:
            raise UserError(f"data.path: got {str(path)!r}; source {source} reads no file, leave the path out.")
        return None
    if path is None:
        raise UserError(f"data.path: missing; source {source} reads a file or folder, name it.")
    found = Path(os.path.expandvars(path)).expanduser()
    if not found.exists():
        there = [entry.name for entry in found.parent.iterdir()] if found.parent.is_dir() else []
        near = close_matches(found.name, there)
        hint = f" There is {', '.join(near)}." if near else _where_from(found)
        raise UserError(f"data.path: {found} does not exist (looked from {Path.cwd()}).{hint}")
    return found


def _where_from(path: Path) -> str:
    """How to come by the file of a known data set; nothing of others."""
    from persrec.datasets import catalogue  # which reads through this module

    how = catalogue.where_from(path)
    return how and f"{how} If you have it, set PERSREC_DATASETS to the folder that holds {path.parent.name}/."
