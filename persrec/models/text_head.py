"""The text head: what a candidate's text has in common with the texts of the user's last events.

Shapes: B users, L rows, E width of the text model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.constants import PAD


class TextHead(nn.Module):
    """A second part of the query, in the space of the texts: sum over k of w_k * t_(n - k), for the last N events.

    t are unit vectors of texts, w_k is learned per place, the same for all users and items. Products with a
    candidate's t come on top of the product of query and item, so that an item that few have had is found by its
    likeness to what was just had, which the layers, taught by popular items, do not learn. Nothing is added at first.
    The weights are trained beside the layers, which learn as if there were no head (`training.objective`).
    """

    def __init__(self, *, last: int, width: int) -> None:
        super().__init__()
        self.last, self.width = last, width
        self.weight = nn.Parameter(torch.zeros(last))

    def forward(self, texts: Tensor) -> Tensor:
        """For each row (B, L, E) what the texts of this row and of those before it ask for: (B, L, E)."""
        rows = texts.shape[1]
        before = F.pad(texts, (0, 0, self.last - 1, 0))
        return sum(
            (self.weight[k] * before[:, self.last - 1 - k :][:, :rows] for k in range(min(self.last, rows))),
            start=torch.zeros_like(texts),
        )

    def last_items(self, item: Tensor, events: Tensor) -> Tensor:
        """Of items (B, T), of which the first `events` (B,) columns are in use, the last N: (B, N), PAD before them."""
        column = events[:, None] + torch.arange(-self.last, 0, device=events.device)
        return item.gather(1, column.clamp(min=0)).masked_fill(column < 0, PAD)
