"""The recurrent memory: K final outputs, which lead the rows of the next step and are overwritten there.

Shapes: B users, S events of a segment, R minimum of recent events, K tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models import memory as memories
from persrec.models.interfaces import Backbone, Chain, Memory, Rows
from persrec.models.keeper import Keeper
from persrec.models.rows import concatenate, token_rows
from persrec.models.segments import fold_visible


class Recurrent(Keeper):
    """A memory of a fixed size (Rec2PM): what tokens become, given the old memory and a segment.

    Its K rows stand in front of every step at time and position of the last folded event, causal among themselves.
    Write rules: `fresh`, the tokens are learned vectors; `residual`, they are these plus the normalised old slot (the
    path of RMT, arXiv 2207.06881); `gated`, residual, and the new slot is a learned mixture of old and output
    (Block-Recurrent Transformers, arXiv 2203.07852).
    """

    chains = False

    def __init__(self, *, tokens: int, width: int, write: str = "residual", **keeping: Any) -> None:
        super().__init__(**keeping)
        self.rows, self.write = tokens, write
        self.tokens = nn.Parameter(torch.empty(tokens, width).normal_(std=0.02))
        self.gate = nn.Linear(2 * width, width) if write == "gated" else None

    def start(self, users: int) -> Memory:
        """An empty memory (M = 0) of one plane."""
        return memories.empty(users, 1, self.tokens.shape[1], like=self.tokens, maker=self.maker)

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None, *, scored: bool = True
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold`."""
        tokens = token_rows(self.written(memory), segment)
        rows = concatenate([segment, tokens] if after is None else [segment, after, tokens])
        length, count = rows.x.shape[1], len(self.tokens)
        keep = torch.arange(length - count, length, device=rows.x.device)
        visible = None
        if after is not None:
            visible = fold_visible(segment.x.shape[1], after.x.shape[1], count, memory.rows, device=rows.x.device)
        asked = None if scored else keep.expand(len(rows.x), -1)
        hidden, kept = backbone.step(rows, memory, keep=keep, visible=visible, asked=asked)
        assert kept is not None
        events = memory.count + segment.valid.sum(dim=1)
        made = Memory(
            states=self.kept(self.mixed(memory, kept[:, -1]))[:, None],
            time=tokens.time,
            position=tokens.position,
            valid=tokens.valid,
            weight=(events / count).to(kept.dtype)[:, None].expand(-1, count),
            count=events,
            maker=memory.maker,
        )
        return hidden[:, : length - count], made

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
        """Not to be had: a fold needs the result of the one before; `chains` says so."""
        raise ValueError("a recurrent memory is folded segment by segment; got a chain, expected a call of fold")

    def written(self, memory: Memory) -> Tensor:
        """What the tokens are before the step: (K, D), or (B, K, D) with an old memory."""
        if self.write == "fresh" or not memory.rows:
            return self.tokens
        return self.tokens + self._old(memory)

    def mixed(self, memory: Memory, output: Tensor) -> Tensor:
        """The new rows (B, K, D) from the tokens' final outputs (B, K, D)."""
        if self.gate is None:
            return output
        new = F.normalize(output, dim=-1)
        if not memory.rows:
            return new
        old = self._old(memory)
        share = torch.sigmoid(self.gate(torch.cat([old, new], dim=-1))).to(old.dtype)
        return torch.where(memory.valid[:, :, None], torch.lerp(old, new, share), new)

    def _old(self, memory: Memory) -> Tensor:
        """The old rows (B, K, D) at length 1; zeros of a user who has none."""
        return F.normalize(memory.states[:, 0], dim=-1) * memory.valid[:, :, None]
