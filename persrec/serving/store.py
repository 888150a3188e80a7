"""A store: one record per user in LMDB, what they depend on, and how far each source has been read.

A transaction holds records together with the cursor of their source, and is on the disk when it ends; a process that
is killed leaves the last one that ended. Many processes may read beside the one that writes.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import lmdb

from persrec.errors import UserError
from persrec.serving import disk, entries
from persrec.serving.disk import CURRENT, DATA, LOCKS, StoreError
from persrec.serving.entries import ABOUT, ADDED, CURSOR, USERS
from persrec.serving.pages import damaged

T = TypeVar("T")

FORMAT: Final = 4
READERS: Final = 512
FIRST_MAP: Final = 1 << 24  # bytes of the map, doubled when it is full
COPIED: Final = 10_000  # entries of a transaction that copies


class Store:
    """The folder of a store, open to be read, or to be written by this process alone."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path, self._lock = path, lock
        self._one = threading.RLock()  # held while the folder of the records may be changed for another
        self._folder, self._env = _opened(path, write=self.writable)

    @staticmethod
    def there(path: str | Path) -> bool:
        """Whether there is a store, of whatever format."""
        return (Path(path) / CURRENT).is_file() or (Path(path) / DATA).is_file()

    @classmethod
    def create(cls, path: str | Path, about: Mapping[str, Any]) -> Self:
        """A new store, open to be written; raises UserError where there is one, or none can be."""
        path = Path(path)
        with disk.told(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = disk.locked(path)
        try:
            if cls.there(path):
                raise UserError(f"store {path}: is there already; choose another folder or delete it")
            with disk.told(path):
                disk.tidy(path)
                folder = disk.fresh(path)
                with lmdb.open(str(folder), map_size=FIRST_MAP) as env, env.begin(write=True) as txn:
                    txn.put(ABOUT, json.dumps({"format": FORMAT, **about}).encode())
                disk.promote(path, folder)
                store = cls(path, lock)
        except BaseException:
            disk.release(lock)
            raise
        return store

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> Self:
        """A store that is there; raises UserError where it is none, damaged, of another format, or being written."""
        path = Path(path)
        if not cls.there(path):
            raise StoreError(f"store {path}: there is none; make it with `persrec compress RUN --store {path}`")
        if not (path / CURRENT).is_file():
            raise _of_another_format(path, 1)  # which had the file of the records where now their folder is named
        lock = disk.locked(path) if write else None
        try:
            with disk.told(path):
                if write:
                    disk.tidy(path)
                store = cls(path, lock)
        except BaseException:
            disk.release(lock)
            raise
        try:
            store._check()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def writable(self) -> bool:
        return self._lock is not None

    def about(self) -> dict[str, Any]:
        """What its records depend on."""
        return self._json(ABOUT) or {}

    def added(self) -> dict[str, Any]:
        """Which items its records may hold beside those that the model was fitted on."""
        return self._json(ADDED) or {}

    def cursor(self, source: str) -> dict[str, Any] | None:
        """How far a source has been read; None where it never was."""
        return self._json(entries.cursor_key(source))

    def cursors(self) -> dict[str, dict[str, Any]]:
        """How far each source has been read."""
        return self._reading(_cursors)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of users, None where there is none; all of one moment."""
        return self._reading(lambda txn: [entries.found(txn, key) for key in keys])

    def every(self) -> list[bytes]:
        """The keys of all users."""
        return self._reading(lambda txn: list(entries.users(txn)))

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and records of all users, of one moment."""
        with self.moment() as (_, records):
            yield from records

    @contextmanager
    def moment(self) -> Iterator[tuple[dict[str, dict[str, Any]], Iterator[tuple[bytes, bytes]]]]:
        """How far each source has been read, and the keys and records of all users, as they are now."""
        with disk.told(self.path), self._begin() as txn:
            yield _cursors(txn), ((key, entries.found(txn, key) or b"") for key in entries.users(txn))

    def write(self, records: Mapping[bytes, bytes | None], also: Mapping[bytes, bytes] | None = None) -> None:
        """Put records (None: remove) and what else belongs to them in one transaction, and wait for the disk.

        Raises UserError where that fails; then nothing of it is there, and all that was before is.
        """
        assert self.writable
        changes = sorted({**records, **(also or {})}.items())
        with self._one, disk.told(self.path):
            self._follow()
            while not self._written(changes):
                self._env.set_mapsize(2 * int(self._env.info()["map_size"]))

    def _written(self, changes: list[tuple[bytes, bytes | None]]) -> bool:
        """Whether they fitted into the map."""
        try:
            with self._env.begin(write=True) as txn:
                for key, value in changes:
                    if key < USERS and value is not None:
                        txn.put(key, value)
                    else:
                        entries.put(txn, key, value)
        except lmdb.MapFullError:
            return False
        return True

    def file_bytes(self) -> int:
        """Size of the file of the records."""
        return self._reading(lambda txn: (self._folder / DATA).stat().st_size)

    def compact(self) -> None:
        """Write the records anew without the pages that are free, and let those count; readers go over to them."""
        assert self.writable
        with self._one, disk.told(self.path):
            folder = disk.fresh(self.path)
            try:
                self._copy(folder)
                disk.promote(self.path, folder)
            finally:
                disk.tidy(self.path)
            self._follow()

    def _copy(self, folder: Path) -> None:
        """All entries in the order of their keys, which fills every page."""
        size = 2 * max(FIRST_MAP, self.file_bytes())
        with lmdb.open(str(folder), map_size=size) as env, self._begin() as txn:
            every = iter(txn.cursor().iternext())
            while some := list(islice(every, COPIED)):
                with env.begin(write=True) as into:
                    for key, value in some:
                        into.put(key, value, append=True)
        disk.permit(self._folder, folder)

    def close(self) -> None:
        """Let go of the file, and of the right to write."""
        self._env.close()
        disk.release(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _json(self, key: bytes) -> dict[str, Any] | None:
        found = self._reading(lambda txn: entries.as_bytes(txn.get(key)))
        return None if found is None else dict(json.loads(found))

    def _reading(self, what: Callable[[lmdb.Transaction], T]) -> T:
        """Again where another process has compacted meanwhile, and removed what was looked at."""
        with self._one, disk.told(self.path):
            while True:
                try:
                    with self._begin() as txn:
                        return what(txn)
                except (lmdb.Error, OSError):
                    if not self._follow():
                        raise

    def _begin(self) -> lmdb.Transaction:
        """A look at what is committed now, also where another process has grown the map or compacted."""
        with self._one:
            self._follow()
            try:
                return self._env.begin()
            except lmdb.MapResizedError:  # the one that writes has made it larger
                self._env.set_mapsize(0)
                return self._env.begin()

    def _follow(self) -> bool:
        """Go over to the records that count, and say whether they are others than before."""
        if disk.current(self.path) == self._folder:
            return False
        self._env.close()
        self._folder, self._env = _opened(self.path, write=self.writable)
        return True

    def _check(self) -> None:
        """Whether all pages that are in use are in the file and sound, and the format is this one."""
        self._reading(self._check_pages)
        try:
            about = self.about()
        except ValueError:
            about = {}
        if about.get("format") != FORMAT:
            raise _of_another_format(self.path, about.get("format"))

    def _check_pages(self, txn: lmdb.Transaction) -> None:
        file, got = self._folder / DATA, (self._folder / DATA).stat().st_size
        pages, size = int(self._env.info()["last_pgno"]) + 1, int(self._env.stat()["psize"])
        if got < pages * size:
            raise StoreError(
                f"store {self.path}: {DATA} is cut off: {got:,} bytes, expected at least {pages * size:,}; restore a "
                "copy, or delete the folder and compress again"
            )
        page = damaged(file, txn.id(), size)
        if page is not None:
            raise StoreError(
                f"store {self.path}: {DATA} is damaged (page {page}); restore a copy, or delete the folder and "
                "compress again"
            )


def _cursors(txn: lmdb.Transaction) -> dict[str, dict[str, Any]]:
    found = [(bytes(key), bytes(value)) for key, value in entries.own(txn)]
    return {key.removeprefix(CURSOR).decode(): json.loads(value) for key, value in found if key.startswith(CURSOR)}


def _of_another_format(path: Path, got: int | None) -> StoreError:
    return StoreError(
        f"store {path}: got store format {got}, expected {FORMAT}; it was written by another version of persrec: use "
        "that one, or delete the folder and compress again"
    )


def _opened(path: Path, *, write: bool) -> tuple[Path, lmdb.Environment]:
    """The folder of the records that count, open; again where another process has compacted meanwhile."""
    while True:
        folder = disk.current(path)
        try:
            return folder, _environment(folder, write=write)
        except (lmdb.Error, OSError):
            if disk.current(path) == folder:
                raise


def _environment(path: Path, *, write: bool) -> lmdb.Environment:
    size = max(FIRST_MAP, (path / DATA).stat().st_size)
    if write:
        env = lmdb.open(str(path), map_size=size, max_readers=READERS)
        env.reader_check()  # those that were killed while they read would keep old pages from being used again
        return env
    try:
        return lmdb.open(str(path), map_size=size, max_readers=READERS, readonly=True, create=False)
    except lmdb.Error as error:
        if disk.number_of(error) not in disk.REFUSED:
            raise
        if disk.written_by_others(path):
            raise StoreError(
                f"store {path.parent}: this account cannot write to {path.name}/{LOCKS}, where readers stand so that "
                "who writes leaves them their pages; let it write to this file (chmod g+w), or read a copy of "
                "the folder"
            ) from error
        return lmdb.open(str(path), map_size=size, readonly=True, create=False, lock=False)
