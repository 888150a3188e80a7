"""The folder of a store on a disk: who may write, which records count, and what failures mean.

The records are in a folder of their own, which a small file names: it is replaced at once, so that every process finds
either the records before or those after, each with the locks of its own readers.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lmdb

from persrec.errors import UserError

DATA: Final = "data.mdb"
LOCKS: Final = "lock.mdb"  # in which readers stand, so that their pages are left to them
CURRENT: Final = "current"  # the name of the folder of the records that count
FOLDER: Final = "data-"  # how the names of such folders begin
WRITER: Final = "writer.lock"
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # EIO: LMDB, when a write stops half-way
REFUSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class StoreError(UserError):
    """A fault of a store, which is nobody's who asks it: a full disk, another that writes, what is damaged."""


def locked(path: Path) -> int:
    """The right to write, until the file of this number is closed; raises UserError where another process has it."""
    with told(path):
        lock = os.open(path / WRITER, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(lock, 20).decode() or "unknown"
            os.close(lock)
            raise StoreError(
                f"store {path}: is being written by process {other}; wait until that is done, one at a time can write"
            ) from None
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    return lock


def release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def fresh(path: Path) -> Path:
    """Where records may be made that do not count yet; the name was never another's."""
    return path / f"{FOLDER}{secrets.token_hex(6)}"


def current(path: Path) -> Path:
    """The folder of the records that count."""
    return path / (path / CURRENT).read_text(errors="replace")


def promote(path: Path, folder: Path) -> None:
    """Let the records of a folder, in the place of those before, count from now on."""
    for there in (folder / DATA, folder, path):
        flush(there)
    new = path / f".{CURRENT}"
    new.write_text(folder.name)
    flush(new)
    new.replace(path / CURRENT)


def tidy(path: Path) -> None:
    """Remove the folders that do not count, as one that is killed leaves them."""
    flush(path)  # else a crash might bring back the name of what is removed here
    kept = current(path) if (path / CURRENT).exists() else None
    for folder in path.glob(f"{FOLDER}*"):
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def permit(old: Path, new: Path) -> None:
    """Let those use a new folder of records who may use the old one."""
    with contextlib.suppress(PermissionError):  # a group of others: its readers are told what to do
        for name in (".", DATA, LOCKS):
            os.chown(new / name, -1, (old / name).stat().st_gid)
            shutil.copymode(old / name, new / name)


def written_by_others(folder: Path) -> bool:
    """Whether anybody may write to the records of a folder: nobody can on a disk that is only read."""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return False
    return bool((folder / DATA).stat().st_mode & 0o222)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def number_of(error: Exception) -> int | None:
    """The number of the system's error behind one of LMDB, which gives only its text."""
    known = (*FULL, *REFUSED)
    return next((number for number in known if os.strerror(number) in str(error)), getattr(error, "errno", None))


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell a person what a failure of LMDB or of the disk means."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise StoreError(f"store {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    number = number_of(error)
    if number in FULL:
        text = os.strerror(number or 0)
        return f"the disk is full or fails ({text}); nothing that was committed is lost: make room and repeat"
    if number in REFUSED:
        return f"cannot be written ({os.strerror(number or 0)}); it can still be read: change its permissions to write"
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not there; restore a copy, or delete the folder and compress again"
    if "already open in this process" in str(error):
        return "is open in this process already; close the Recommender or Store that has it"
    if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.VersionMismatchError | lmdb.PageNotFoundError):
        return f"{DATA} is damaged or no store ({error}); restore a copy, or delete the folder and compress again"
    return f"cannot be used ({error})"
