"""Baskets of a log: events of a user without a break between them.

Shapes: E events of a log, B windows, T columns.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from persrec.batches import Windows
    from persrec.prepared import Prepared


class Baskets:
    """Where baskets end among the events that are trained on; `gap_ms` apart is a break."""

    def __init__(self, data: "Prepared", gap_ms: int) -> None:
        assert data.times is not None
        self.data, self.gap = data, gap_ms
        user = np.repeat(np.arange(data.users), np.diff(data.offsets))
        begins = np.diff(data.times, prepend=data.times[:1]) >= gap_ms
        begins[data.offsets[:-1][np.diff(data.offsets) > 0]] = True
        starts = np.append(np.flatnonzero(begins), len(user))
        after = starts[np.searchsorted(starts, np.arange(len(user)), side="right")]  # (E,) where the next one begins
        self.end = np.minimum(after, (data.offsets[:-1] + data.train_end)[user])

    def drawn(self, windows: "Windows", target: Tensor, random: np.random.Generator) -> Tensor:
        """Targets (B, T) in which the first item after a break is replaced by any one of its basket.

        The order inside a basket is arbitrary, so its first item is one of it by chance.
        """
        place = (self.data.offsets[windows.user] + windows.start - windows.shift)[:, None] + np.arange(target.shape[1])
        inside = target.numpy() > 0
        place = np.where(inside, place + 1, 1)  # of the targets
        assert self.data.times is not None
        breaks = inside & (self.data.times[place] - self.data.times[place - 1] >= self.gap)
        choices = np.maximum(self.end[place] - place, 1)
        other = place + random.integers(0, choices)
        return torch.where(torch.from_numpy(breaks), torch.from_numpy(self.data.items[other].astype(np.int64)), target)
