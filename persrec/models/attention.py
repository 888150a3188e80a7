"""Pointwise SiLU attention and softmax attention with relative biases, and the buckets of the biases.

Shapes: B users, H heads, L rows (queries), C columns (keys: M remembered rows, then the L rows), E width of a head,
P position buckets, T time buckets. `visible` is bool, True = row may attend to column.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TIME_BUCKETS = 80
LOG_SPAN = 32  # position buckets beyond the exact ones
LOG_STEPS = 4  # of them per doubling of the distance
TIME_BASE = 0.301  # HSTU's bucketing of time: floor(ln(seconds) / 0.301)


class Buckets(NamedTuple):
    """Bucket of each pair of row and column; built once per step, shared by all layers and heads."""

    position: Tensor  # (b, L, C) int32, b = 1 when all users' rows stand at the same distances
    time: Tensor | None  # (B, L, C) int32, or None without a time signal


class Bias(NamedTuple):
    """What is added to the score of each pair of row and column: of each head, a learned number for its buckets."""

    buckets: Buckets
    position: Tensor  # (H, P)
    time: Tensor | None  # (H, T), or None without a time signal

    def added_to(self, scores: Tensor) -> Tensor:
        """The scores (B, H, L, C), in place."""
        scores += _lookup(self.position.to(scores.dtype), self.buckets.position)
        if self.time is not None and self.buckets.time is not None:
            scores += _lookup(self.time.to(scores.dtype), self.buckets.time)
        return scores

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Those of the two tables, from that of the scores (B, H, L, C)."""
        by_position = _table_gradient(grad, self.buckets.position, self.position)
        if self.time is None or self.buckets.time is None:
            return by_position, None
        return by_position, _table_gradient(grad, self.buckets.time, self.time)


def position_bucket(distance: Tensor, exact: int) -> Tensor:
    """Bucket of a distance in events: itself below `exact`, logarithmic beyond, the last one open; int32."""
    far = distance.clamp(min=exact).to(torch.float32).div_(exact).log2_().mul_(LOG_STEPS).to(torch.int32)
    return torch.where(distance < exact, distance.clamp(min=0).to(torch.int32), far.clamp(max=LOG_SPAN - 1) + exact)


def time_bucket(gap: Tensor) -> Tensor:
    """Bucket of a gap in ms: 0 below one second, then 1 + floor(ln(seconds) / 0.301), the last one open; int32."""
    seconds = gap.to(torch.float32).mul_(1e-3)
    bucket = seconds.clamp(min=1.0).log_().div_(TIME_BASE).to(torch.int32).add_(1)
    return bucket.masked_fill_(seconds < 1.0, 0).clamp_(max=TIME_BUCKETS - 1)


def position_buckets(exact: int) -> int:
    """Size P of a position table."""
    return exact + LOG_SPAN


def position_table(table: Tensor, exact: int) -> Tensor:
    """A table (H, P) for other exact distances: (H, position_buckets(exact)), with what it had for the same distances.

    Of a logarithmic bucket that is what stood at its middle.
    """
    middle = exact * 2 ** ((torch.arange(LOG_SPAN) + 0.5) / LOG_STEPS)
    distance = torch.cat([torch.arange(exact), middle.round().long()])
    return table[:, position_bucket(distance, table.shape[1] - LOG_SPAN).long()]


class _PointwiseAttention(torch.autograd.Function):
    """silu(q k^T + bias) v / divisor over the visible pairs, with a hand-written gradient.

    HSTU (arXiv 2402.17152), equation 2. Autograd alone would keep six (B, H, L, C) tensors; this keeps one, or none
    with `recompute`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Tensor,
        time: Tensor | None,
        buckets: Buckets,
        visible: Tensor,
        divisor: Tensor,
        recompute: bool,
    ) -> Tensor:
        scores = Bias(buckets, position, time).added_to(q @ k.transpose(-1, -2))
        weights = F.silu(scores, inplace=recompute).mul_(_scale(visible, divisor, scores))
        kept = None if recompute else scores
        ctx.save_for_backward(q, k, v, visible, divisor, kept, position, time, *buckets)
        return weights @ v  # (B, H, L, E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, visible, divisor, scores, *tables, by_position, by_time = ctx.saved_tensors
        bias = Bias(Buckets(by_position, by_time), *tables)
        if scores is None:
            scores = bias.added_to(q @ k.transpose(-1, -2))
        scale = _scale(visible, divisor, scores)
        weights = F.silu(scores).mul_(scale)
        grad_v = weights.transpose(-1, -2) @ grad
        grad_weights = torch.matmul(grad, v.transpose(-1, -2), out=weights)
        grad_scores = torch.ops.aten.silu_backward(grad_weights.mul_(scale), scores)
        grad_q, grad_k = grad_scores @ k, grad_scores.transpose(-1, -2) @ q
        return grad_q, grad_k, grad_v, *bias.gradients(grad_scores), *[None] * 4


def _scale(visible: Tensor, divisor: Tensor, like: Tensor) -> Tensor:
    """What each pair's weight is multiplied by, (B or 1, 1, L, C): 1 / divisor, or 0 where it is not visible."""
    return visible[:, None].to(like.dtype).div_(divisor)


def _lookup(table: Tensor, bucket: Tensor) -> Tensor:
    """Entries of a (H, P) table at (b, L, C) buckets: (b, H, L, C)."""
    return table.index_select(1, bucket.reshape(-1)).view(-1, *bucket.shape).transpose(0, 1)


def _table_gradient(grad: Tensor, bucket: Tensor, table: Tensor) -> Tensor:
    """Sum of (B, H, L, C) gradients per bucket: (H, P)."""
    if bucket.shape[0] == 1:
        grad = grad.sum(dim=0, keepdim=True, dtype=table.dtype)
    flat = bucket.reshape(-1)
    parts = (part.reshape(-1).to(table.dtype) for part in grad.unbind(dim=1))
    return torch.stack([torch.bincount(flat, weights=part, minlength=table.shape[1]) for part in parts])


def _of_one_type(*parts: Tensor) -> list[Tensor]:
    """Queries, keys and values in the type of the autocast around, if there is one: products want them alike."""
    kind = parts[0].device.type
    return [part.to(torch.get_autocast_dtype(kind)) for part in parts] if torch.is_autocast_enabled(kind) else [*parts]


def pointwise_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias,
    visible: Tensor,
    divisor: Tensor,
    recompute: bool = False,
) -> Tensor:
    """Attended values (B, H, L, E) of queries (B, H, L, E) over keys and values (B, H, C, E)."""
    q, k, v = _of_one_type(q, k, v)
    with torch.autocast(q.device.type, enabled=False):
        return _PointwiseAttention.apply(q, k, v, bias.position, bias.time, bias.buckets, visible, divisor, recompute)


class _SoftmaxAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(E) + bias) v over the visible pairs, with a hand-written gradient.

    Autograd of torch's own, with the biases in its mask, takes 1.6 to 3.7 times as long on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Tensor,
        time: Tensor | None,
        buckets: Buckets,
        visible: Tensor,
        recompute: bool,
    ) -> Tensor:
        hidden = _hidden(visible, q.dtype)
        weights = _distribution(q, k, Bias(buckets, position, time), hidden)
        sees = hidden.amax(dim=-1, keepdim=True) == 0  # (B, 1, L, 1); a row that sees nothing is given nothing
        out = (weights @ v).mul_(sees)  # (B, H, L, E)
        kept = None if recompute else weights
        ctx.save_for_backward(q, k, v, visible, sees, kept, out, position, time, *buckets)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, visible, sees, weights, out, *tables, by_position, by_time = ctx.saved_tensors
        bias = Bias(Buckets(by_position, by_time), *tables)
        if weights is None:
            weights = _distribution(q, k, bias, _hidden(visible, q.dtype))
        grad = grad * sees
        grad_v = weights.transpose(-1, -2) @ grad
        grad_scores = grad @ v.transpose(-1, -2)
        grad_scores.sub_((grad * out).sum(dim=-1, keepdim=True)).mul_(weights)
        grad_q = (grad_scores @ k).mul_(q.shape[-1] ** -0.5)
        grad_k = (grad_scores.transpose(-1, -2) @ q).mul_(q.shape[-1] ** -0.5)
        return grad_q, grad_k, grad_v, *bias.gradients(grad_scores), *[None] * 3


def _distribution(q: Tensor, k: Tensor, bias: Bias, hidden: Tensor) -> Tensor:
    """What each row gives to each column, (B, H, L, C): 0 where that is `_hidden`, but alike where all are."""
    scores = bias.added_to((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2))
    return scores.add_(hidden).softmax(dim=-1)


def _hidden(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What hides the columns that are not visible when it is added to scores, (B or 1, 1, L, C): 0 or very low.

    On a CPU to add it takes a fifth of the time of filling (B, H, L, C) scores by a mask. Half of the lowest number is
    as good, and what is added to it stays finite.
    """
    low = torch.full((), torch.finfo(dtype).min / 2, dtype=dtype, device=visible.device)
    return torch.where(visible[:, None], torch.zeros_like(low), low)


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias,
    visible: Tensor,
    recompute: bool = False,
) -> Tensor:
    """Attended values (B, H, L, E) of queries (B, H, L, E) over keys and values (B, H, C, E); 0 where none is seen."""
    q, k, v = _of_one_type(q, k, v)
    with torch.autocast(q.device.type, enabled=False):
        return _SoftmaxAttention.apply(q, k, v, bias.position, bias.time, bias.buckets, visible, recompute)


def competing_pointwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias,
    visible: Tensor,
    divided: Tensor,
    divisor: Tensor,
) -> Tensor:
    """`pointwise_attention` of token rows whose weights at columns `divided` are multiplied by `shared_out`."""
    q, k, v = _of_one_type(q, k, v)
    with torch.autocast(q.device.type, enabled=False):
        scores = bias.added_to(q @ k.transpose(-1, -2))
        share = shared_out(scores, visible[:, None], divided).exp()
        return (F.silu(scores) * share * _scale(visible, divisor, scores)) @ v


def competing_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias,
    visible: Tensor,
    divided: Tensor,
) -> Tensor:
    """`softmax_attention` of token rows whose logits at columns `divided` are `shared_out`.

    So over events alone a token takes the mean by its shares in them: slot attention's equations 1 and 2
    (arXiv 2006.15055).
    """
    q, k, v = _of_one_type(q, k, v)
    with torch.autocast(q.device.type, enabled=False):
        scores = bias.added_to((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2))
        scores = torch.where(divided, shared_out(scores, visible[:, None], divided), scores)
        weights = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min).softmax(dim=-1)
        return (weights @ v) * visible.any(dim=-1)[:, None, :, None]


def shared_out(scores: Tensor, visible: Tensor, divided: Tensor) -> Tensor:
    """Logarithm (B, H, K, C) of n times each row's share, by softmax, in a column that n of the K rows see.

    0 where the rows agree, at columns that are not `divided` (C,), and where a row sees nothing.
    """
    seen = visible & divided  # (B, 1, K, C)
    rows = seen.sum(dim=2, keepdim=True).clamp(min=1).to(scores.dtype)
    share = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).log_softmax(dim=2) + rows.log()
    return share.where(seen, 0.0)


def counted(q: Tensor, k: Tensor, power: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys one number longer, so that the logits of softmax attention are by `power` * `weight` larger.

    `power` (H,) of each head, `weight` (B, C) of each column.
    """
    width = q.shape[-1]
    more = (power * (width + 1) ** 0.5)[:, None, None].to(q.dtype).expand(*q.shape[:3], 1)
    column = weight[:, None, :, None].to(k.dtype).expand(*k.shape[:3], 1)
    return torch.cat([q * ((width + 1) / width) ** 0.5, more], dim=-1), torch.cat([k, column], dim=-1)


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias,
    visible: Tensor,
    divisor: Tensor,
) -> Tensor:
    """The slow twin of `pointwise_attention`: the same function, written out for autograd."""
    scores = q @ k.transpose(-1, -2) + _written_out(bias)
    return (F.silu(scores) * visible[:, None]) @ v / divisor


def reference_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias,
    visible: Tensor,
) -> Tensor:
    """The slow twin of `softmax_attention`: torch's own attention, with the biases in its mask."""
    mask = _written_out(bias).masked_fill(~visible[:, None], float("-inf"))  # (B, H, L, C)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).where(visible.any(dim=-1)[:, None, :, None], 0.0)


def _written_out(bias: Bias) -> Tensor:
    """The bias (b, H, L, C) of all pairs."""
    found = bias.position[:, bias.buckets.position.long()].transpose(0, 1)
    if bias.time is None or bias.buckets.time is None:
        return found
    return found + bias.time[:, bias.buckets.time.long()].transpose(0, 1)
