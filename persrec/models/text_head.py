"""The text head: what a candidate's text has in common with the texts of the user's last events.

Shapes: B users, L rows, n events that are compared, E width of the text model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.constants import PAD


class TextHead(nn.Module):
    """A second part of the query, in the space of the texts: sum over k of w_k * t_k, for the last n events.

    t_k is the unit vector of the text had k events before the last one, w_k is learned, the same for all users and
    items. Products with a candidate's t come on top of the product of query and item, so that an item that few have had
    is found by its likeness to what was just had, which the layers, taught by popular items, do not learn. Nothing is
    added at first. The weights are trained beside the layers, which learn as if there were no head
    (`training.objective`).
    """

    def __init__(self, *, last: int, width: int) -> None:
        super().__init__()
        self.last, self.width = last, width
        self.weight = nn.Parameter(torch.zeros(last))

    def forward(self, texts: Tensor) -> Tensor:
        """What texts (..., n, E), the newest one last, ask for: (..., E)."""
        return torch.einsum("...ne,n->...e", texts, self.weight.flip(0))

    def last_items(self, item: Tensor, events: Tensor) -> Tensor:
        """Of items (B, T), of which the first `events` (B,) columns are in use, the last n: (B, n), PAD before them."""
        column = events[:, None] + torch.arange(-self.last, 0, device=events.device)
        return item.gather(1, column.clamp(min=0)).masked_fill(column < 0, PAD)

    def items_before(self, item: Tensor, valid: Tensor) -> Tensor:
        """For each row of items (B, L) the item of this row and of those before it: (B, L, n), PAD before them."""
        return F.pad(item.where(valid, PAD), (self.last - 1, 0), value=PAD).unfold(1, self.last, 1)
