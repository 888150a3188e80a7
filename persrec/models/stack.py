"""What the backbones of ours share: layers behind the step, row blocks with masks and buckets, remembered rows.

Shapes: B users, L rows, K tokens, M remembered rows, C = M + L columns, N layers, H heads, E = D / H, D width.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models.attention import Buckets, position_bucket, time_bucket
from persrec.models.interfaces import Chain, Memory, Rows
from persrec.models.memory import put
from persrec.models.segments import causal


class RowBlock(NamedTuple):
    """A run of rows and what they may see: the memory and the first rows up to the run's own end."""

    rows: slice
    columns: int  # of the C columns, the first ones are in reach
    buckets: Buckets
    visible: Tensor  # (B, rows, columns) bool


class Stack(nn.Module):
    """N layers behind the step, each `layer(x, remembered, blocks, pick=, keep=, recompute=)`.

    `exact` is the distance in events up to which the position bias is exact (S + R). Causal rows are attended in
    blocks of `row_block` to twice as many, so that most of the invisible half of a long square is not computed;
    with `recompute` their scores are computed again in the backward pass instead of being kept.
    """

    chains = True

    def __init__(
        self, layers: Iterable[nn.Module], *, width: int, exact: int, timed: bool, row_block: int, recompute: bool
    ) -> None:
        super().__init__()
        self.stack = nn.ModuleList(layers)
        self.layers, self.width = len(self.stack), width
        self.exact, self.timed = exact, timed
        self.row_block, self.recompute = row_block, recompute

    def step(
        self,
        rows: Rows,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        visible: Tensor | None = None,
        chain: Chain | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Backbone.step`; the memory has N planes, of rows that are keys only, or one, of rows put in front."""
        if memory is None or memory.states.shape[1] == self.layers > 1:
            return self._through(rows, memory, self._blocks(rows, memory, visible, chain), chain, keep=keep, given=keep)
        if memory.states.shape[1] != 1:
            raise ValueError(
                f"the memory has {memory.states.shape[1]} planes, but this {type(self).__name__} has {self.layers} "
                "layers and reads one plane per layer, or one alone; fold the history with this model"
            )
        if chain is not None:
            raise ValueError("a memory of one plane is folded segment by segment, but a chain was given")
        count = memory.rows
        rows, visible = _behind(memory, rows, visible)
        leading = torch.arange(count, device=rows.x.device)
        after = None if keep is None else keep + count
        blocks = self._blocks(rows, None, visible, None, first=count)
        given = leading if after is None else torch.cat([leading, after])
        x, kept = self._through(rows, None, blocks, None, keep=after, given=given)
        return x[:, count:], kept

    def _through(
        self,
        rows: Rows,
        memory: Memory | None,
        blocks: list[RowBlock],
        chain: Chain | None,
        *,
        keep: Tensor | None,
        given: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Rows through all layers, and what is kept of rows `keep`; rows `given` are tokens or made of them."""
        x = rows.x
        pick = None if chain is None else (chain.user[:, None], chain.window)
        kept: list[Tensor] = []
        for index, layer in enumerate(self.stack):
            if keep is not None:
                kept.append(x[:, keep])
            remembered = None if memory is None else memory.states[:, index]
            if chain is not None and remembered is not None:
                written = put(chain, kept[-1]).flatten(1, 2)  # (B, G * K, D)
                remembered = torch.cat([remembered[:, : remembered.shape[1] - written.shape[1]], written], dim=1)
            x = layer(x, remembered, blocks, pick=pick, keep=given, recompute=self.recompute)
        if keep is None:
            return x, None
        return x, torch.stack([*kept, x[:, keep]], dim=1)

    def _blocks(
        self, rows: Rows, memory: Memory | None, visible: Tensor | None, chain: Chain | None, *, first: int = 0
    ) -> list[RowBlock]:
        """The row blocks of a step, with buckets and masks; row `first` is the first one that is no memory."""
        length = rows.x.shape[1]
        position, time, valid = rows.position, rows.time, rows.valid
        remembered = 0
        if memory is not None:
            old = memory.position, memory.time, memory.valid
            if chain is not None:
                here = chain.user[:, None], chain.window
                old = memory.position[here], memory.time[here], memory.valid[here] & chain.reach
            remembered = old[0].shape[1]
            position = torch.cat([old[0], position], dim=1)  # (B, C)
            time = torch.cat([old[1], time], dim=1)
            valid = torch.cat([old[2], valid], dim=1)
        position = _shared(position - position[:, remembered + first, None], valid)
        size = -(-length // max(1, length // self.row_block))
        blocks = []
        for start in range(0, length, size):
            own = slice(start, min(start + size, length))
            reach = remembered + own.stop
            distance = position[:, remembered + start : reach, None] - position[:, None, :reach]
            gap = rows.query_time[:, own, None] - time[:, None, :reach] if self.timed else None
            buckets = Buckets(position_bucket(distance, self.exact), None if gap is None else time_bucket(gap))
            seen = causal(own.stop - start, remembered + start, device=rows.x.device)[None] & valid[:, None, :reach]
            blocks.append(RowBlock(own, reach, buckets, seen if visible is None else seen & visible[:, own, :reach]))
        return blocks


def _behind(memory: Memory, rows: Rows, visible: Tensor | None) -> tuple[Rows, Tensor | None]:
    """A memory of one plane as ordinary rows in front: rows (B, M+L), visible (B or 1, M+L, M+L)."""
    front = Rows(memory.states[:, 0], memory.time, memory.time, memory.position, memory.valid)
    together = Rows(*(torch.cat(pair, dim=1) for pair in zip(front, rows, strict=True)))
    if visible is None:
        return together, None
    among = causal(memory.rows, 0, device=visible.device)[None].expand(len(visible), -1, -1)
    return together, torch.cat([F.pad(among, (0, rows.x.shape[1])), visible], dim=1)


def _shared(position: Tensor, valid: Tensor) -> Tensor:
    """Relative positions (B, C), or (1, C) where they are the same for all users wherever these have valid columns."""
    if torch.compiler.is_compiling():  # a program that is exported does not depend on the values of one batch
        return position
    fullest = valid.sum(dim=1).argmax()
    one = position[fullest, None]
    return one if bool(((position == one) | ~valid).all()) else position


def with_remembered(old: Tensor, new: Tensor, pick: tuple[Tensor, Tensor] | None) -> Tensor:
    """Remembered rows (B, M, D) in front of new ones: (B, C, D).

    With `pick`, users (E, 1) and rows (E, W) of a memory, entry e of the new rows gets these of the remembered ones.
    """
    if pick is not None:
        users, rows = pick
        flat = (users * old.shape[1] + rows).flatten()
        old = old.flatten(0, 1).index_select(0, flat).unflatten(0, rows.shape)  # as indexing, with a faster gradient
    return torch.cat([old, new], dim=1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) to (B, H, L, E)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def norm(x: Tensor) -> Tensor:
    """Each row with mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
