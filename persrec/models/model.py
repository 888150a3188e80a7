"""A whole model: item encoder, backbone, compressor and score, as training and serving use it.

Shapes: B users, L rows, N scored rows, D width, V items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.batches import Batch, History
from persrec.models.compressor import Looped, Score, T, loop
from persrec.models.interfaces import Backbone, Compressor, Memory
from persrec.models.item_encoders import IdTable
from persrec.models.segments import SegmentRule


class Model(nn.Module):
    """Everything that turns histories into queries and items into the vectors they are matched against."""

    backbone: Backbone  # a module too, as is the compressor
    compressor: Compressor

    def __init__(
        self,
        *,
        items: IdTable,
        backbone: Backbone,
        compressor: Compressor,
        rule: SegmentRule,
        cosine: bool,
        temperature: float,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        self.items, self.backbone, self.compressor = items, backbone, compressor
        self.rule, self.cosine, self.temperature = rule, cosine, temperature
        self.checkpointed = checkpointed

    def forward(self, batch: Batch, *, score: Score[T], reads_all: bool = False) -> Looped:
        """The loop over a batch; see `compressor.loop`."""
        return loop(
            self.backbone,
            self.compressor,
            self.items,
            batch,
            self.rule,
            score=score,
            reads_all=reads_all,
            checkpointed=self.checkpointed,
        )

    def query(self, hidden: Tensor) -> Tensor:
        """Queries (..., D) of hidden rows; normalised where the score is a cosine."""
        return F.normalize(hidden, dim=-1) if self.cosine else hidden

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """What queries are matched against: (V+1, D), or (..., D) of the given items."""
        table = self.items.table if items is None else F.embedding(items, self.items.table)
        return F.normalize(table, dim=-1) if self.cosine else table

    @torch.no_grad()
    def queries(self, batch: Batch) -> Tensor:
        """The query (B, D) of each user after the last event of the batch, as served: fold, then read."""
        return self.read_out(batch)[0]

    @torch.no_grad()
    def read_out(self, batch: Batch) -> tuple[Tensor, Memory]:
        """Queries (B, D) and the memories they were read on."""

        def last(hidden: Tensor, history: History) -> Tensor:
            index = history.valid.sum(dim=1) - 1  # an open block is right-padded
            return hidden[torch.arange(len(hidden), device=hidden.device), index]

        looped = self(batch, score=last)
        return self.query(looped.scored[-1]), looped.memory
