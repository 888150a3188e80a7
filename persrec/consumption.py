"""What each row's user has had so far: how often, how many events ago and how long ago, item by item.

Shapes: E events of a log, B windows, T columns, P pairs of a row and an item that its user has had.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from persrec.batches import Sequences, Windows


HALF_LIFE = 256  # events


class Consumed(NamedTuple):
    """Pairs of a row and an item that its user has had in the events up to the row's, in the order of the rows."""

    row: Tensor  # (P,) int64, ascending: in a batch b * T + t
    item: Tensor  # (P,) int64
    frequency: Tensor  # (P,) int64, events with the item
    strength: (
        Tensor  # (P,) float32, the same at the time of the last of them, where one counts half after HALF_LIFE more
    )
    distance: Tensor  # (P,) int64, events since the last of them; 0 = it is the row's own
    elapsed: Tensor  # (P,) int64 ms, from the last of them to the time at which the row is asked

    def of(self, rows: Tensor) -> "Consumed":
        """The pairs of some rows (N,), which are numbered 0 to N - 1."""
        begin, end = torch.searchsorted(self.row, rows), torch.searchsorted(self.row, rows + 1)
        counts = end - begin
        number = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
        within = torch.arange(len(number), device=rows.device) - (counts.cumsum(0) - counts)[number]
        place = begin[number] + within
        return Consumed(number, *(field[place] for field in self[1:]))


def before(data: "Sequences") -> np.ndarray:
    """(E,) int64: place in the log of the same user's last event with the same item; -1 = there is none."""
    lengths = np.diff(data.offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((data.items, user))  # stable: events of a user and an item follow each other
    again = (user[order[1:]] == user[order[:-1]]) & (data.items[order[1:]] == data.items[order[:-1]])
    places = np.full(len(order), -1)
    places[order[1:][again]] = order[:-1][again]
    return places


class Repeats:
    """Where in a log the same user has the same item again; made once per log."""

    def __init__(self, data: "Sequences") -> None:
        self.data = data
        earlier = before(data)
        here = np.flatnonzero(earlier >= 0)
        self.following = np.repeat(data.offsets[1:], np.diff(data.offsets))  # (E,) place of the next such event, or
        self.following[earlier[here]] = here  # the end of the user's
        self.count = np.ones(len(earlier), dtype=np.int64)  # (E,) such events so far, this one included
        self.strength = np.ones(len(earlier), dtype=np.float32)  # (E,) the same, decayed
        repeated = np.zeros(len(earlier), dtype=bool)
        repeated[earlier[here]] = True
        last = np.flatnonzero(earlier < 0)  # the first time of everything; then one step per repeat
        while len(last := last[repeated[last]]):
            here = self.following[last]
            self.count[here] += self.count[last]
            self.strength[here] += self.strength[last] * 0.5 ** ((here - last) / HALF_LIFE)
            last = here

    def consumed(self, windows: "Windows", asked: np.ndarray | None, *, last: bool) -> Consumed:
        """The pairs of all rows of windows, or with `last` of the last row of each.

        `asked` (B, T) is the time at which a row is asked, None in a log without times. What a window leaves out
        counts too: counts and ages are those of the whole history.
        """
        first = self.data.offsets[windows.user]  # (B,)
        window = np.repeat(np.arange(len(first)), windows.end)
        event = np.arange(len(window)) - (np.cumsum(windows.end) - windows.end - first)[window]
        begin = (first + (windows.end - 1 if last else windows.start))[window]
        low = np.maximum(event, begin)
        high = np.minimum(self.following[event], (first + windows.end)[window])
        counts = np.maximum(high - low, 0)  # rows for which this is the last event with its item
        source = np.repeat(np.arange(len(event)), counts)
        place = low[source] + np.arange(len(source)) - (np.cumsum(counts) - counts)[source]
        event, window = event[source], window[source]
        column = place - first[window] - windows.start[window] + windows.shift[window]
        row = window * int(windows.columns.max(initial=0)) + column
        order = np.argsort(row, kind="stable")
        times = self.data.times
        elapsed = np.zeros_like(row) if asked is None or times is None else asked.ravel()[row] - times[event]
        fields = (row, self.data.items[event], self.count[event], self.strength[event], place - event, elapsed)
        kinds = (np.float32 if name == "strength" else np.int64 for name in Consumed._fields)
        return Consumed(
            *(torch.from_numpy(field[order].astype(kind)) for field, kind in zip(fields, kinds, strict=True))
        )
