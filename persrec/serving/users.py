"""The users of a store as records of a run: which store is the run's, whose key is whose, what is written together."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import EVENT, USER
from persrec.models.model import Model
from persrec.recipe.recipe import Recipe
from persrec.serving.disk import StoreError
from persrec.serving.entries import ADDED, cursor_key, key_of, user_of
from persrec.serving.histories import examples, plain_id
from persrec.serving.packing import PARTS, Layout, Record, pack, sizes, unpack
from persrec.serving.states import Keeping, keeping_of
from persrec.serving.store import Store

LIMITS: Final = {"Int64": 1 << 63, "UInt64": 1 << 64}  # of the whole numbers that ids may be
CHUNK: Final = 4096  # users who are in memory at a time

Ids = int | str


def about(model: Model, recipe: Recipe, item_ids: pl.Series, keeping: Keeping) -> dict[str, Any]:
    """What the records of a run's store depend on; a store that differs in any of it is another run's."""
    types = recipe.data.events or ()
    return {
        "maker": model.maker(),
        "catalogue": _digest(item_ids.head(model.items.fitted)),  # those that were added since: see `Added`
        "history": recipe.history,
        "kind": recipe.memory.kind,
        "encoding": recipe.memory.encoding,
        "segment": recipe.memory.segment,
        "recent": recipe.memory.recent,
        "time": recipe.time,
        "length": recipe.length,
        "inputs": [[name, *map(str, types if name == EVENT else ())] for name in recipe.model.inputs],
        "repeat": recipe.repeat,
        "exclude_seen": recipe.evaluation.exclude_seen,
        "raw": keeping.raw,
        "seen_rate": keeping.layout.rate or None,
        "layout": keeping.layout._asdict(),
    }


class Added:
    """The items that were put into a run after it was fitted, of which records may hold some."""

    def __init__(self, store: Store, ids: pl.Series) -> None:
        self.store, self.ids = store, ids
        self._own = {"items": len(ids), "digest": _digest(ids)}
        self._known: dict[str, Any] = {}  # what the store had when it was looked at last

    def check(self) -> None:
        """Raise UserError where the store may hold items that are not in this list, or are others at their places."""
        got = self.store.added()
        if got == self._known:
            return
        count = int(got.get("items", 0))  # none in a copy from before that was put back
        if count > len(self.ids) or (count and got["digest"] != _digest(self.ids.head(count))):
            others = "" if count > len(self.ids) else ", and others at the same places"
            raise StoreError(
                f"store {self.store.path}: was written by a run into which `items add` had put {count:,} items, and "
                f"this one has {len(self.ids):,} such items{others}; give that run, or load it again where it is "
                "loaded already (start a service anew)"
            )
        self._known = got

    def entry(self) -> dict[bytes, bytes]:
        """What is written together with records; nothing where no item was put in."""
        return {ADDED: json.dumps(self._own).encode()} if len(self.ids) else {}


class Users:
    """The records of an open store."""

    def __init__(self, store: Store, model: Model, recipe: Recipe, item_ids: pl.Series) -> None:
        """Raises UserError for the store of another run."""
        self.store, self.model, self.recipe, self.item_ids = store, model, recipe, item_ids
        got = store.about()
        self.keeping = keeping_of(model, recipe, raw=bool(got.get("raw")), seen_rate=got.get("seen_rate"))
        expected = about(model, recipe, item_ids, self.keeping)
        differing = [name for name, value in expected.items() if got.get(name) != value]
        if differing:
            shown = ", ".join(f"{name}: got {got.get(name)!r}, expected {expected[name]!r}" for name in differing)
            raise StoreError(
                f"store {store.path}: was made by another model or for another catalogue ({shown}); give the run that "
                "it was made with, or make a store for this one: `persrec compress RUN --store ANOTHER`"
            )
        self.dtype: pl.DataType = getattr(pl, got["users"])()
        self.added = Added(store, item_ids.slice(model.items.fitted))
        self.added.check()

    def ids(self, users: Iterable[Any]) -> list[Ids]:
        """Ids as the store has them: where the log's are whole numbers, "7" is 7, and other text is text."""
        named = [plain_id(user) for user in users]
        limit = LIMITS.get(str(self.dtype), 0)
        return [
            int(name) if name.isdecimal() and name == str(int(name)) and int(name) < limit else name for name in named
        ]

    def find(self, users: Sequence[Ids]) -> list[Record | None]:
        """The records of users, None where there is none; raises UserError for a damaged one."""
        found = self._get(users)
        return [None if data is None else self.record(user, data) for user, data in zip(users, found, strict=True)]

    def record(self, user: Ids, data: bytes) -> Record:
        """The record of a user that has been read; raises UserError for a damaged one."""
        return _unpacked(self.store, user, data, self.keeping.layout)

    def readable(self, users: Sequence[Ids]) -> list[Record | None]:
        """The records of users, None where there is none or it is damaged."""
        found: list[Record | None] = []
        for user, data in zip(users, self._get(users), strict=True):
            try:
                found.append(None if data is None else self.record(user, data))
            except StoreError:
                found.append(None)
        return found

    def known(self, users: Sequence[Ids]) -> list[Record]:
        """The records of users; raises UserError for those who have none."""
        found = self.find(users)
        missing = [user for user, record in zip(users, found, strict=True) if record is None]
        if missing:
            raise UserError(
                f"store {self.store.path}: {len(missing)} of {len(users)} users are not in it: {examples(missing)}; "
                "`update` with their events first, or give their histories"
            )
        return [record for record in found if record is not None]

    def all(self) -> list[Ids]:
        """Everybody, in the order of their keys."""
        return [user_of(key) for key in self.store.every()]

    def series(self, users: Sequence[Ids]) -> pl.Series:
        """Ids as a column, of text where some of them are no numbers."""
        if all(isinstance(user, int) for user in users):
            return pl.Series(USER, users, dtype=self.dtype)
        return pl.Series(USER, [str(user) for user in users], dtype=pl.String)

    def write(self, records: Mapping[Ids, Record | None], cursors: Mapping[str, Any] | None = None) -> None:
        """Records (None: remove) and how far sources have been read, in one transaction."""
        layout = self.keeping.layout
        packed = {key_of(user): None if one is None else pack(one, layout) for user, one in records.items()}
        also = {cursor_key(source): json.dumps(value).encode() for source, value in (cursors or {}).items()}
        self.store.write(packed, {**also, **self.added.entry()})

    def _get(self, users: Sequence[Ids]) -> list[bytes | None]:
        found = self.store.get([key_of(user) for user in users])
        self.added.check()  # after the records, which another process may have updated meanwhile
        return found


def stats(store: Store) -> dict[str, Any]:
    """Users, events, and bytes of their keys and records by part, beside the size of the file."""
    layout = Layout(**store.about()["layout"])
    found = dict.fromkeys((*PARTS, "keys"), 0)
    users = events = opened = 0
    for key, data in store.records():
        record = _unpacked(store, user_of(key), data, layout)
        for part, count in sizes(record, layout).items():
            found[part] += count
        found["keys"] += len(key)
        users, events, opened = users + 1, events + record.events, opened + len(record.items)
    return {
        "users": users,
        "events": events,
        "open_events": opened,
        **{f"{part}_bytes": count for part, count in found.items()},
        "payload_bytes": sum(found.values()),
        "file_bytes": store.file_bytes(),
    }


def _digest(ids: pl.Series) -> str:
    return hashlib.sha256("\0".join(ids.cast(pl.String)).encode()).hexdigest()[:16]


def _unpacked(store: Store, user: Ids, data: bytes, layout: Layout) -> Record:
    try:
        return unpack(data, layout)
    except (ValueError, StopIteration, IndexError) as error:
        raise StoreError(
            f"store {store.path}: the record of user {user!r} is damaged ({error}); restore a copy of "
            "the store, or make it anew by Recommender.rebuild, without the updates since the log"
        ) from error


def opened(path: Path, model: Model, recipe: Recipe, item_ids: pl.Series, *, write: bool) -> Users:
    """The users of a store that is there."""
    store = Store.open(path, write=write)
    try:
        return Users(store, model, recipe, item_ids)
    except BaseException:
        store.close()
        raise


def parts(users: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As many at a time as are in memory together."""
    for start in range(0, len(users), CHUNK):
        yield users[start : start + CHUNK]
