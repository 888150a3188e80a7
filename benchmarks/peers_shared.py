"""What both libraries of peers.py are measured with, in either environment: log, settings, a stopwatch, metrics.

Shapes: U users, E events, Q queries, V items.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from persrec.errors import whole

Ints = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
K = 10
ROUNDS = 3  # a timing of answers is the best of so many


class Asked(NamedTuple):
    """Users (Q,) who have had their first `end` (Q,) events: which item is the next?"""

    user: Ints
    end: Ints


@dataclass(frozen=True)
class Log:
    """Histories, items 1..V, each user's events in order."""

    offsets: Ints  # (U+1,)
    items: Ints  # (E,)
    times: Ints | None  # (E,) ms
    train_end: Ints  # (U,)
    validation: Asked
    test: Asked

    def targets(self, asked: Asked) -> Ints:
        """(Q,) the item that each query asks for."""
        return self.items[self.offsets[asked.user] + asked.end]

    def at(self, asked: Asked) -> Ints | None:
        """(Q,) ms, when each is asked."""
        return None if self.times is None else self.times[self.offsets[asked.user] + asked.end]

    def events(self, user: Ints, end: Ints) -> tuple[Ints, Ints]:
        """Of the first `end` (Q,) events of users (Q,): the query (n,) and the place (n,) of each."""
        query = np.repeat(np.arange(len(user)), end)
        within = np.arange(len(query)) - np.repeat(np.cumsum(end) - end, end)
        return query, self.offsets[user][query] + within

    def save(self, path: Path) -> None:
        """Plain arrays, which any version of numpy reads."""
        arrays = {name: value for name, value in asdict(self).items() if isinstance(value, np.ndarray)}
        for name in ("validation", "test"):
            arrays |= {f"{name}_{field}": value for field, value in getattr(self, name)._asdict().items()}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, *, timed: bool) -> "Log":
        """What `save` wrote; `timed` False leaves the times out."""
        with np.load(path) as found:
            arrays = {name: found[name] for name in found.files}
        parts = {name: Asked(arrays[f"{name}_user"], arrays[f"{name}_end"]) for name in ("validation", "test")}
        times = arrays.get("times") if timed else None
        return cls(arrays["offsets"], arrays["items"], times, arrays["train_end"], **parts)


@dataclass(frozen=True)
class Settings:
    """One model to train; the same for both libraries, but for what only one of them reads."""

    model: str  # hstu, sasrec
    sampling: str  # negatives: so many for each position, uniform; softmax: all items
    negatives: int
    time: str  # none; next: a row knows when it is asked
    width: int
    layers: int
    heads: int
    dropout: float
    length: int | None  # the last so many events; None: all of them
    batch: int  # sequences of a step
    events: int | None  # persrec: of a step at most, padding included
    epochs: int
    seed: int
    folder: str  # persrec: the prepared log
    recipe: str  # persrec: recipe and overrides
    overrides: tuple[str, ...]
    history: str  # persrec: full, compressed


class Stopwatch:
    """Seconds of training: validation is not counted. One lap is one epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # at the end of each epoch, since the start
        self.cpu_seconds: list[float] = []
        self.validation: list[float] = []  # NDCG@10 after each epoch
        self._spent = [0.0, 0.0]
        self._since: tuple[float, float] | None = None

    def go(self) -> None:
        """Count from now on."""
        self._since = time.perf_counter(), time.process_time()

    def pause(self) -> None:
        """Stop counting."""
        assert self._since is not None
        now = time.perf_counter(), time.process_time()
        self._spent = [spent + end - start for spent, end, start in zip(self._spent, now, self._since, strict=True)]
        self._since = None

    def lap(self, validation: float) -> None:
        """Note the end of an epoch, while nothing is counted."""
        self.seconds.append(self._spent[0])
        self.cpu_seconds.append(self._spent[1])
        self.validation.append(validation)
        print(f"epoch {len(self.seconds)}: {self._spent[0]:.1f} s, validation {validation:.4f}", flush=True)

    def about(self) -> dict[str, Any]:
        """What was noted."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "validation": self.validation}


class Fastest(NamedTuple):
    """What was found, and the seconds of the fastest round."""

    found: Any
    seconds: float


def fastest(act: Callable[[], Any]) -> Fastest:
    """Do it some times over."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = act()
        seconds.append(time.perf_counter() - started)
    return Fastest(found, min(seconds))


def ndcg(lists: Ints, targets: Ints) -> Values:
    """NDCG@10 of each list (Q, 10), best first, that is to hold one target (Q,)."""
    return ((lists == targets[:, None]) / np.log2(np.arange(2, K + 2))).sum(axis=1)


def recall(lists: Ints, targets: Ints) -> Values:
    """Recall@10, which for one target is the hit rate."""
    return (lists == targets[:, None]).any(axis=1).astype(np.float64)


def lists_of(user: npt.ArrayLike, rank: npt.ArrayLike, item: npt.ArrayLike, queries: int) -> Ints:
    """(Q, 10) from a frame's columns; 0 where there are fewer."""
    lists = np.zeros((queries, K), dtype=np.int64)
    lists[np.asarray(user), np.asarray(rank) - 1] = np.asarray(item)
    return lists


def keep(path: Path, settings: Settings, lists: Ints, about: dict[str, Any]) -> None:
    """Leave a cell: the lists (Q, 10) of the test, and what they cost; whole or not at all."""
    every = {"settings": asdict(settings), "peak_mb": machine.peak_kib() / 1024, **about}
    with whole(path, "--out") as place, place.open("wb") as file:
        np.savez(file, lists=lists, about=json.dumps(every))


def found(path: Path) -> tuple[Ints, dict[str, Any]]:
    """What `keep` left."""
    with np.load(path) as cell:
        return cell["lists"], json.loads(str(cell["about"]))
