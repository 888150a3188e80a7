"""The memory of nothing: `recent`, the form against which the others are measured.

Shapes: B users, S events of a segment, R minimum of recent events, D width.
"""

import torch
from torch import Tensor, nn

from persrec.models import memory as memories
from persrec.models.interfaces import Backbone, Chain, Memory, Rows
from persrec.models.rows import concatenate


class Recent(nn.Module):
    """The compressor that remembers nothing: the same segments and clear events, an empty memory."""

    anchor: Tensor
    chains = True
    encoding = "float32"
    stored = 0

    def __init__(self, *, width: int, layers: int) -> None:
        super().__init__()
        self.layers, self.width, self.rows = layers, width, 0
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # device and dtype of the empty memory

    def start(self, users: int) -> Memory:
        """An empty memory."""
        return memories.empty(users, self.layers, self.width, like=self.anchor)

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None, *, scored: bool = True
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold`."""
        rows = segment if after is None else concatenate([segment, after])
        return backbone.step(rows)[0] if scored else rows.x, memory

    def fold_chain(
        self,
        backbone: Backbone,
        segment: Rows,
        memory: Memory,
        chain: Chain,
        after: Rows | None = None,
        *,
        scored: bool = True,
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold_chain`."""
        return self.fold(backbone, segment, memory, after, scored=scored)
