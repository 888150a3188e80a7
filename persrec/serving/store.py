"""A store: one record per user in LMDB, what they depend on, and how far each source has been read.

A transaction holds records together with the cursor of their source, and is on the disk when it ends; a process that
is killed leaves the last one that ended. Many processes may read beside the one that writes.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import lmdb

from persrec.errors import UserError

T = TypeVar("T")

FORMAT: Final = 1
DATA: Final = "data.mdb"
WRITER: Final = "writer.lock"
ABOUT: Final = b"\0about"  # the keys of what is no user's begin with a zero
CURSOR: Final = b"\0cursor "
NUMBER: Final = 0x10  # the first byte of a user's key, and how many follow; 0x20 before text
TEXT: Final = b"\x20"
USERS: Final = b"\x01"  # where the users' keys begin
PIECES: Final = 0x40  # the first byte of the keys of further pieces of a record, and which one it is
PIECE: Final = (
    1320  # bytes of a record in one place: three fill a page of LMDB; a longer one would waste up to half of it
)
MOST: Final = 8  # pieces of a record; one that is longer still has pages of its own, of which it wastes little
LONGEST: Final = 500  # bytes of a textual id
READERS: Final = 512
FIRST_MAP: Final = 1 << 24  # bytes of the map, doubled when it is full
COPIED: Final = 10_000  # entries of a transaction that copies
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # EIO: LMDB, when a write stops half-way
REFUSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def key_of(user: int | str) -> bytes:
    """The key of a user: 7 -> 11 07, "7" -> 20 37; raises UserError for ids that are too long or negative."""
    if isinstance(user, int):
        if not 0 <= user < 1 << 64:
            raise UserError(f"user {user}: expected a whole number from 0 to {(1 << 64) - 1}, or text")
        size = max(1, (user.bit_length() + 7) // 8)
        return bytes([NUMBER + size]) + user.to_bytes(size, "big")
    coded = user.encode()
    if len(coded) > LONGEST:
        raise UserError(f"user {user[:40]!r}...: the id has {len(coded)} bytes, expected at most {LONGEST}")
    return TEXT + coded


def user_of(key: bytes) -> int | str:
    """The user whose key it is."""
    return key[1:].decode() if key[:1] == TEXT else int.from_bytes(key[1:], "big")


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
        if (path / DATA).exists():
            raise UserError(f"store {path}: is there already; choose another folder or delete it")
        with _told(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
        with _told(path):
            store = cls(path, _environment(path, write=True), lock)
            store.write({}, {ABOUT: json.dumps({"format": FORMAT, **about}).encode()})
        return store

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> Self:
        """A store that is there; raises UserError where it is none, damaged, of another format, or being written."""
        path = Path(path)
        if not (path / DATA).is_file():
            raise UserError(f"store {path}: there is none; make it with `persrec compress RUN --store {path}`")
        lock = _locked(path) if write else None
        try:
            with _told(path):
                store = cls(path, _environment(path, write=write), lock)
        except BaseException:
            _release(lock)
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
        return self._json(cursor_key(source))

    def cursors(self) -> dict[str, dict[str, Any]]:
        """How far each source has been read."""
        entries = self._reading(lambda txn: [(bytes(key), bytes(value)) for key, value in _own(txn)])
        return {key.removeprefix(CURSOR).decode(): json.loads(value) for key, value in entries if key != ABOUT}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of users, None where there is none; all of one moment."""
        return self._reading(lambda txn: [_found(txn, key) for key in keys])

    def every(self) -> list[bytes]:
        """The keys of all users."""
        return self._reading(lambda txn: list(_users(txn)))

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and records of all users, of one moment."""
        with _told(self.path), self._begin() as txn:
            for key in _users(txn):
                yield key, _found(txn, key) or b""

    def write(self, records: Mapping[bytes, bytes | None], also: Mapping[bytes, bytes] | None = None) -> None:
        """Put records (None: remove) and what else belongs to them in one transaction, and wait for the disk.

        Raises UserError where that fails; then nothing of it is there, and all that was before is.
        """
        assert self.writable
        entries = sorted({**records, **(also or {})}.items())
        with _told(self.path):
            while not self._written(entries):
                self._env.set_mapsize(2 * int(self._env.info()["map_size"]))

    def _written(self, entries: list[tuple[bytes, bytes | None]]) -> bool:
        """Whether they fitted into the map."""
        try:
            with self._env.begin(write=True) as txn:
                for key, value in entries:
                    if key < USERS and value is not None:
                        txn.put(key, value)
                    else:
                        _put(txn, key, value)
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
        with self._one, _told(self.path):
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                self._copy(fresh)
                _flush(fresh / DATA)
                (fresh / DATA).replace(self.path / DATA)
                _flush(self.path)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            self._reopen()

    def _copy(self, folder: Path) -> None:
        """All entries in the order of their keys, which fills every page."""
        folder.mkdir()
        size = 2 * max(FIRST_MAP, self.file_bytes())
        with lmdb.open(str(folder), map_size=size, lock=False) as env, self._begin() as txn:
            entries = iter(txn.cursor().iternext())
            while some := list(islice(entries, COPIED)):
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
        _release(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _json(self, key: bytes) -> dict[str, Any] | None:
        found = self._reading(lambda txn: _bytes(txn.get(key)))
        return None if found is None else dict(json.loads(found))

    def _reading(self, what: Callable[[lmdb.Transaction], T]) -> T:
        with self._one, _told(self.path), self._begin() as txn:
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
        """Whether all pages that are in use are in the file, and the format is this one."""
        pages, size = int(self._env.info()["last_pgno"]) + 1, int(self._env.stat()["psize"])
        if self.file_bytes() < pages * size:
            raise UserError(
                f"store {self.path}: {DATA} is cut off: {self.file_bytes():,} bytes, expected at least "
                f"{pages * size:,}; restore a copy, or delete the folder and compress again"
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


def cursor_key(source: str) -> bytes:
    """The key under which it stands how far a source has been read."""
    return CURSOR + source.encode()


def _bytes(value: bytes | memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)


def _own(txn: lmdb.Transaction) -> Iterator[tuple[bytes | memoryview, bytes | memoryview]]:
    """The entries that are no user's."""
    return takewhile(lambda entry: bytes(entry[0]) < USERS, txn.cursor().iternext())


def _found(txn: lmdb.Transaction, key: bytes) -> bytes | None:
    """A record, put together."""
    first = _bytes(txn.get(key))
    if not first or first[0] <= 1:
        return first and first[1:]
    rest = [_bytes(txn.get(_piece(key, index))) or b"" for index in range(1, first[0])]
    return b"".join([first[1:], *rest])


def _put(txn: lmdb.Transaction, key: bytes, value: bytes | None) -> None:
    """A record in pieces, before the first of which stands how many there are; None removes it."""
    old = txn.get(key)
    if value is None:
        txn.delete(key)
        needed = 0
    else:
        needed = max(1, -(-len(value) // PIECE))
        needed = needed if needed <= MOST else 1
        length = -(-len(value) // needed)
        txn.put(key, bytes([needed]) + value[:length])
        for index in range(1, needed):
            txn.put(_piece(key, index), value[index * length : (index + 1) * length])
    for index in range(max(needed, 1), bytes(old)[0] if old else 0):
        txn.delete(_piece(key, index))


def _piece(key: bytes, index: int) -> bytes:
    return bytes([PIECES, index]) + key


def _users(txn: lmdb.Transaction) -> Iterator[bytes]:
    """The keys of users in their order."""
    cursor = txn.cursor()
    if cursor.set_range(USERS):  # else an iteration would begin at the first key of all
        for key in cursor.iternext(values=False):
            if key[:1] == bytes([PIECES]):
                return
            yield bytes(key)


def _environment(path: Path, *, write: bool) -> lmdb.Environment:
    size = max(FIRST_MAP, _size(path / DATA))
    if write:
        return lmdb.open(str(path), map_size=size, max_readers=READERS)
    try:
        return lmdb.open(str(path), map_size=size, max_readers=READERS, readonly=True, create=False)
    except lmdb.Error as error:
        if _errno(error) not in REFUSED:
            raise
        return lmdb.open(str(path), map_size=size, readonly=True, create=False, lock=False)  # nothing can be written


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _locked(path: Path) -> int:
    """The right to write, until the file of this number is closed; raises UserError where another process has it."""
    with _told(path):
        lock = os.open(path / WRITER, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(lock, 20).decode() or "unknown"
            os.close(lock)
            raise UserError(
                f"store {path}: is being written by process {other}; wait until that is done, one at a time can write"
            ) from None
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    return lock


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _errno(error: Exception) -> int | None:
    """The number of the system's error behind one of LMDB, which gives only its text."""
    known = (*FULL, *REFUSED)
    return next((number for number in known if os.strerror(number) in str(error)), getattr(error, "errno", None))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell a person what a failure of LMDB or of the disk means."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise UserError(f"store {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    number = _errno(error)
    if number in FULL:
        text = os.strerror(number or 0)
        return f"the disk is full or fails ({text}); nothing that was committed is lost: make room and repeat"
    if number in REFUSED:
        return f"cannot be written ({os.strerror(number or 0)}); it can still be read: change its permissions to write"
    if "already open in this process" in str(error):
        return "is open in this process already; close the Recommender or Store that has it"
    if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.VersionMismatchError | lmdb.PageNotFoundError):
        return f"{DATA} is damaged or no store ({error}); restore a copy, or delete the folder and compress again"
    return f"cannot be used ({error})"
