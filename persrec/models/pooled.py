"""Memories that pool item vectors without asking the backbone: what a learned one has to beat at equal bytes.

All have one plane, whose rows lead a step as ordinary rows. Shapes: B users, S events of a segment, K and M rows, D
width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models import memory as memories
from persrec.models.interfaces import Backbone, Chain, Memory, Rows
from persrec.models.keeper import Keeper
from persrec.models.rows import concatenate


class Pooled(Keeper):
    """A fold that reads the segment on the memory, and `pooled`, which says what becomes of the memory."""

    chains = False

    def __init__(self, *, tokens: int, width: int, **keeping: Any) -> None:
        super().__init__(**keeping)
        self.rows, self.width = tokens, width
        self.scale = nn.Parameter(torch.ones(()))  # of all rows; says as well where and in which type memories are

    def start(self, users: int) -> Memory:
        """An empty memory (M = 0) of one plane."""
        return memories.empty(users, 1, self.width, like=self.scale, maker=self.maker)

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None, *, scored: bool = True
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold`."""
        rows = segment if after is None else concatenate([segment, after])
        hidden = backbone.step(rows, memory)[0] if scored else rows.x
        return hidden, self.pooled(segment, memory)

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
        raise ValueError("a pooled memory is folded segment by segment; got a chain, expected a call of fold")

    def pooled(self, segment: Rows, memory: Memory) -> Memory:
        """The memory with a segment in it."""
        raise NotImplementedError

    def _made(self, states: Tensor, weight: Tensor, segment: Rows, memory: Memory) -> Memory:
        """Rows (B, M, D) at time and position of the segment's last event; all exist."""
        count = states.shape[1]
        return Memory(
            states=self.kept(states)[:, None],
            time=segment.time[:, -1:].expand(-1, count),
            position=segment.position[:, -1:].expand(-1, count),
            valid=segment.valid[:, -1:].expand(-1, count),
            weight=weight,
            count=memory.count + segment.valid.sum(dim=1),
            maker=memory.maker,
        )


class DecayedMean(Pooled):
    """K means of all item vectors, each with a half-life of its own, learned, in which an event comes to count half.

    They start at 2**5, 2**6, ... events. `weight` is the sum of the decayed ones behind each mean.
    """

    def __init__(self, *, tokens: int, width: int, **keeping: Any) -> None:
        super().__init__(tokens=tokens, width=width, **keeping)
        self.log_half_life = nn.Parameter(math.log(2.0) * (5 + torch.arange(tokens, dtype=torch.float32)))

    def pooled(self, segment: Rows, memory: Memory) -> Memory:
        """New mean = (decayed old sum + decayed new sum) / (decayed old weight + new weight)."""
        rate = math.log(2.0) / self.log_half_life.exp()  # (K,)
        length = segment.x.shape[1]
        ago = torch.arange(length - 1, -1, -1, device=rate.device)  # of the segment's events, at its end
        share = torch.exp(-rate[:, None] * ago) * segment.valid[:, None]  # (B, K, S)
        weight, total = share.sum(dim=2), share.to(segment.x.dtype) @ segment.x
        if memory.rows:
            left = memory.weight * torch.exp(-rate * length)
            weight, total = weight + left, total + memory.states[:, 0] * left[:, :, None] / self.scale
        return self._made(self.scale * total / weight[:, :, None], weight, segment, memory)


class SegmentMean(Pooled):
    """One row per segment, the mean of its item vectors; with `cap` of the newest segments only."""

    def __init__(self, *, width: int, cap: int | None = None, **keeping: Any) -> None:
        super().__init__(tokens=1, width=width, **keeping)
        self.cap = cap

    def pooled(self, segment: Rows, memory: Memory) -> Memory:
        """The memory and one row more."""
        events = segment.valid.sum(dim=1, keepdim=True).to(segment.x.dtype)
        mean = (segment.x * segment.valid[:, :, None]).sum(dim=1, keepdim=True) / events[:, :, None]
        nothing = memories.empty(len(events), 1, self.width, like=segment.x)
        grown = memories.append(memory, self._made(self.scale * mean, events, segment, nothing))
        return grown if self.cap is None else memories.newest(grown, self.cap)


class MergedNeighbours(Pooled):
    """At most K rows: events enter as they are, then the two neighbours that are most alike become one, until K are
    left (merging in time, as of frames in arXiv 2307.16449)."""

    def pooled(self, segment: Rows, memory: Memory) -> Memory:
        """The memory, the segment's events behind it, and merges until at most K rows are left."""
        events = Memory(
            states=(self.scale * segment.x)[:, None],
            time=segment.time,
            position=segment.position,
            valid=segment.valid,
            weight=segment.valid.to(segment.x.dtype),
            count=segment.valid.sum(dim=1),
        )
        grown = memories.append(memory, events)
        while grown.rows > self.rows:
            grown = _without_one(grown)
        return Memory(**{**vars(grown), "states": self.kept(grown.states)})


def _without_one(memory: Memory) -> Memory:
    """One row fewer for each user: an invalid one, or the two most similar neighbours as one."""
    states, valid = memory.states[:, 0], memory.valid
    alike = F.cosine_similarity(states[:, :-1], states[:, 1:], dim=-1).detach()
    alike = alike.masked_fill(~valid[:, :-1], 2.0)  # one that does not exist goes first
    first = alike.argmax(dim=1)  # (B,) merges with the next one
    column = torch.arange(memory.rows - 1, device=first.device)[None]
    source = column + (column > first[:, None])  # the row that stands there afterwards
    here = column == first[:, None]  # (B, M-1)

    def stays(field: Tensor) -> Tensor:
        return field.gather(1, source)

    def following(field: Tensor) -> Tensor:
        return field.gather(1, (source + 1).clamp(max=memory.rows - 1))

    weight, other = stays(memory.weight), following(memory.weight) * here
    share = (other / (weight + other).clamp(min=torch.finfo(weight.dtype).tiny))[:, :, None]
    wide = source[:, :, None].expand(-1, -1, states.shape[-1])
    after = (source + 1).clamp(max=memory.rows - 1)[:, :, None].expand_as(wide)
    mixed = torch.lerp(states.gather(1, wide), states.gather(1, after), share)
    return Memory(
        states=mixed[:, None],
        time=torch.where(here, following(memory.time), stays(memory.time)),
        position=torch.where(here, following(memory.position), stays(memory.position)),
        valid=torch.where(here, following(valid), stays(valid)),
        weight=weight + other,
        count=memory.count,
        maker=memory.maker,
    )


class Prototypes(Pooled):
    """K means of item vectors, an event counting for each by a softmax over K learned prototypes (SequenceO1).

    `weight` is the sum of these shares.
    """

    def __init__(self, *, tokens: int, width: int, **keeping: Any) -> None:
        super().__init__(tokens=tokens, width=width, **keeping)
        self.prototypes = nn.Parameter(torch.empty(tokens, width).normal_())
        self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def pooled(self, segment: Rows, memory: Memory) -> Memory:
        """New mean = (old sum + sum by shares) / (old weight + shares)."""
        alike = F.normalize(segment.x, dim=-1) @ F.normalize(self.prototypes, dim=-1).T  # (B, S, K)
        share = (alike * self.sharpness.exp()).softmax(dim=-1) * segment.valid[:, :, None]
        weight, total = share.sum(dim=1), share.transpose(1, 2) @ segment.x
        if memory.rows:
            weight = weight + memory.weight
            total = total + memory.states[:, 0] * memory.weight[:, :, None] / self.scale
        weight = weight.clamp(min=torch.finfo(weight.dtype).tiny)
        return self._made(self.scale * total / weight[:, :, None], weight, segment, memory)
