"""From a raw log to a prepared folder: read, order, filter, number, group, write; or only look.

A prepared folder is written anew only when its hash changes and is seen only when complete; its files are described in
persrec/prepared.py.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from persrec import datasets, prepared
from persrec.errors import UserError
from persrec.interactions import filters
from persrec.interactions.cold import Part, cold
from persrec.interactions.facts import Facts
from persrec.interactions.log import Columns, Ints, Log, histories, load
from persrec.interactions.schema import EVENT, Say
from persrec.interactions.split import END, with_moments
from persrec.interactions.split import split as split_of
from persrec.recipe.sections import MADE, Split

LEAVE_ONE_OUT: Final = Split()

logger = logging.getLogger("persrec")

LATER: Final[dict[str, Any]] = {"bad_rows": "refuse", "keep": [], **filters.DEFAULTS}
"""Keys that stand in the hash only where they are set, so that a log without them keeps its folder."""

SECTION: Final[dict[str, Any]] = {
    "source": "synthetic",
    "path": None,
    "columns": {},
    "separator": None,
    "unit": "auto",
    **LATER,
    "deduplicate": True,
    "min_user_events": 1,
    "min_item_events": 1,
    "synthetic": {},
    "causes": {},
}


def prepare(
    data: Any,
    name: str,
    root: str | Path,
    split: Split = LEAVE_ONE_OUT,
    *,
    frame: Any = None,
    say: Say = logger.info,
) -> Path:
    """The prepared folder of a recipe's data section, written unless it is there already; a new split is put beside.

    `data` and `split` are these sections of a recipe (`data` may be a mapping); `frame`, a pandas or Polars frame,
    takes the place of `path`.

    Raises:
        UserError: the log cannot be read, is empty after filtering, lacks the times that the split needs, or the
            folder cannot be written.
    """
    section = data_section(data)
    source = _origin(section, frame)
    identity = hash_of(source)
    folder = Path(root).absolute() / f"{name}-{identity[:12]}"
    known = _facts(folder)
    if known is not None:
        if prepared.split_files(split.name)[-1] not in known["files"]:
            _add_split(folder, split, known, say)
            say(f"{folder}: split {split.name} added.")
        else:
            say(f"{folder}: prepared already (same files, same data section).")
        return folder
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    _tidy(folder)
    try:
        log = load(section, frame=frame, folder=_working(folder), say=note)
    except BaseException:
        shutil.rmtree(_working(folder), ignore_errors=True)
        raise
    facts = {"format": prepared.FORMAT, "hash": identity, "name": name, "source": source, "understood": notes}
    _write(log, folder, split, facts | {"counts": log.facts.as_dict()}, note)
    say(f"{folder}: written.")
    return folder


def check(
    data: Any, *, segment: int, recent: int, length: int | None = None, frame: Any = None, say: Say = logger.info
) -> Facts:
    """What a log is like, without writing anything; with the share of users who have closed segments under S and R."""
    log = load(data_section(data), frame=frame, say=say)
    return log.facts.with_segments(np.diff(log.offsets), segment=segment, recent=recent, length=length)


def data_section(data: Any) -> dict[str, Any]:
    """The data section as a plain dict, with its defaults."""
    given = data.model_dump(mode="json") if hasattr(data, "model_dump") else data
    if not isinstance(given, Mapping):
        raise UserError(f"data: got {type(data).__name__}, expected the data section of a recipe or a mapping.")
    unknown = [key for key in given if key not in SECTION]
    if unknown:
        raise UserError(f"data: unknown key {', '.join(map(str, unknown))}; known are {', '.join(SECTION)}.")
    return SECTION | {key: value for key, value in given.items() if value is not None}


def hash_of(source: Mapping[str, Any]) -> str:
    """SHA-256 over the source's contents, the data section (without the path) and the format version."""
    contents = {"format": prepared.FORMAT, **{key: value for key, value in source.items() if key != "path"}}
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()


def _origin(section: Mapping[str, Any], frame: Any) -> dict[str, Any]:
    """Where a log comes from: section, path, and name and SHA-256 of each file."""
    settings = {key: value for key, value in section.items() if key != "path" and LATER.get(key, ...) != value}
    for made in MADE:
        if section["source"] != made:
            settings.pop(made)
    if frame is not None:
        keep = [name for name in section["keep"] if name != EVENT]
        digest = datasets.frame_digest(frame, section["columns"], events=bool(section["events"]), keep=keep)
        return {
            "section": settings,
            "path": None,
            "files": [{"name": "frame", "sha256": digest}],
        }
    files = datasets.files(section["source"], section["path"])
    return {
        "section": settings,
        "path": section["path"] and str(section["path"]),
        "files": [{"name": file.name, "sha256": prepared.digest(file)} for file in files],
    }


def _facts(folder: Path) -> dict[str, Any] | None:
    """What a folder says of itself, if it is there and complete."""
    try:
        facts = prepared.read_facts(folder)
        prepared.check_files(folder, facts, verify=True)
    except UserError:
        return None
    return facts


def _add_split(folder: Path, split: Split, facts: dict[str, Any], say: Say) -> None:
    """A split beside what is there; the folder has it only when its files are whole."""
    lists = prepared.read_batch(folder / prepared.SEQUENCES)
    columns = {name: lists.column(name).values.to_numpy() for name in ("items", "times") if name in lists.schema.names}
    offsets = lists.column("items").offsets.to_numpy()
    with _writing(folder, facts["counts"]["events"]):
        working = folder / f".split-{os.getpid()}"
        try:
            working.mkdir()
            found = _write_split(offsets, columns, working, split, say)
            facts = facts | {"files": facts["files"] | _files(working), "cold": facts.get("cold", {}) | found}
            for path in working.iterdir():
                path.replace(folder / path.name)
            text = working / prepared.FACTS
            text.write_text(_json(facts), encoding="utf-8")
            text.replace(folder / prepared.FACTS)
        finally:
            shutil.rmtree(working, ignore_errors=True)


def _working(folder: Path) -> Path:
    """Where this process makes a folder."""
    return folder.with_name(f".{folder.name}-{platform.node()}-{os.getpid()}")


def _tidy(folder: Path) -> None:
    """Remove what processes that were killed on this machine have left of a folder."""
    for left in folder.parent.glob(f".{folder.name}-{platform.node()}-*"):
        process = left.name.rpartition("-")[2]
        if process.isdigit() and not _alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _write(log: Log, folder: Path, split: Split, facts: dict[str, Any], say: Say) -> None:
    """Write under a temporary name, then rename; on any failure nothing stays."""
    working = _working(folder)
    with _writing(folder, log.facts.events):
        try:
            working.mkdir(parents=True, exist_ok=True)
            _write_log(log, working)
            found = _write_split(log.offsets, log.columns, working, split, say)
            facts = facts | {"files": _files(working), "cold": found}
            (working / prepared.FACTS).write_text(_json(facts), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            working.rename(folder)
        finally:
            shutil.rmtree(working, ignore_errors=True)


@contextmanager
def _writing(folder: Path, events: int) -> Iterator[None]:
    """Tell a person what a failure to write means."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}. Prepared data needs about "
            f"{events * 12 / 1e6:,.0f} MB here; free space or choose another folder. Nothing was left behind."
        ) from error


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": prepared.digest(path)} for path in sorted(folder.iterdir())
    }


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n"


def _write_log(log: Log, folder: Path) -> None:
    offsets = pa.array(log.offsets)
    lists = {name: pa.LargeListArray.from_arrays(offsets, pa.array(values)) for name, values in log.columns.items()}
    _write_record(pa.record_batch(lists), folder / prepared.SEQUENCES)
    write_batch(log.users, folder / prepared.USERS)
    write_batch(log.items, folder / prepared.ITEMS)


def before_test(log: Log, split: Split) -> Ints:
    """(U,) events of each user before the first that the test of a split asks for; all where it asks for none.

    Raises:
        UserError: the split asks for times and the log has none.
    """
    found = np.diff(log.offsets)
    for _, (_, _, test) in _cuts(log.offsets, log.columns, split):
        first = test.group_by("user").agg(pl.col(END).min())
        found[first["user"].to_numpy()] = first[END].to_numpy()
    return found


def _write_split(offsets: Ints, columns: Columns, folder: Path, split: Split, say: Say) -> dict[str, Any]:
    """Write the files of a split; what it asks of users and items that training never saw, by its name."""
    frames: tuple[list[pl.DataFrame], ...] = [], [], []

    def cut() -> Iterator[Part]:
        for events, found in _cuts(offsets, columns, split):
            for several, frame in zip(frames, found, strict=True):
                several.append(frame)
            bounds, _, test = found
            yield Part(events, bounds, test)

    found = cold(cut(), items=int(columns["items"].max()))
    for several, name in zip(frames, prepared.split_files(split.name), strict=True):
        write_batch(pl.concat(several), folder / name)
    say(f"split {split.name}: {found}.")
    return {split.name: found.as_dict()}


def _cuts(offsets: Ints, columns: Columns, split: Split) -> Iterator[tuple[pl.DataFrame, list[pl.DataFrame]]]:
    """The log in frames of users who come after each other, with the bounds, validation and test of each."""
    settings = split.model_dump(exclude_none=True)
    if split.kind == "global-time" and "times" in columns:
        settings = with_moments(settings, columns["times"])
    for events in histories(offsets, columns):
        yield events, pl.collect_all(list(split_of(events.lazy(), settings)))


def write_batch(frame: pl.DataFrame, path: Path) -> None:
    """A frame as an uncompressed Arrow file with one record batch."""
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    _write_record(table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema), path)


def _write_record(batch: pa.RecordBatch, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
