"""Vectors of texts, kept: one matrix and an index for each way of encoding, which grow by appending.

<root>/<hash>/
    cache.json      what made the vectors: encoder, pooling, limit of tokens, type and width of the numbers
    vectors.bin     a row of numbers per text
    index.bin       per row SHA-256 of the text and whether its end was cut; a row counts once it is here
    lock            held while somebody writes

Interrupted at any point, a matrix is as long as its index. A text stands in it once, whatever template made it.

Shapes: T texts, E width of a vector.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from persrec.errors import UserError

FACTS: Final = "cache.json"
VECTORS: Final = "vectors.bin"
INDEX: Final = "index.bin"
ENTRY: Final = np.dtype([("text", "V32"), ("cut", "?")])

Floats = npt.NDArray[Any]


class VectorCache:
    """The vectors of one way of encoding, which `facts` describe (`dtype` and `width` among them)."""

    def __init__(self, root: Path, facts: dict[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.folder, self.facts = root / name, facts
        self.width, self.dtype = int(facts["width"]), np.dtype(facts["dtype"])
        self._rows: dict[bytes, int] = {}
        self._cut: list[bool] = []

    @contextmanager
    def open(self) -> Iterator["VectorCache"]:
        """The cache as it is now, for this process alone; whoever else wants it waits.

        Raises:
            UserError: the folder holds vectors of something else, or cannot be written.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._writing():
                self._check()
                self._recover()
            yield self

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts that have no vector yet, each once."""
        return list(dict.fromkeys(text for text in texts if _digest(text) not in self._rows))

    def append(self, texts: Sequence[str], vectors: Floats, cut: Sequence[bool]) -> None:
        """Keep the vectors (T, E) of texts, and whether their ends were cut."""
        entries = np.empty(len(texts), dtype=ENTRY)
        entries["text"], entries["cut"] = [np.void(_digest(text)) for text in texts], cut
        with self._writing():
            with (self.folder / VECTORS).open("ab") as file:
                _write(file, np.ascontiguousarray(vectors, dtype=self.dtype).tobytes())
            with (self.folder / INDEX).open("ab") as file:
                _write(file, entries.tobytes())
        self._take(entries)

    def vectors(self, texts: Sequence[str]) -> Floats:
        """The vectors (T, E) of texts that are all there."""
        if not self._cut:
            return np.zeros((0, self.width), self.dtype)
        shape = len(self._cut), self.width
        matrix = np.memmap(self.folder / VECTORS, dtype=self.dtype, mode="r", shape=shape)
        return matrix[[self._rows[_digest(text)] for text in texts]]

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts have lost their end."""
        return sum(self._cut[self._rows[_digest(text)]] for text in texts)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tell a person what a failure to write means."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror or error}); make room: a text takes "
                f"{self.width * self.dtype.itemsize:,} bytes here; what is written already is kept"
            ) from error

    def _take(self, entries: npt.NDArray[Any]) -> None:
        for text, cut in zip(entries["text"].tolist(), entries["cut"].tolist(), strict=True):
            self._rows[bytes(text)] = len(self._cut)
            self._cut.append(cut)

    def _check(self) -> None:
        path = self.folder / FACTS
        if not path.is_file():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
        try:
            got = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            got = None
        if got != self.facts:
            differs = sorted(key for key in self.facts if not isinstance(got, dict) or got.get(key) != self.facts[key])
            raise UserError(
                f"{self.folder}: holds the vectors of something else ({', '.join(differs)} differ); delete the folder, "
                "it is made again"
            )

    def _recover(self) -> None:
        """Cut off what a kill has left half-written, then read the index."""
        row = self.width * self.dtype.itemsize
        for name in (VECTORS, INDEX):
            (self.folder / name).touch()
        whole = [
            (self.folder / VECTORS).stat().st_size // row,
            (self.folder / INDEX).stat().st_size // ENTRY.itemsize,
        ]
        os.truncate(self.folder / VECTORS, min(whole) * row)
        os.truncate(self.folder / INDEX, min(whole) * ENTRY.itemsize)
        self._rows, self._cut = {}, []
        self._take(np.fromfile(self.folder / INDEX, dtype=ENTRY))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _write(file: IO[bytes], contents: bytes) -> None:
    file.write(contents)
    file.flush()
    os.fsync(file.fileno())
