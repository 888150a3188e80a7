"""HSTU: a stack of gated pointwise-attention layers that reads rows on top of a memory (arXiv 2402.17152).

Shapes: B users, L rows, K tokens, M remembered rows, C = M + L columns, H heads, E = D / H, D width.
"""

from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models.attention import TIME_BUCKETS, competing_pointwise, pointwise_attention, position_buckets
from persrec.models.rows import rows_at
from persrec.models.stack import Competing, RowBlock, Stack, attended, norm, projected, split_heads, with_remembered


class HSTULayer(nn.Module):
    """One layer: y = x + W2(norm(attention(q, k, v)) * u) with u, v, q, k = silu(W1 norm(x)); equations 1 to 3.

    Values of token rows, remembered or not, are scaled by a learned gain per head. HSTU's attention is a sum, not a
    mean: rows that are nearly the same vector add up in step, while the values of events do not, and drown them.
    With `own_projections` W1 is another one for token rows; with `count_weight` values of remembered rows are scaled by
    the events behind them, to a learned power per head that starts at 1.
    """

    divisor: Tensor

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        exact: int,
        timed: bool,
        dropout: float,
        divisor: float,
        token_gain: float,
        own_projections: bool = False,
        count_weight: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.empty(heads, position_buckets(exact)))
        self.time_bias = nn.Parameter(torch.empty(heads, TIME_BUCKETS)) if timed else None
        self.token_gain = nn.Parameter(torch.full((heads,), token_gain))
        self.dropout = nn.Dropout(dropout)
        self.count_power = nn.Parameter(torch.ones(heads)) if count_weight else None
        self.register_buffer("divisor", torch.tensor(float(divisor)))
        self.reset_parameters()
        self.token_inner = deepcopy(self.inner) if own_projections else None

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
        competing: Competing | None = None,
        weight: Tensor | None = None,
        recompute: bool = False,
        asked: Tensor | None = None,
    ) -> Tensor:
        """Rows (B, L, D) after this layer, given the memory's rows (B, M, D) at its input; or those alone that are
        `asked` for (B, A), which the blocks then are of.

        `pick` is that of `with_remembered`; `keep` (K,) are the token rows, and `competing` those of them that compete;
        `weight` (B, C) is the logarithm of the events behind each column.
        """
        every = F.silu(projected(norm(x), self.inner, self.token_inner, keep))
        gate, value, query, key = every.chunk(4, dim=-1)  # each (B, L, D)
        gain = self.token_gain.repeat_interleave(x.shape[-1] // self.heads)  # (D,)
        if keep is not None:
            value = value.index_copy(1, keep, (value[:, keep] * gain).to(value.dtype))
        if asked is not None:
            x, gate, query = (rows_at(each, asked) for each in (x, gate, query))
        if remembered is not None and remembered.shape[1]:
            old_value, old_key = self._value_key(remembered)
            value, key = with_remembered(old_value * gain, value, pick), with_remembered(old_key, key, pick)
        query, key, value = (split_heads(part, self.heads) for part in (query, key, value))  # (B, H, L or C, E)
        if self.count_power is not None and weight is not None:
            power = self.count_power[:, None, None] * weight[:, None, :, None]  # (B, H, C, 1)
            value = value * power.exp().to(value.dtype)
        joined = attended(
            query,
            key,
            value,
            (self.position_bias, self.time_bias),
            blocks,
            competing,
            attend=partial(pointwise_attention, divisor=self.divisor, recompute=recompute),
            compete=partial(competing_pointwise, divisor=self.divisor),
        )  # (B, L, D)
        return x + self.outer(self.dropout(norm(joined) * gate))

    def _value_key(self, remembered: Tensor) -> tuple[Tensor, Tensor]:
        """Values and keys of remembered rows, each (B, M, D)."""
        inner = self.inner if self.token_inner is None else self.token_inner
        _, value, _, key = inner.weight.split(remembered.shape[-1])
        normed = norm(remembered)
        return F.silu(F.linear(normed, value)), F.silu(F.linear(normed, key))


class HSTU(Stack):
    """N layers of HSTU behind the step; see `Stack` for `exact`, `row_block` and `recompute`.

    In a layered memory without means layer 1 is given the same tokens for everybody, from which nothing can be read:
    its token gain starts at `first_gain` = 0, that of the other layers at 1. Others are read in layer 1 as well.
    """

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
        first_gain: float = 0.0,
        row_block: int = 64,
        recompute: bool = False,
        compete: bool = False,
        own_projections: bool = False,
        count_weight: bool = False,
    ) -> None:
        stack = [
            HSTULayer(
                width=width,
                heads=heads,
                exact=exact,
                timed=timed,
                dropout=dropout,
                divisor=divisor,
                token_gain=1.0 if layer else first_gain,
                own_projections=own_projections,
                count_weight=count_weight,
            )
            for layer in range(layers)
        ]
        options = {"recompute": recompute, "compete": compete, "count_weight": count_weight}
        super().__init__(stack, width=width, exact=exact, timed=timed, row_block=row_block, **options)
