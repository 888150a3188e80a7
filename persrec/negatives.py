"""Negatives: items that stand against the target in a sampled loss.

Shapes: N scored rows, J negatives, V items.
"""

import torch
from torch import Tensor

from persrec.constants import PAD


def uniform(count: int, *, items: int, rows: int | None = None, device: torch.device | None = None) -> Tensor:
    """Uniform draws of torch from 1..V with repetition: (J,) shared by all rows, or (N, J) with `rows`."""
    shape = (count,) if rows is None else (rows, count)
    return torch.randint(PAD + 1, items + 1, shape, device=device)
