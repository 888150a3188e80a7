"""HSTU: a stack of gated pointwise-attention layers that reads rows on top of a memory (arXiv 2402.17152).

Shapes: B users, L rows, K tokens, M remembered rows, C = M + L columns, N layers, H heads, E = D / H, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models.attention import (
    TIME_BUCKETS,
    Buckets,
    pointwise_attention,
    position_bucket,
    position_buckets,
    time_bucket,
)
from persrec.models.interfaces import Chain, Memory, Rows
from persrec.models.memory import put
from persrec.models.segments import causal


class RowBlock(NamedTuple):
    """A run of rows and what they may see: the memory and the first rows up to the run's own end."""

    rows: slice
    columns: int  # of the C columns, the first ones are in reach
    buckets: Buckets
    visible: Tensor  # (B, rows, columns) bool


class HSTULayer(nn.Module):
    """One layer: y = x + W2(norm(attention(q, k, v)) * u) with u, v, q, k = silu(W1 norm(x)); equations 1 to 3.

    Values of token rows, remembered or not, are scaled by a learned gain per head. HSTU's attention is a sum, not a
    mean: rows that are nearly the same vector add up in step, while the values of events do not, and drown them.
    """

    divisor: Tensor

    def __init__(
        self, *, width: int, heads: int, exact: int, timed: bool, dropout: float, divisor: float, token_gain: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.empty(heads, position_buckets(exact)))
        self.time_bias = nn.Parameter(torch.empty(heads, TIME_BUCKETS)) if timed else None
        self.token_gain = nn.Parameter(torch.full((heads,), token_gain))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("divisor", torch.tensor(float(divisor)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights."""
        nn.init.normal_(self.inner.weight, std=0.02)
        nn.init.xavier_uniform_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        for table in (self.position_bias, self.time_bias):
            if table is not None:
                nn.init.normal_(table, std=0.02)

    def forward(
        self,
        x: Tensor,
        remembered: Tensor | None,
        blocks: list[RowBlock],
        *,
        pick: tuple[Tensor, Tensor] | None = None,
        keep: Tensor | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Rows (B, L, D) after this layer, given the memory's rows (B, M, D) at its input.

        With `pick`, users (E, 1) and rows (E, W) of a memory, entry e of the rows reads these of the remembered ones.
        `keep` (K,) are the token rows.
        """
        gate, value, query, key = F.silu(self.inner(_norm(x))).chunk(4, dim=-1)  # each (B, L, D)
        gain = self.token_gain.repeat_interleave(x.shape[-1] // self.heads)  # (D,)
        if keep is not None:
            value = value.index_copy(1, keep, value[:, keep] * gain)
        if remembered is not None and remembered.shape[1]:
            old_value, old_key = self._value_key(remembered)
            old_value = old_value * gain
            if pick is not None:
                old_value, old_key = _picked(old_value, *pick), _picked(old_key, *pick)  # (E, W, D)
            value, key = torch.cat([old_value, value], dim=1), torch.cat([old_key, key], dim=1)
        query, key, value = self._split(query), self._split(key), self._split(value)  # (B, H, L or C, E)
        attended = [
            pointwise_attention(
                query[:, :, block.rows],
                key[:, :, : block.columns],
                value[:, :, : block.columns],
                position_table=self.position_bias,
                time_table=self.time_bias,
                buckets=block.buckets,
                visible=block.visible,
                divisor=self.divisor,
                recompute=recompute,
            )
            for block in blocks
        ]
        joined = torch.cat(attended, dim=2) if len(attended) > 1 else attended[0]
        joined = joined.transpose(1, 2).flatten(2)  # (B, L, D)
        return x + self.outer(self.dropout(_norm(joined) * gate))

    def _value_key(self, remembered: Tensor) -> tuple[Tensor, Tensor]:
        """Values and keys of remembered rows, each (B, M, D)."""
        width = remembered.shape[-1]
        _, value, _, key = self.inner.weight.split(width)
        normed = _norm(remembered)
        return F.silu(F.linear(normed, value)), F.silu(F.linear(normed, key))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, E)


class HSTU(nn.Module):
    """N layers of HSTU behind the step.

    `exact` is the distance in events up to which the position bias is exact (S + R). Causal rows are attended in
    blocks of `row_block` to twice as many, so that most of the invisible half of a long square is not computed;
    with `recompute` their scores are computed again in the backward pass instead of being kept. Layer 1 is given
    the same tokens for everybody, from which nothing can be read: its token gain starts at 0, that of the other
    layers at 1.
    """

    chains = True

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        exact: int,
        timed: bool,
        dropout: float,
        divisor: float,
        row_block: int = 64,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.layers, self.width = layers, width
        self.exact, self.timed = exact, timed
        self.row_block, self.recompute = row_block, recompute
        self.stack = nn.ModuleList(
            HSTULayer(
                width=width,
                heads=heads,
                exact=exact,
                timed=timed,
                dropout=dropout,
                divisor=divisor,
                token_gain=float(layer > 0),
            )
            for layer in range(layers)
        )

    def step(
        self,
        rows: Rows,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        visible: Tensor | None = None,
        chain: Chain | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Backbone.step`; the memory must have N planes (layered)."""
        if memory is not None and memory.states.shape[1] != self.layers:
            raise ValueError(
                f"the memory has {memory.states.shape[1]} planes, but this HSTU has {self.layers} layers and reads one "
                "plane per layer; fold the history with this model"
            )
        x = rows.x
        pick = None if chain is None else (chain.user[:, None], chain.window)
        blocks = self._blocks(rows, memory, visible, chain)
        kept: list[Tensor] = []
        for index, layer in enumerate(self.stack):
            if keep is not None:
                kept.append(x[:, keep])
            remembered = None if memory is None else memory.states[:, index]
            if chain is not None and remembered is not None:
                written = put(chain, kept[-1]).flatten(1, 2)  # (B, G * K, D)
                remembered = torch.cat([remembered[:, : remembered.shape[1] - written.shape[1]], written], dim=1)
            x = layer(x, remembered, blocks, pick=pick, keep=keep, recompute=self.recompute)
        if keep is None:
            return x, None
        return x, torch.stack([*kept, x[:, keep]], dim=1)

    def _blocks(self, rows: Rows, memory: Memory | None, visible: Tensor | None, chain: Chain | None) -> list[RowBlock]:
        """The row blocks of a step, with buckets and masks."""
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
        position = _shared(position - position[:, remembered, None], valid)
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


def _shared(position: Tensor, valid: Tensor) -> Tensor:
    """Relative positions (B, C), or (1, C) where they are the same for all users wherever these have valid columns."""
    fullest = valid.sum(dim=1).argmax()
    one = position[fullest, None]
    return one if bool(((position == one) | ~valid).all()) else position


def _picked(remembered: Tensor, users: Tensor, rows: Tensor) -> Tensor:
    """Rows (E, W) of users (E, 1) out of (B, M, D): (E, W, D); the same as indexing, with a faster gradient."""
    flat = (users * remembered.shape[1] + rows).flatten()
    return remembered.flatten(0, 1).index_select(0, flat).unflatten(0, rows.shape)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
