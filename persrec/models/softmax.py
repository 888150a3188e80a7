"""Softmax backbones behind the step: SASRec (arXiv 1808.09781) and LiGR (arXiv 2502.03417) layers.

Relative position and time biases are those of HSTU; there is no table of absolute positions. Softmax attention is a
mean, so that remembered rows, be they ever so alike, cannot add up and drown the others: they need no gain.

Shapes: B users, L rows, M remembered rows, C = M + L columns, H heads, E = D / H, D width.
"""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models.attention import TIME_BUCKETS, competing_softmax, counted, position_buckets, softmax_attention
from persrec.models.rows import rows_at
from persrec.models.stack import Competing, RowBlock, Stack, attended, norm, projected, split_heads, with_remembered


class SoftmaxAttention(nn.Module):
    """Multi-head softmax attention of normed rows over remembered and own ones, with relative biases.

    After `split` token rows have queries, keys and values of their own maps. With `count_weight` the logits of
    remembered rows grow by the logarithm of the events behind them, times a learned power per head that starts at 1:
    a row that stands for n events then counts as n of them (as of merged tokens in arXiv 2210.09461).
    """

    def __init__(self, *, width: int, heads: int, exact: int, timed: bool, count_weight: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.inner = nn.Linear(width, 3 * width)  # queries, keys, values
        self.outer = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.empty(heads, position_buckets(exact)).normal_(std=0.02))
        self.time_bias = nn.Parameter(torch.empty(heads, TIME_BUCKETS).normal_(std=0.02)) if timed else None
        self.count_power = nn.Parameter(torch.ones(heads)) if count_weight else None
        self.token_inner: nn.Linear | None = None

    def split(self) -> None:
        """Give token rows maps of their own, which start as those of the others."""
        self.token_inner = deepcopy(self.inner)

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
        """Attended rows (B, L, D); see `HSTULayer.forward` for the other arguments."""
        query, key, value = projected(x, self.inner, self.token_inner, keep).chunk(3, dim=-1)  # each (B, L, D)
        if asked is not None:
            query = rows_at(query, asked)
        if remembered is not None and remembered.shape[1]:
            width = x.shape[-1]
            inner = self.inner if self.token_inner is None else self.token_inner
            old = F.linear(remembered, inner.weight[width:], inner.bias[width:])
            old_key, old_value = old.chunk(2, dim=-1)  # each (B, M, D)
            key, value = with_remembered(old_key, key, pick), with_remembered(old_value, value, pick)
        query, key, value = (split_heads(part, self.heads) for part in (query, key, value))  # (B, H, L or C, E)
        if self.count_power is not None and weight is not None:
            query, key = counted(query, key, self.count_power, weight)
        joined = attended(
            query,
            key,
            value,
            (self.position_bias, self.time_bias),
            blocks,
            competing,
            attend=partial(softmax_attention, recompute=recompute),
            compete=competing_softmax,
        )  # (B, L, D)
        return self.outer(joined)


class SASRecLayer(nn.Module):
    """y = x + attention(norm x), then y + W2 relu(W1 norm(y)), with dropout of what is added."""

    def __init__(self, *, width: int, dropout: float, own_projections: bool = False, **attention: Any) -> None:
        super().__init__()
        self.attention = SoftmaxAttention(width=width, **attention)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        _reset(self)
        if own_projections:
            self.attention.split()

    def forward(
        self,
        x: Tensor,
        remembered: Tensor | None,
        blocks: list[RowBlock],
        *,
        asked: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Rows (B, L, D) after this layer, given the memory's rows (B, M, D) at its input; options are the
        attention's."""
        old = None if remembered is None else norm(remembered)
        attended = self.attention(norm(x), old, blocks, asked=asked, **options)
        x = (x if asked is None else rows_at(x, asked)) + self.dropout(attended)
        return x + self.dropout(self.outer(self.dropout(F.relu(self.inner(norm(x))))))


class LiGRLayer(nn.Module):
    """y = x + sigmoid(x G) * attention(norm x), and the same around a SwiGLU feed-forward of four times the width.

    Gated residuals: LiGR, arXiv 2502.03417; as the layers of eSASRec: arXiv 2508.06450.
    """

    def __init__(self, *, width: int, dropout: float, own_projections: bool = False, **attention: Any) -> None:
        super().__init__()
        self.attention = SoftmaxAttention(width=width, **attention)
        self.attention_gate, self.forward_gate = nn.Linear(width, width), nn.Linear(width, width)
        self.inner = nn.Linear(width, 8 * width, bias=False)  # SwiGLU's two factors
        self.outer = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        _reset(self)
        if own_projections:
            self.attention.split()

    def forward(
        self,
        x: Tensor,
        remembered: Tensor | None,
        blocks: list[RowBlock],
        *,
        asked: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """See `SASRecLayer`."""
        old = None if remembered is None else norm(remembered)
        attended = self.attention(norm(x), old, blocks, asked=asked, **options)
        x = x if asked is None else rows_at(x, asked)
        x = x + torch.sigmoid(self.attention_gate(x)) * self.dropout(attended)
        one, other = self.inner(norm(x)).chunk(2, dim=-1)  # each (B, L, 4 D)
        return x + torch.sigmoid(self.forward_gate(x)) * self.dropout(self.outer(self.dropout(F.silu(one) * other)))


def _reset(layer: nn.Module) -> None:
    """Fresh weights of its linear maps."""
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


SOFTMAX_LAYERS: dict[str, type[SASRecLayer | LiGRLayer]] = {"sasrec": SASRecLayer, "ligr": LiGRLayer}


class Softmax(Stack):
    """N softmax layers of a kind, `sasrec` or `ligr`, behind the step; see `Stack` for the other arguments."""

    def __init__(
        self,
        kind: str,
        *,
        width: int,
        layers: int,
        heads: int,
        exact: int,
        timed: bool,
        dropout: float,
        row_block: int = 64,
        recompute: bool = False,
        compete: bool = False,
        own_projections: bool = False,
        count_weight: bool = False,
    ) -> None:
        sizes: dict[str, Any] = {"width": width, "heads": heads, "exact": exact, "timed": timed, "dropout": dropout}
        sizes |= {"own_projections": own_projections, "count_weight": count_weight}
        stack = [SOFTMAX_LAYERS[kind](**sizes) for _ in range(layers)]
        options = {"recompute": recompute, "compete": compete, "count_weight": count_weight}
        super().__init__(stack, width=width, exact=exact, timed=timed, row_block=row_block, **options)
