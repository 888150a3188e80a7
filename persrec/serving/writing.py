"""What changes a store: made of a log, updated with new events, rebuilt for some users, freed of an event."""

import hashlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec import datasets
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, TIME, USER, NoEvents
from persrec.models.model import Model
from persrec.prepared import digest
from persrec.recipe.recipe import Recipe
from persrec.serving import histories as logs
from persrec.serving.disk import StoreError
from persrec.serving.histories import Histories, Say
from persrec.serving.packing import Record
from persrec.serving.states import fold, keeping_of
from persrec.serving.store import Store
from persrec.serving.updates import Update, fresh, take
from persrec.serving.users import CHUNK, LIMITS, Ids, Users, about

Ints = npt.NDArray[np.int64]
Done = Callable[[int, int], None] | None  # is told how much of how much is done

ROWS: Final = 20_000  # events of an update that are committed together
EVENTS: Final = 1 << 18  # events of a log that are in memory at a time, or those of one user
LOG: Final = "log"  # the cursor of the log that a store was made of


def make(
    path: Path,
    model: Model,
    recipe: Recipe,
    item_ids: pl.Series,
    user_type: pl.DataType,
    *,
    raw: bool,
    seen_rate: float | None,
    adopted: bool = False,
) -> Users:
    """An empty store for the users of a run; one that is `adopted` is complete when it has the cursors of the old."""
    numbers = user_type if str(user_type) in LIMITS else pl.Int64() if user_type.is_integer() else pl.String()
    keeping = keeping_of(model, recipe, raw=raw, seen_rate=seen_rate)
    more = {"users": str(numbers), "adopted": adopted}
    store = Store.create(path, {**about(model, recipe, item_ids, keeping), **more})
    return Users(store, model, recipe, item_ids)


def compress(users: Users, log: Histories, source: str, done: Done = None) -> Update:
    """Put the histories of a log into a store that is made of it; `source` says which log it is."""
    _check_adopted(users.store)
    cursor = users.store.cursor(LOG) or {"source": source, "users": 0, "of": len(log.ids)}
    if cursor["source"] != source:
        raise UserError(
            f"store {users.store.path}: was made of another log; choose another folder, or `update` it with new events"
        )
    found = Update(already=int(log.offsets[cursor["users"]]))
    at = int(cursor["users"])
    while at < len(log.ids):
        end = _reach(log.offsets, at)
        part = log.take(np.arange(at, end))
        records = [fresh(part.of(row), users.keeping.layout) for row in range(end - at)]
        found.applied += sum(record.events for record in records)
        found.folded += fold(users.model, users.keeping, records)
        found.new_users += len(records)
        entry = {"source": source, "users": end, "of": len(log.ids)}
        users.write(dict(zip(users.ids(part.ids), records, strict=True)), {LOG: entry})
        at = end
        if done is not None:
            done(at, len(log.ids))
    return found


def _reach(offsets: Ints, start: int) -> int:
    """The end of the users who are in memory together."""
    within = int(np.searchsorted(offsets, offsets[start] + EVENTS, side="right")) - 1
    return min(max(within, start + 1), start + CHUNK, len(offsets) - 1)


def update(users: Users, events: Any, *, rows: int, say: Say, done: Done = None) -> Update:
    """Put new events into the records; see `Recommender.update`."""
    if rows < 1:
        raise UserError(f"rows: got {rows}, expected 1 or more events that are committed together")
    check_complete(users.store)
    found = Update()
    try:
        opened = logs.opened(events, users.recipe, "update", say)
        found.filtered = opened.select(pl.len()).collect().item()
        sifted = logs.sifted(opened, users.recipe, say)
    except NoEvents as none:
        say(f"update: nothing to do: {none}")
        return found
    frame = logs.distinct(sifted, users.recipe)
    found.filtered -= sifted.height
    found.duplicates += sifted.height - frame.height
    source = f"file {_digest(Path(events))}" if isinstance(events, str | Path) else None
    if TIME in frame.columns:
        frame = frame.sort(TIME, maintain_order=True)
    frame = logs.numbered(frame, users.item_ids, say)
    if frame[ITEM].has_nulls() and users.recipe.items.use != "id":
        say("update: `items add` puts such items in; give these events again then, in a file of their own")
    cursor = None if source is None else users.store.cursor(source)
    if cursor is not None and cursor["rows_at_a_time"] != rows and cursor["rows"] < cursor["of"]:
        rows = cursor["rows_at_a_time"]  # the parts of an interrupted update are those that it began with
    start = 0 if cursor is None else int(cursor["rows"])
    found.already = start
    for at, end in pairwise([start, *_ends(frame, start, rows)]):
        part = frame.slice(at, end - at)
        entry = {"rows": end, "of": frame.height, "rows_at_a_time": rows}
        found += _applied(users, part, {} if source is None else {source: entry})
        if done is not None:
            done(end, frame.height)
    return found


def _ends(events: pl.DataFrame, start: int, rows: int) -> list[int]:
    """Where parts of so many events end after `start`, a little later where that would cut a user's of one moment."""
    bounds = list(range(rows, events.height, rows))
    if bounds and TIME in events.columns:
        moment = events.select(pl.struct(USER, TIME).rle_id()).to_series().to_numpy()
        bounds = np.searchsorted(moment, moment[np.array(bounds) - 1], side="right").tolist()
    return sorted(end for end in {*bounds, events.height} if end > start)


def _applied(users: Users, events: pl.DataFrame, cursors: Mapping[str, Any]) -> Update:
    """Some events, committed together."""
    known = events.filter(pl.col(ITEM).is_not_null())
    found = Update(unknown_items=events.height - known.height)
    layout, once = users.keeping.layout, users.recipe.data.deduplicate
    inputs = users.recipe.model.inputs
    part = logs.grouped(known.sort(USER, maintain_order=True), inputs) if known.height else None
    names = users.ids(part.ids) if part is not None else []
    changed: dict[Ids, Record] = {}
    for row, (name, there) in enumerate(zip(names, users.find(names), strict=True)):
        assert part is not None
        new = part.of(row)
        record = there or fresh(new.where(np.zeros(len(new.items), dtype=bool)), layout)
        entered = take(record, new, once=once)
        found += entered
        if entered.applied:
            changed[name] = record
            found.new_users += there is None
    found.folded += fold(users.model, users.keeping, list(changed.values()))
    users.write(changed, cursors)
    return found


def rebuild(users: Users, log: Histories) -> None:
    """The records of a log's users made anew; raises UserError where they have more events than the log."""
    chunks = [log.take(np.arange(start, min(start + CHUNK, len(log.ids)))) for start in range(0, len(log.ids), CHUNK)]
    for part in chunks:
        names = users.ids(part.ids)
        for name, record, count in zip(names, users.readable(names), np.diff(part.offsets), strict=True):
            if record is not None:
                _check_whole("rebuild", name, record, int(count))
    for part in chunks:
        records = [fresh(part.of(row), users.keeping.layout) for row in range(len(part.ids))]
        fold(users.model, users.keeping, records)
        users.write(dict(zip(users.ids(part.ids), records, strict=True)))


def forget_event(users: Users, user: Ids, item: int, timestamp: int | None, log: Histories) -> None:
    """A user's record made anew of the log, which is of the user alone, without an event."""
    (record,) = users.known([user])
    events = log.of(0)
    items, times, _ = events
    _check_whole("forget_event", user, record, len(items))
    gone = items == item
    if times is not None and timestamp is not None:
        gone &= times == timestamp
    if not gone.any() or (times is not None and timestamp is None):
        raise UserError(
            f"forget_event: the log has no such event of user {user!r}: got timestamp {timestamp}, expected that of an "
            f"event with this item{_moments(items, times, item)}"
        )
    if times is None:
        gone &= np.cumsum(gone) == 1
    left = fresh(events.where(~gone), users.keeping.layout)
    fold(users.model, users.keeping, [left])
    users.write({user: left if left.events else None})


def _check_whole(what: str, user: Ids, record: Record, events: int) -> None:
    """Raise UserError where a log lacks events of a user, which would be lost."""
    if events < record.events:
        raise UserError(
            f"{what}: the log has {events} events of user {user!r}, but the store has taken in {record.events}; give a "
            "log of all of them, or `forget` the user and `rebuild`, which loses the others"
        )


def _moments(items: Ints, times: Ints | None, item: int) -> str:
    """When the user had an item, for a message."""
    found = [] if times is None else times[items == item].tolist()
    return f", as {', '.join(map(str, found[:5]))} ms" if found else ""


def check_complete(store: Store) -> None:
    """Raise UserError for a store that is still to be made."""
    _check_adopted(store)
    cursor = store.cursor(LOG)
    if cursor is None or cursor["users"] < cursor["of"]:
        done = 0 if cursor is None else cursor["users"]
        raise StoreError(
            f"store {store.path}: is not complete ({done:,} users are in it), as `compress` was interrupted: "
            "run `persrec compress` with the same run and store again, it goes on from there"
        )


def _check_adopted(store: Store) -> None:
    if store.about()["adopted"] and store.cursor(LOG) is None:
        raise StoreError(
            f"store {store.path}: is not complete, as `adopt` was interrupted: delete the folder and adopt again"
        )


def source_of(log: Any, columns: Mapping[str, str]) -> str:
    """Which log it is: by the contents of a file, or of a frame with these columns."""
    return _digest(Path(log)) if isinstance(log, str | Path) else datasets.frame_digest(log, columns)


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder; of nothing, where there is none."""
    if path.is_file():
        return digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("\n".join(f"{file.relative_to(path)} {digest(file)}" for file in files).encode()).hexdigest()
