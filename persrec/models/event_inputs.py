"""Vectors of what an event carries, added to the vector of its item: HSTU's actions (arXiv 2402.17152, section 2).

Shapes: B users, L rows, F inputs, D width.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Encode = Callable[[Tensor], Tensor]


class EventInputs(nn.Module):
    """A learned vector per bucket of each input; they start at zero, as a model without inputs."""

    def __init__(self, sizes: Mapping[str, int], *, width: int) -> None:
        super().__init__()
        self.names = tuple(sizes)  # in the order of the buckets; a ParameterDict has an order of its own
        self.tables = nn.ParameterDict({name: nn.Parameter(torch.zeros(size, width)) for name, size in sizes.items()})

    def forward(self, buckets: Tensor) -> Tensor:
        """The sum (B, L, D) of the vectors of buckets (B, L, F)."""
        found = [F.embedding(buckets[..., place], self.tables[name]) for place, name in enumerate(self.names)]
        return torch.stack(found).sum(dim=0) * found[0].shape[-1] ** 0.5

    def beside(self, encode: Encode) -> Callable[..., Tensor]:
        """Item vectors, and with buckets what these add."""

        def both(items: Tensor, buckets: Tensor | None = None) -> Tensor:
            return encode(items) if buckets is None else encode(items) + self(buckets)

        return both
