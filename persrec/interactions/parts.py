"""Logs that are larger than memory: in parts as they are read, and put aside on disk between two steps."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.errors import UserError

ROWS: Final = 1 << 22  # events of a part


class Parts:
    """A log as frames of at most `ROWS` rows, in order; where it is one frame, that is read once and kept."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame
        self._only: pl.DataFrame | None = None

    def __iter__(self) -> Iterator[pl.DataFrame]:
        if self._only is not None:
            yield self._only
            return
        batches = taken(self._frame)
        first = next(batches, None)
        second = next(batches, None)
        if second is None:
            self._only = self._frame.clear().collect() if first is None else first
            yield self._only
            return
        assert first is not None
        yield first
        del first
        yield second
        del second
        yield from batches


def taken(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Frames of at most `ROWS` rows in order, read no faster than they are taken.

    (Polars' own `collect_batches` reads ahead as fast as it can, until all of a log is in memory.)
    """
    handed: Queue[pl.DataFrame | BaseException | None] = Queue(1)
    left = Event()

    def hand(batch: pl.DataFrame | BaseException | None) -> bool:
        """Wait until it can be taken; True where nobody is there any more, and reading is to stop."""
        while not left.is_set():
            with suppress(Full):
                handed.put(batch, timeout=0.1)
                return False
        return True

    def work() -> None:
        try:
            frame.sink_batches(hand, chunk_size=ROWS, maintain_order=True)
        except BaseException as error:
            hand(error)
        else:
            hand(None)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while isinstance(found := handed.get(), pl.DataFrame):
            yield found
        if found is not None:
            raise found
    finally:
        left.set()
        thread.join()


class Spool:
    """Frames by number, to be read again in that order: in memory while there is one, else on disk.

    Files have no name: they are gone with the process, however that ends. `folder` None is the system's own place.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.height = folder, 0
        self._only: tuple[int, pl.DataFrame] | None = None
        self._file: IO[bytes] | None = None
        self._places: dict[int, list[tuple[int, int]]] = {}  # where in the file, and how many bytes

    def append(self, frame: pl.DataFrame, number: int = 0) -> None:
        """Put a frame behind those of this number; an empty one leaves no trace."""
        if frame.is_empty():
            return
        self.height += frame.height
        if self._file is None and self._only is None:
            self._only = number, frame
            return
        if self._only is not None:
            self._file = nameless(self.folder)
            self._put(*self._only)
            self._only = None
        self._put(number, frame)

    def _put(self, number: int, frame: pl.DataFrame) -> None:
        assert self._file is not None
        data = frame.write_ipc_stream(None).getbuffer()
        begin = self._file.seek(0, io.SEEK_END)
        with writing(self.folder, begin):
            self._file.write(data)
        self._places.setdefault(number, []).append((begin, data.nbytes))

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """One frame for each number."""
        if self._only is not None:
            yield self._only[1]
        for number in sorted(self._places):
            yield pl.concat([self._get(*place) for place in self._places[number]])

    def _get(self, begin: int, size: int) -> pl.DataFrame:
        assert self._file is not None
        self._file.seek(begin)
        return pl.read_ipc_stream(io.BytesIO(self._file.read(size)))

    def each(self, function: Callable[[pl.DataFrame], pl.DataFrame]) -> "Spool":
        """What a function makes of each frame; this spool is empty then."""
        made = Spool(self.folder)
        for number, frame in enumerate(self):
            made.append(function(frame), number)
        self.close()
        return made

    def close(self) -> None:
        """Forget the frames."""
        self._only, self._places = None, {}
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()


class Column:
    """An array that grows at its end: in memory while there is one part, else mapped from disk."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._only: npt.NDArray[Any] | None = None
        self._file: IO[bytes] | None = None

    def append(self, values: npt.NDArray[Any]) -> None:
        if self._only is None:
            self._only = values
            return
        with writing(self.folder, values.nbytes):
            if self._file is None:
                self._file = nameless(self.folder)
                self._file.write(np.ascontiguousarray(self._only).data)
                self._only = self._only[:0]
            self._file.write(np.ascontiguousarray(values).data)

    @property
    def filled(self) -> bool:
        return self._only is not None

    def array(self) -> npt.NDArray[Any]:
        """All values."""
        assert self._only is not None
        if self._file is None:
            return self._only
        with writing(self.folder, self._file.tell()):
            self._file.flush()
        return np.asarray(np.memmap(self._file, dtype=self._only.dtype, mode="r"))  # lives on when the file is closed

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


def nameless(folder: Path | None) -> IO[bytes]:
    """An open file that no folder lists."""
    with writing(folder, 0):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)


@contextmanager
def writing(folder: Path | None, size: int) -> Iterator[None]:
    """Tell a person what a failure to put events aside means; `size` is that of the file, in bytes."""
    try:
        yield
    except OSError as error:
        place = folder.parent if folder is not None else tempfile.gettempdir()
        raise UserError(
            f"{place}: temporary files cannot be written: {error.strerror or error} (at {size / 1e6:,.0f} MB). A log "
            f"that is read in parts needs about 60 bytes per event here while it is prepared; free space"
            f"{', or set TMPDIR' if folder is None else ' or choose another folder'}. Nothing was left behind."
        ) from error
