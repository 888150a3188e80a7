"""From a raw log to a prepared folder: read, order, filter, number, group, write; or only look.

A prepared folder is written anew only when its hash changes and is seen only when complete; its files are described in
persrec/prepared.py.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa

from persrec import datasets, prepared
from persrec.constants import PAD
from persrec.errors import UserError
from persrec.interactions import filters, sequences, vocabulary
from persrec.interactions.facts import Facts, facts_of
from persrec.interactions.schema import ITEM, USER, Say
from persrec.interactions.split import SPLITS

logger = logging.getLogger("persrec")

SECTION: Final[dict[str, Any]] = {
    "source": "synthetic",
    "path": None,
    "columns": {},
    "separator": None,
    "unit": "auto",
    "deduplicate": True,
    "min_user_events": 1,
    "min_item_events": 1,
    "synthetic": {},
}


@dataclass(frozen=True)
class Log:
    """An ordered log in numbers, its vocabularies, and what is known about it."""

    events: pl.LazyFrame  # user_id Int32 0.., item_id Int32 1.., timestamp, rating
    users: pl.LazyFrame
    items: pl.LazyFrame
    facts: Facts


def prepare(
    data: Any,
    name: str,
    root: str | Path,
    split: str = "leave-one-out",
    *,
    frame: Any = None,
    say: Say = logger.info,
) -> Path:
    """The prepared folder of a recipe's data section, written unless it is there already.

    `data` is the section (a pydantic model or a mapping); `frame`, a pandas or Polars frame, takes the place of `path`.

    Raises:
        UserError: the log cannot be read, is empty after filtering, or the folder cannot be written.
    """
    if split not in SPLITS:
        raise UserError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}.")
    section = data_section(data)
    source = _origin(section, frame)
    identity = hash_of(source)
    folder = Path(root).absolute() / f"{name}-{identity[:12]}"
    if _is_whole(folder, split):
        say(f"{folder}: prepared already (same files, same data section).")
        return folder
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    log = load(section, frame=frame, say=note)
    facts = {"format": prepared.FORMAT, "hash": identity, "name": name, "source": source, "understood": notes}
    _write(log, folder, split, facts | {"counts": log.facts.as_dict()})
    say(f"{folder}: written.")
    return folder


def check(
    data: Any, *, segment: int, recent: int, length: int | None = None, frame: Any = None, say: Say = logger.info
) -> Facts:
    """What a log is like, without writing anything; with the share of users who have closed segments under S and R."""
    log = load(data_section(data), frame=frame, say=say)
    return log.facts.with_segments(log.events, segment=segment, recent=recent, length=length)


def data_section(data: Any) -> dict[str, Any]:
    """The data section as a plain dict, with its defaults."""
    given = data.model_dump(mode="json") if hasattr(data, "model_dump") else data
    if not isinstance(given, Mapping):
        raise UserError(f"data: got {type(data).__name__}, expected the data section of a recipe or a mapping.")
    unknown = [key for key in given if key not in SECTION]
    if unknown:
        raise UserError(f"data: unknown key {', '.join(map(str, unknown))}; known are {', '.join(SECTION)}.")
    return SECTION | {key: value for key, value in given.items() if value is not None}


def load(section: Mapping[str, Any], *, frame: Any = None, say: Say = logger.info) -> Log:
    """The log of a data section: read, numbered, ordered, without duplicates, k-core."""
    raw = datasets.read_section(section, frame=frame, say=say)
    users = vocabulary.vocabulary(raw, USER, first=0).collect().lazy()
    items = vocabulary.vocabulary(raw, ITEM, first=PAD + 1).collect().lazy()
    events = sequences.ordered(vocabulary.encode(raw, {USER: users, ITEM: items})).collect().lazy()
    del raw
    read = _height(events)
    if section["deduplicate"]:
        events = filters.drop_duplicates(events).collect().lazy()
    distinct = _height(events)
    events = filters.k_core(
        events, min_user_events=section["min_user_events"], min_item_events=section["min_item_events"]
    )
    kept = _height(events)
    if kept < distinct:
        events, users = vocabulary.compact(events, users, USER, first=0)
        events, items = vocabulary.compact(events, items, ITEM, first=PAD + 1)
        events, users, items = (part.collect().lazy() for part in (events, users, items))
    facts = facts_of(events, duplicates=read - distinct, filtered=distinct - kept)
    return Log(events=events, users=users, items=items, facts=facts)


def hash_of(source: Mapping[str, Any]) -> str:
    """SHA-256 over the source's contents, the data section (without the path) and the format version."""
    contents = {"format": prepared.FORMAT, **{key: value for key, value in source.items() if key != "path"}}
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()


def _origin(section: Mapping[str, Any], frame: Any) -> dict[str, Any]:
    """Where a log comes from: section, path, and name and SHA-256 of each file."""
    settings = {key: value for key, value in section.items() if key != "path"}
    if section["source"] != "synthetic":
        settings.pop("synthetic")
    if frame is not None:
        return {
            "section": settings,
            "path": None,
            "files": [{"name": "frame", "sha256": datasets.frame_digest(frame, section["columns"])}],
        }
    files = datasets.files(section["source"], section["path"])
    return {
        "section": settings,
        "path": section["path"] and str(section["path"]),
        "files": [{"name": file.name, "sha256": prepared.digest(file)} for file in files],
    }


def _is_whole(folder: Path, split: str) -> bool:
    """Whether a folder holds this data and this split, complete."""
    try:
        facts = prepared.read_facts(folder)
        prepared.check_files(folder, facts, verify=True)
    except UserError:
        return False
    return prepared.split_file(split) in facts["files"]


def _write(log: Log, folder: Path, split: str, facts: dict[str, Any]) -> None:
    """Write under a temporary name, then rename; on any failure nothing stays."""
    working = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        working.mkdir(parents=True, exist_ok=True)
        _write_files(log, working, split)
        names = sorted(path.name for path in working.iterdir())
        facts["files"] = {
            name: {"bytes": (working / name).stat().st_size, "sha256": prepared.digest(working / name)}
            for name in names
        }
        text = json.dumps(facts, indent=1, ensure_ascii=False, default=str)
        (working / prepared.FACTS).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        working.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}. Prepared data needs about "
            f"{log.facts.events * 12 / 1e6:,.0f} MB here; free space or choose another folder. Nothing was left behind."
        ) from error
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _write_files(log: Log, folder: Path, split: str) -> None:
    lists = sequences.grouped(log.events).drop(USER).collect()
    counts = lists.lazy().select(pl.col("items").list.len().alias("events"))
    bounds = SPLITS[split](counts).collect()
    items = vocabulary.item_table(log.items, lists.lazy(), bounds.lazy()).collect()
    write_batch(lists, folder / prepared.SEQUENCES)
    write_batch(log.users.select(USER).collect(), folder / prepared.USERS)
    write_batch(items, folder / prepared.ITEMS)
    write_batch(bounds, folder / prepared.split_file(split))


def write_batch(frame: pl.DataFrame, path: Path) -> None:
    """An uncompressed Arrow file with one record batch."""
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])


def _height(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())
