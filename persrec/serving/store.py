"""A store: one record per user in LMDB, what they depend on, and how far each source has been read.

A transaction holds records together with the cursor of their source, and is on the disk when it ends; a process that
is killed leaves the last one that ended. Many processes may read beside the one that writes.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import lmdb

from persrec.errors import UserError
from persrec.serving import disk, entries
from persrec.serving.disk import DATA
from persrec.serving.entries import ABOUT, CURSOR, USERS
from persrec.serving.pages import damaged

T = TypeVar("T")

FORMAT: Final = 1
READERS: Final = 512
FIRST_MAP: Final = 1 << 24  # bytes of the map, doubled when it is full
COPIED: Final = 10_000  # entries of a transaction that copies


class Store:
    """The folder of a store, open to be read, or to be written by this process alone."""

    def __init__(self, path: Path, env: lmdb.Environment, lock: int | None) -> None:
        self.path, self._env, self._lock = path, env, lock
        self._file = (path / DATA).stat().st_ino
        self._one = threading.RLock()  # held while the file may be changed for another

    @classmethod
    def create(cls, path: str | Path, about: Mapping[str, Any]) -> Self:
        """A new store, open to be written; raises UserError where there is one, or none can be."""
        path = Path(path)
        with disk.told(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = disk.locked(path)
        try:
            if (path / DATA).exists():
                raise UserError(f"store {path}: is there already; choose another folder or delete it")
            with disk.told(path):
                store = cls(path, _environment(path, write=True), lock)
                store.write({}, {ABOUT: json.dumps({"format": FORMAT, **about}).encode()})
        except BaseException:
            disk.release(lock)
            raise
        return store

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> Self:
        """A store that is there; raises UserError where it is none, damaged, of another format, or being written."""
        path = Path(path)
        if not (path / DATA).is_file():
            raise UserError(f"store {path}: there is none; make it with `persrec compress RUN --store {path}`")
        lock = disk.locked(path) if write else None
        try:
            with disk.told(path):
                store = cls(path, _environment(path, write=write), lock)
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

    def cursor(self, source: str) -> dict[str, Any] | None:
        """How far a source has been read; None where it never was."""
        return self._json(entries.cursor_key(source))

    def cursors(self) -> dict[str, dict[str, Any]]:
        """How far each source has been read."""
        found = self._reading(lambda txn: [(bytes(key), bytes(value)) for key, value in entries.own(txn)])
        return {key.removeprefix(CURSOR).decode(): json.loads(value) for key, value in found if key != ABOUT}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of users, None where there is none; all of one moment."""
        return self._reading(lambda txn: [entries.found(txn, key) for key in keys])

    def every(self) -> list[bytes]:
        """The keys of all users."""
        return self._reading(lambda txn: list(entries.users(txn)))

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and records of all users, of one moment."""
        with disk.told(self.path), self._begin() as txn:
            for key in entries.users(txn):
                yield key, entries.found(txn, key) or b""

    def write(self, records: Mapping[bytes, bytes | None], also: Mapping[bytes, bytes] | None = None) -> None:
        """Put records (None: remove) and what else belongs to them in one transaction, and wait for the disk.

        Raises UserError where that fails; then nothing of it is there, and all that was before is.
        """
        assert self.writable
        changes = sorted({**records, **(also or {})}.items())
        with disk.told(self.path):
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
        return (self.path / DATA).stat().st_size

    def compact(self) -> None:
        """Write the file anew without the pages that are free, and put it in the place of the old one."""
        assert self.writable
        fresh = self.path / ".compacting"
        with self._one, disk.told(self.path):
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                self._copy(fresh)
                disk.flush(fresh / DATA)
                (fresh / DATA).replace(self.path / DATA)
                disk.flush(self.path)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            self._reopen()

    def _copy(self, folder: Path) -> None:
        """All entries in the order of their keys, which fills every page."""
        folder.mkdir()
        size = 2 * max(FIRST_MAP, self.file_bytes())
        with lmdb.open(str(folder), map_size=size, lock=False) as env, self._begin() as txn:
            every = iter(txn.cursor().iternext())
            while some := list(islice(every, COPIED)):
                with env.begin(write=True) as into:
                    for key, value in some:
                        into.put(key, value, append=True)

    def _reopen(self) -> None:
        self._env.close()
        self._env = _environment(self.path, write=self.writable)
        self._file = (self.path / DATA).stat().st_ino

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
        with self._one, disk.told(self.path), self._begin() as txn:
            return what(txn)

    def _begin(self) -> lmdb.Transaction:
        """A look at what is committed now, also where another process has grown the map or put a compact file there."""
        if (self.path / DATA).stat().st_ino != self._file:
            self._reopen()
        try:
            return self._env.begin()
        except lmdb.MapResizedError:  # the one that writes has made it larger
            self._env.set_mapsize(0)
            return self._env.begin()

    def _check(self) -> None:
        """Whether all pages that are in use are in the file and sound, and the format is this one."""
        pages, size = int(self._env.info()["last_pgno"]) + 1, int(self._env.stat()["psize"])
        if self.file_bytes() < pages * size:
            raise UserError(
                f"store {self.path}: {DATA} is cut off: {self.file_bytes():,} bytes, expected at least "
                f"{pages * size:,}; restore a copy, or delete the folder and compress again"
            )
        with disk.told(self.path), self._begin() as txn:
            page = damaged(self.path / DATA, txn.id(), size)
        if page is not None:
            raise UserError(
                f"store {self.path}: {DATA} is damaged (page {page}); restore a copy, or delete the folder and "
                "compress again"
            )
        try:
            about = self.about()
        except ValueError:
            about = {}
        if about.get("format") != FORMAT:
            raise UserError(
                f"store {self.path}: got store format {about.get('format')}, expected {FORMAT}; it was written by "
                "another version of persrec: use that one, or delete the folder and compress again"
            )


def _environment(path: Path, *, write: bool) -> lmdb.Environment:
    size = max(FIRST_MAP, _size(path / DATA))
    if write:
        return lmdb.open(str(path), map_size=size, max_readers=READERS)
    try:
        return lmdb.open(str(path), map_size=size, max_readers=READERS, readonly=True, create=False)
    except lmdb.Error as error:
        if disk.number_of(error) not in disk.REFUSED:
            raise
        return lmdb.open(str(path), map_size=size, readonly=True, create=False, lock=False)  # nothing can be written


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
