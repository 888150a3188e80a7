"""Item encoders: from item indices to vectors.

Shapes: V items (row 0 of a table is PAD), D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class IdTable(nn.Module):
    """One learned vector per item, used on the way in (scaled by sqrt(D), as HSTU does) and as the item to be found."""

    def __init__(self, *, items: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(items + 1, width).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)

    @property
    def count(self) -> int:
        """V, the number of items."""
        return len(self.table) - 1

    def forward(self, items: Tensor) -> Tensor:
        """Vectors (..., D) of items (...)."""
        return self.dropout(F.embedding(items, self.table) * self.table.shape[1] ** 0.5)
