"""Fetching a data set: download with resume, checksum, unpacking, counts.

A download grows in `<file>.part` and gets its name when it is whole; one that was cut off goes on where it stopped.
"""

import hashlib
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final

import polars as pl

from persrec import datasets
from persrec.datasets.catalogue import DataSet
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, USER, Say, log

PART: Final = ".part"
BLOCK: Final = 1 << 18  # bytes that are read at a time
TRIES: Final = 3  # in a row that bring nothing
SECONDS: Final = 30  # of silence after which a server counts as gone

Progress = Callable[[int, int | None], None]
"""Receives the bytes that are there, and how many there will be."""


class _Cut(Exception):
    """A download that ended too early."""


def get(data: DataSet, root: Path, *, say: Say = log, progress: Progress = lambda there, total: None) -> Path:
    """The path of a data set, which is downloaded unless it is there already; its counts are verified either way.

    Raises:
        UserError: it can only be had by hand, the network, the server or the disk does not allow it, or checksum or
            counts are others than expected.
    """
    path = data.path(root)
    if data.is_there(root):
        say(f"{path}: there already.")
    elif data.url is None:
        raise UserError(
            f"datasets get {data.name}: cannot be downloaded without asking its publisher: {data.advice(root)}."
        )
    else:
        target = path.with_name(Path(data.url).name) if data.members else path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fetch(data.url, target, checksum=data.checksum, say=say, progress=progress)
            if data.members:
                unpack(target, data.inside, data.members)
        except UserError as error:
            raise UserError(f"{error}\nBy hand: {data.advice(root)}.") from None
        except OSError as error:
            raise UserError(
                f"{path.parent}: cannot be written ({error.strerror}); make room or use --folder."
            ) from None
    verify(data, path, say=say)
    return path


def verify(data: DataSet, path: Path, *, say: Say = log) -> None:
    """Count users, items and events; raises UserError where one is not as expected."""
    frame = datasets.read(data.source, path)
    counts = frame.select(pl.col(USER).n_unique(), pl.col(ITEM).n_unique(), pl.len()).collect().row(0)
    expected = (data.users, data.items, data.events)
    names = ("users", "items", "events")
    wrong = [
        f"{got:,} {name} instead of {count:,}"
        for got, count, name in zip(counts, expected, names, strict=True)
        if count is not None and got != count
    ]
    if wrong:
        raise UserError(
            f"{path}: {', '.join(wrong)}: another edition, a part of it, or a damaged file; delete it and get it "
            f"again, or see {data.page}."
        )
    say(f"{path}: {counts[0]:,} users, {counts[1]:,} items, {counts[2]:,} events{', as expected' * any(expected)}.")


def fetch(
    url: str,
    target: Path,
    *,
    checksum: str | None = None,
    say: Say = log,
    progress: Progress = lambda there, total: None,
) -> None:
    """Download to `target`, going on with what an earlier try left; `checksum` is the URL of a file with its MD5.

    Raises:
        UserError: no connection, an answer that is no file, a connection that is cut again and again, or a
            wrong checksum (what was downloaded is then deleted).
    """
    part = target.with_name(target.name + PART)
    expected = _md5_at(checksum) if checksum else None
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _go_on(url, part, progress)
            break
        except (_Cut, HTTPException, ConnectionError, TimeoutError) as error:
            there = part.stat().st_size if part.exists() else 0
            tries = tries + 1 if there <= before else 0
            if tries == TRIES:
                raise UserError(
                    f"{url}: the connection was cut after {there:,} bytes ({error or type(error).__name__}); repeat "
                    "the command to go on from there."
                ) from None
            say(f"{url}: cut after {there:,} bytes, going on.")
    if expected is not None:
        _check(part, expected, url)
    part.replace(target)


def _go_on(url: str, part: Path, progress: Progress) -> None:
    """Append to `part` what is missing, or write it anew where the server has no ranges."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    with _answer(request, part) as answer:
        resumed = answer.status == 206
        there = there if resumed else 0
        left = answer.headers.get("Content-Length")
        total = None if left is None else there + int(left)
        with part.open("ab" if resumed else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                there += len(block)
                progress(there, total)
    if total is not None and there < total:
        raise _Cut(f"{total:,} were announced")


def _answer(request: urllib.request.Request, part: Path) -> HTTPResponse:
    """The server's answer, which is the file or its rest."""
    url = request.full_url
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there is not a beginning of it
            part.unlink()
            raise _Cut("what was there did not fit") from None
        raise UserError(f"{url}: the server answered {error.code} {error.reason}, expected the file.") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionResetError | TimeoutError):
            raise _Cut(str(error.reason)) from None
        raise UserError(f"{url}: cannot be reached ({error.reason}); is there a network?") from None
    return answer


def _md5_at(url: str) -> str:
    """The MD5 in a publisher's file, as `md5sum` or BSD's `md5` writes it."""
    with _answer(urllib.request.Request(url), Path()) as answer:
        text = answer.read(4096).decode("ascii", errors="replace")
    found = re.search(r"\b[0-9a-f]{32}\b", text)
    if found is None:
        raise UserError(f"{url}: got {text[:60]!r}, expected the MD5 of the file.")
    return found[0]


def _check(part: Path, expected: str, url: str) -> None:
    with part.open("rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != expected:
        part.unlink()
        raise UserError(f"{url}: the MD5 is {got}, the publisher's is {expected}; it was deleted, get it again.")


def unpack(archive: Path, inside: str, members: tuple[str, ...]) -> None:
    """Take these files of a folder of a zip out beside it, and delete the zip.

    Raises:
        UserError: it is no zip, or lacks one of them.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in members:
                whole = archive.with_name(member)
                part = archive.with_name(member + PART)
                with packed.open(f"{inside}/{member}") as source, part.open("wb") as file:
                    shutil.copyfileobj(source, file)
                part.replace(whole)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error.args[0]}); delete it and get it again.") from None
    archive.unlink()
