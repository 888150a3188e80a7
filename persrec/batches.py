"""Batches: stretches of user histories as tensors, and the plan of an epoch.

Shapes: B users, T columns. A batch is right-padded; a random first segment of o events pads S - o columns in front
instead, so that block j is columns jS to (j+1)S - 1 for every user.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from persrec import baskets
from persrec.constants import PAD
from persrec.consumption import Runs, runs
from persrec.event_inputs import inputs_of

if TYPE_CHECKING:
    from persrec.prepared import Prepared

POOL = 2048  # users among whom those of similar length are put into one batch


class History(NamedTuple):
    """Events of some users, column by column."""

    item: Tensor  # (B, T) int64
    time: Tensor  # (B, T) int64 ms; zeros without a time signal
    query_time: Tensor  # (B, T) int64 ms
    target: Tensor  # (B, T) int64: the item to predict; PAD = the row carries no loss
    position: Tensor  # (B, T) int64: index in the user's history, below 0 for padding in front
    valid: Tensor  # (B, T) bool
    cell: Tensor | None = None  # (B, T) int64: the row's number among those of the batch, where pairs refer to it
    weight: Tensor | None = None  # (B, T) what the target counts, where targets do not count alike
    inputs: Tensor | None = None  # (B, T, F) int64 buckets of what the row's own event carries, where a model reads it
    last: Tensor | None = None  # (B, T, n) int64: the row's item behind those before it, where a model compares them

    def each(self, change: Callable[[Tensor], Tensor]) -> "History":
        """The same change of every field."""
        return History(*(None if field is None else change(field) for field in self))  # type: ignore[arg-type]

    def part(self, users: int, start: int, end: int) -> "History":
        """Columns start to end - 1 of the first users."""
        return self.each(lambda field: field[:users, start:end])

    def split(self, column: int) -> tuple["History", "History"]:
        """The events before a column, and those from it on."""
        return self.each(lambda field: field[:, :column]), self.each(lambda field: field[:, column:])

    def of(self, users: Tensor, columns: Tensor) -> "History":
        """Of each of the users (E,) the columns (E, W) that are asked for, all of which exist."""
        return self.each(lambda field: field[users[:, None], columns])

    def at(self, columns: Tensor, exist: Tensor) -> "History":
        """For each user the (B, W) columns that are asked for; those that do not exist are invalid padding."""
        inside = columns.clamp(max=self.item.shape[1] - 1)
        found = self.each(lambda field: field[torch.arange(len(inside), device=inside.device)[:, None], inside])
        return found._replace(
            item=found.item.where(exist, PAD),
            target=found.target.where(exist, PAD),
            position=self.position[:, :1] + columns,
            valid=found.valid & exist,
        )

    def without_targets(self, rows: Tensor) -> "History":
        """The same events, but the rows marked in (B, T) carry no loss."""
        return self._replace(target=self.target.masked_fill(rows, PAD))


class Batch(NamedTuple):
    """Histories of users in descending order of closed segments."""

    history: History
    events: Tensor  # (B,) int64: columns in use, padding in front included
    user: Tensor  # (B,) int64: row of the user in the prepared log
    consumed: Runs | None = None  # what the users have had, where the model asks for it

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        had = None if self.consumed is None else Runs(*(field.to(device) for field in self.consumed))
        history = self.history.each(lambda field: field.to(device))
        return Batch(history, self.events.to(device), self.user.to(device), had)


class Windows(NamedTuple):
    """Which events of which users: events [start, end) of `user`, after `shift` empty columns."""

    user: np.ndarray  # (B,) int64
    start: np.ndarray  # (B,) int64
    end: np.ndarray  # (B,) int64
    shift: np.ndarray  # (B,) int64

    def take(self, index: np.ndarray) -> "Windows":
        """Some of the windows."""
        return Windows(*(field[index] for field in self))

    @property
    def columns(self) -> np.ndarray:
        """Columns that each window fills."""
        return self.end - self.start + self.shift


class Sequences(Protocol):
    """Users' histories one after the other, as prepared data has them."""

    @property
    def offsets(self) -> np.ndarray:
        """(U+1,) int64: user u has events offsets[u] to offsets[u + 1] - 1."""

    @property
    def items(self) -> np.ndarray:
        """(E,) item indices."""

    @property
    def times(self) -> np.ndarray | None:
        """(E,) int64 ms."""


def collate(
    data: Sequences,
    windows: Windows,
    *,
    time: str = "none",
    at: np.ndarray | None = None,
    repeats: bool = False,
    last: bool = False,
    weights: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Batch:
    """The events of the windows as a batch; the target of each is its successor in the user's log, or PAD.

    `time` is none, last or next. Under `next` a row's query time is its successor's; for a row that has none it is
    `at`, (B,) int64 ms, the time at which the user is asked (default: the row's own). With `repeats` the batch says
    what the users have had before each row, or with `last` before the last one. `weights` says of places in the log
    what these events count as targets. The `inputs` that the data names are those of a row's own event, never of its
    target.
    """
    columns = windows.columns
    width = int(columns.max()) if len(columns) else 0
    grid = np.arange(width)[None, :] - windows.shift[:, None]  # (B, T) index in the window
    valid = (grid >= 0) & (grid < (windows.end - windows.start)[:, None])
    first, after = data.offsets[windows.user], data.offsets[windows.user + 1]
    row = np.where(valid, first[:, None] + windows.start[:, None] + grid, 0)
    follows = valid & (row + 1 < after[:, None])
    successor = np.where(follows, row + 1, 0)
    item = np.where(valid, data.items[row], PAD)
    target = np.where(follows, data.items[successor], PAD)
    own, query = _times(data, row, successor, valid, follows, time, at)
    fields = (item, own, query, target, grid + windows.start[:, None], valid)
    history = History(*(torch.from_numpy(np.ascontiguousarray(_as_int64(field))) for field in fields))
    if weights is not None:
        history = history._replace(weight=torch.from_numpy(np.where(follows, weights(successor), np.float32(0))))
    carried = inputs_of(data, row, valid)
    if carried is not None:
        history = history._replace(inputs=torch.from_numpy(carried))
    users = torch.from_numpy(columns.astype(np.int64)), torch.from_numpy(windows.user.astype(np.int64))
    if not repeats:
        return Batch(history, *users)
    had = runs(data, windows, None if time == "none" else query, last=last)
    return Batch(history._replace(cell=torch.arange(item.size).view(item.shape)), *users, had)


def _as_int64(field: np.ndarray) -> np.ndarray:
    return field if field.dtype == np.bool_ else field.astype(np.int64)


def _times(
    data: Sequences,
    row: np.ndarray,
    successor: np.ndarray,
    valid: np.ndarray,
    follows: np.ndarray,
    time: str,
    at: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Key times and query times, each (B, T)."""
    if time == "none" or data.times is None:
        zeros = np.zeros(row.shape, dtype=np.int64)
        return zeros, zeros
    own = np.where(valid, data.times[row], 0)
    if time == "last":
        return own, own
    asked = own if at is None else np.broadcast_to(at[:, None], own.shape)
    return own, np.where(follows, data.times[successor], asked)


def rows_of_reads(device: torch.device) -> int:
    """Padded rows of a batch that is only read: on a CPU as many as caches hold well, a fifth faster than 2^15."""
    return 1 << 13 if device.type == "cpu" else 1 << 15


class Budget(NamedTuple):
    """How much fits into a batch, and the segment rule by which its users are sorted."""

    segment: int
    recent: int | None
    events: int | None  # padded: users times the longest window
    users: int | None

    def cut(self, windows: Windows) -> list[np.ndarray]:
        """Which windows make a batch: in descending order of closed segments, then of length, each within the budget
        or of one window."""
        columns = windows.columns
        closed = np.zeros_like(columns) if self.recent is None else (columns - self.recent) // self.segment
        order = np.lexsort((-columns, -np.maximum(closed, 0)))
        batches, begin, widest = [], 0, 0
        for index, width in enumerate(columns[order]):
            widest = max(widest, width)
            if index > begin and self._over(users=index + 1 - begin, width=widest):
                batches.append(order[begin:index])
                begin, widest = index, width
        return [*batches, order[begin:]] if len(order) else []

    def _over(self, *, users: int, width: int) -> bool:
        too_many = self.users is not None and users > self.users
        return too_many or (self.events is not None and users * width > self.events)


class Plan(Dataset, Sampler):
    """The batches of every epoch of training, each a function of seed, epoch and log alone."""

    def __init__(
        self,
        data: "Prepared",
        *,
        seed: int,
        length: int | None,
        budget: Budget,
        random_first_segment: bool,
        time: str,
        repeats: bool = False,
        draw_after_ms: int | None = None,
        weights: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.data, self.seed, self.time, self.repeats, self.draw_after_ms = data, seed, time, repeats, draw_after_ms
        self.length, self.budget, self.weights = length, budget, weights
        self.random_first_segment = random_first_segment
        self.trainable = np.flatnonzero(data.train_end >= 2)
        self.epoch, self.first = 0, 0
        self.rank, self.ranks = 0, 1
        self._batches = self._cut(self._windows(0), self._random(0, 1))

    def at(self, epoch: int, batch: int = 0) -> None:
        """Move to an epoch, and to a batch within it."""
        if epoch != self.epoch:
            self._batches = self._cut(self._windows(epoch), self._random(epoch, 1))
        self.epoch, self.first = epoch, batch

    def share(self, rank: int, ranks: int) -> None:
        """Give out one device's batches only: those numbered rank, rank + ranks, ... of each epoch.

        Where they do not come out even, devices that have none left are given an event that nothing follows.
        """
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        """Batches of the present epoch that are given out."""
        return -(-len(self._batches) // self.ranks)

    def __iter__(self) -> Iterator[Windows]:
        own = self._batches[self.rank :: self.ranks]
        yield from (own + [self._nothing()] * (len(self) - len(own)))[self.first :]

    def _nothing(self) -> Windows:
        """A user's last event, which has no target: no loss, and no gradient."""
        user = self.trainable[:1]
        end = np.diff(self.data.offsets)[user]
        return Windows(user, end - 1, end, np.zeros_like(end))

    def __getitem__(self, windows: Windows) -> Batch:
        batch = collate(self.data, windows, time=self.time, repeats=self.repeats, weights=self.weights)
        if self.draw_after_ms is None:
            return batch
        random = self._random(self.epoch, 2, int(windows.user[0]), int(windows.start[0]))
        target = baskets.drawn(self.data, self.draw_after_ms, windows, batch.history.target, random)
        return batch._replace(history=batch.history._replace(target=target))

    def _random(self, epoch: int, purpose: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, purpose, *more])

    def _windows(self, epoch: int) -> Windows:
        """One window per user: the input events, whose successors are the targets."""
        random = self._random(epoch, 0)
        inputs = self.data.train_end[self.trainable] - 1
        kept = inputs if self.length is None else np.minimum(inputs, self.length)
        start = random.integers(0, inputs - kept + 1)
        shift = np.zeros_like(start)
        if self.budget.recent is not None and self.random_first_segment:
            closed = kept >= self.budget.recent + self.budget.segment
            shift = np.where(closed, random.integers(0, self.budget.segment, len(kept)), 0)
        return Windows(self.trainable, start, start + kept, shift)

    def _cut(self, windows: Windows, random: np.random.Generator) -> list[Windows]:
        """Batches of users of similar length under the budget, in random order."""
        order = random.permutation(len(windows.user))
        pools = np.array_split(order, max(1, len(order) // POOL))
        batches = [windows.take(pool[batch]) for pool in pools for batch in self.budget.cut(windows.take(pool))]
        return [batches[index] for index in random.permutation(len(batches))]


class EpochLoader(DataLoader):
    """A plan's batches, collated in `workers` processes (0 = in this one); knows which batch comes next."""

    def __init__(self, plan: Plan, *, workers: int = 0) -> None:
        super().__init__(plan, sampler=plan, batch_size=None, num_workers=workers)
        self.plan = plan
        self._done = plan.first

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._done = self.plan.first
        for batch in super().__iter__():
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches of it that have been given out."""
        return {"epoch": self.plan.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken: in the middle of its epoch, or at the start of the next."""
        self.plan.at(state["epoch"])
        if state["done"] < len(self.plan):
            self.plan.at(state["epoch"], state["done"])
        else:
            self.plan.at(state["epoch"] + 1)


def evaluation_windows(user: np.ndarray, end: np.ndarray, *, length: int | None) -> Windows:
    """The last `length` events before `end` (B,) of the users (B,); nothing is shifted."""
    start = np.zeros_like(end) if length is None else np.maximum(0, end - length)
    return Windows(user, start, end, np.zeros_like(end))
