"""What each row's user has had so far: how often, how many events ago and how long ago, item by item.

Shapes: E events of a log or a batch, B windows, T columns, N rows, P pairs of a row and an item that its user has had.
"""

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from persrec.batches import Sequences, Windows


HALF_LIFE = 256  # events


class Consumed(NamedTuple):
    """Pairs of a row and an item that its user has had in the events up to the row's, in the order of the rows."""

    row: Tensor  # (P,) int64, ascending: number of the row among those asked for
    item: Tensor  # (P,) int64
    frequency: Tensor  # (P,) int64, events with the item
    strength: (
        Tensor  # (P,) float32, the same at the time of the last of them, where one counts half after HALF_LIFE more
    )
    distance: Tensor  # (P,) int64, events since the last of them; 0 = it is the row's own
    elapsed: Tensor  # (P,) int64 ms, from the last of them to the time at which the row is asked


class Runs(NamedTuple):
    """The pairs of a batch before they are made: a run is the rows for which an event is the last with its item.

    A history of n events with d items has n rows, n runs and up to n * d pairs.
    """

    begin: Tensor  # (E,) int64, first row of each run: in a batch b * T + t
    end: Tensor  # (E,) int64, the row after its last
    item: Tensor  # (E,) int64
    frequency: Tensor  # (E,) int64 and (E,) float32, see `Consumed`
    strength: Tensor
    distance: Tensor  # (E,) int64, events from the run's to its first row's
    time: Tensor  # (E,) int64 ms
    asked: Tensor  # (B * T,) int64 ms, when each row is asked

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return int((self.end - self.begin).sum())

    def counts(self, rows: Tensor) -> Tensor:
        """How many pairs (N,) each of some rows (N,) has."""
        began, ended = (torch.searchsorted(bound.sort().values, rows, right=True) for bound in (self.begin, self.end))
        return began - ended

    def of(self, rows: Tensor) -> Consumed:
        """The pairs of some rows (N,), which are numbered 0 to N - 1."""
        ascending, order = rows.sort()
        first, after = (torch.searchsorted(ascending, bound) for bound in (self.begin, self.end))
        counts = after - first
        run = torch.repeat_interleave(torch.arange(len(counts), device=rows.device), counts)
        within = torch.arange(len(run), device=rows.device) - (counts.cumsum(0) - counts)[run]
        number, place = order[first[run] + within].sort(stable=True)
        run, row = run[place], rows[number]
        distance, elapsed = self.distance[run] + row - self.begin[run], self.asked[row] - self.time[run]
        return Consumed(number, self.item[run], self.frequency[run], self.strength[run], distance, elapsed)


def before(data: "Sequences") -> np.ndarray:
    """(E,) int64: place in the log of the same user's last event with the same item; -1 = there is none."""
    lengths = np.diff(data.offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((data.items, user))  # stable: events of a user and an item follow each other
    again = (user[order[1:]] == user[order[:-1]]) & (data.items[order[1:]] == data.items[order[:-1]])
    places = np.full(len(order), -1)
    places[order[1:][again]] = order[:-1][again]
    return places


def runs(data: "Sequences", windows: "Windows", asked: np.ndarray | None, *, last: bool) -> Runs:
    """The pairs of all rows of windows, or with `last` of the last row of each, as runs.

    `asked` (B, T) is the time at which a row is asked, None in a log without times. What a window leaves out counts
    too: counts and ages are those of the whole history, which is why all of it is sorted here.
    """
    ends = np.cumsum(windows.end)
    window = np.repeat(np.arange(len(ends)), windows.end)
    place = np.arange(len(window)) - (ends - windows.end)[window]  # in the user's history
    event = data.offsets[windows.user][window] + place
    following, count, strength = _again(window, data.items[event], ends)
    low = np.maximum(place, (windows.end - 1 if last else windows.start)[window])
    high = following - (ends - windows.end)[window]
    some = high > low  # the event is the last with its item for a row at all
    event, window, place, low, high = (each[some] for each in (event, window, place, low, high))
    width = int(windows.columns.max(initial=0))
    begin = window * width + low - windows.start[window] + windows.shift[window]
    times = data.times
    if asked is None or times is None:
        asked, own = np.zeros(len(windows.user) * width), np.zeros_like(event)
    else:
        own = times[event]
    fields = (
        begin,
        begin + high - low,
        data.items[event],
        count[some],
        strength[some],
        low - place,
        own,
        asked.ravel(),
    )
    kinds = (np.float32 if name == "strength" else np.int64 for name in Runs._fields)
    return Runs(*(torch.from_numpy(field.astype(kind)) for field, kind in zip(fields, kinds, strict=True)))


def _again(window: np.ndarray, items: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of events (E,), window by window: the next one of the window with the same item, or the window's end; how many
    there were so far, this one included; and the same decayed."""
    order = np.lexsort((items, window))  # stable: events of a window and an item follow each other
    new = np.ones(len(order), dtype=bool)
    new[1:] = (window[order[1:]] != window[order[:-1]]) | (items[order[1:]] != items[order[:-1]])
    following, count = ends[window], np.empty(len(order), dtype=np.int64)
    following[order[:-1][~new[1:]]] = order[1:][~new[1:]]
    rows = np.arange(len(order))
    count[order] = rows - np.maximum.accumulate(np.where(new, rows, 0)) + 1
    left = 0.5 ** (np.where(new, np.inf, np.diff(order, prepend=0)) / HALF_LIFE)  # of the strength at the one before
    decayed = accumulate(left.tolist(), lambda before, part: 1 + before * part, initial=0.0)
    strength = np.empty(len(order), dtype=np.float32)
    strength[order] = np.fromiter(decayed, np.float32, len(order) + 1)[1:]
    return following, count, strength
