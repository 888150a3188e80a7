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


def drawn(data: "Prepared", gap_ms: int, windows: "Windows", target: Tensor, random: np.random.Generator) -> Tensor:
    """Targets (B, T) in which the first item after a break is replaced by any one of its basket; `gap_ms` apart is one.

    The order inside a basket is arbitrary, so its first item is one of it by chance. Baskets end among the events that
    are trained on.
    """
    assert data.times is not None
    inside = target.numpy() > 0
    if not inside.any():
        return target
    first = data.offsets[windows.user] + windows.start
    place = (first - windows.shift)[:, None] + np.arange(target.shape[1]) + 1  # of the targets
    left = np.maximum(0, data.train_end[windows.user] - windows.start)  # events of each window, and those after it
    window = np.repeat(np.arange(len(left)), left)
    starts = np.cumsum(left) - left
    event = first[window] + np.arange(len(window)) - starts[window]
    begins = data.times[event] - data.times[np.maximum(event - 1, 0)] >= gap_ms
    begins[starts[left > 0]] = True  # so that no basket is of two windows
    begin = np.append(np.flatnonzero(begins), len(event))
    here = np.where(inside, place - first[:, None] + starts[:, None], 0)
    breaks = inside & begins[here]
    choices = np.where(breaks, begin[np.searchsorted(begin, here, side="right")] - here, 1)
    other = np.where(inside, place, 0) + random.integers(0, choices)
    return torch.where(torch.from_numpy(breaks), torch.from_numpy(data.items[other].astype(np.int64)), target)
