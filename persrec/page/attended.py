"""What memory tokens attend to: places in their own segment and, of queries, remembered segments by their age, or the
rows of a recurrent memory.

HSTU's weights are no distribution: they may be negative, do not add up to 1, and values of token rows carry a gain. So
a column's share in a row is the length of what it adds there, |weight| times the length of its value, summed over heads
(Kobayashi et al., arXiv 2004.10102, before the output projection), divided by that of all columns. The weights of
softmax layers add up to 1, but their values differ in length too: shares mean the same for both.

Shapes: B users, H heads, L rows, M remembered rows, C = M + L columns, E width of a head, S events of a segment,
K tokens, N layers, G segments.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import Batch
from persrec.models.compressor import loop
from persrec.models.hstu import HSTU, HSTULayer
from persrec.models.layered import Layered
from persrec.models.model import Model
from persrec.models.recurrent import Recurrent
from persrec.models.softmax import LiGRLayer, SASRecLayer, Softmax, SoftmaxAttention
from persrec.models.stack import RowBlock, norm, split_heads

Floats = npt.NDArray[np.float64]
Layer = HSTULayer | SASRecLayer | LiGRLayer
TOKEN_OPTIONS = "compete", "own_projections", "count_weight"


class Attended(NamedTuple):
    """Shares of users with a memory, each between 0 and 1."""

    written: Floats  # (B, K, S) of the events of a segment in a token, mean over segments and the layers that write
    read: Floats  # (B, G) of the newest, the one before it, ... segment in the query; NaN where the user has none
    means: bool  # whether tokens begin as means of events, so that layer 1 reads something of the user as well
    carried: Floats | None = None  # (B,) of a recurrent memory, whose `read` is (B, K): of its old rows in a new token

    @property
    def clear(self) -> Floats:
        """(B,) what is left for the clear events."""
        return 1 - np.nansum(self.read, axis=1)


class _Step(NamedTuple):
    """What one layer did in one step."""

    shares: Tensor  # (B, L, C)
    keep: Tensor | None  # (K,) token rows of a fold


def why_not(model: Model, memory: Any) -> str | None:
    """Why `attended` does not understand a model with a memory, whose recipe's section is given; None where it does."""
    if not isinstance(model.backbone, HSTU | Softmax):
        return "the layers of a decoder do not give their weights"
    if not isinstance(model.compressor, Layered | Recurrent):
        return f"a memory of kind {memory.kind} keeps no rows of each segment by which old events could be told apart"
    if memory.merge:
        return "its old rows are merged, and are no longer those of one segment"
    changed = [f"memory.{key}" for key in TOKEN_OPTIONS if getattr(memory, key)]
    return f"{' and '.join(changed)} change how tokens attend" if changed else None


@torch.no_grad()
def attended(model: Model, batch: Batch) -> Attended:
    """Fold and read as served, segment by segment, and look at every layer.

    All users of the batch have a closed segment, and stand in descending order of them. Tokens are looked at in layers
    1 to N-1, whose output is remembered; queries where what is remembered is the user's own: in layers 2 to N, and in
    layer 1 too where tokens begin as means. Of a recurrent memory, whose rows go through all layers, all are looked at.
    """
    backbone, compressor = model.backbone, model.compressor
    assert isinstance(backbone, HSTU | Softmax)
    assert isinstance(compressor, Layered | Recurrent)
    steps: list[_Step] = []

    def watch(layer: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        keep = named.get("keep")
        steps.append(_Step(shares(*attention(layer, *given, keep=keep)), keep))

    hooks = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in backbone.stack]
    try:
        loop(backbone, compressor, model.encode(), batch, model.rule, score=lambda hidden, events: None, together=1)
    finally:
        for hook in hooks:
            hook.remove()
    closed = model.rule.closed(batch.events)
    folds = [steps[start : start + backbone.layers] for start in range(0, len(steps), backbone.layers)]
    last = batch.events - closed * model.rule.segment - 1
    if isinstance(compressor, Recurrent):
        return _of_recurrent(folds, closed, last, model.rule.segment, compressor.rows)
    kept = closed if compressor.cap is None else closed.clamp(max=compressor.cap)
    own = folds[-1][-compressor.stored :]
    return Attended(
        written=_written(folds[:-1], closed, model.rule.segment),
        read=_read(own, last, kept, compressor.rows),
        means=bool(compressor.means),
    )


def attention(
    layer: Layer, x: Tensor, remembered: Tensor | None, blocks: list[RowBlock], *, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights (B, H, L, C) and values (B, H, C, E) of a layer; their product is what its rows attend to."""
    holder: HSTULayer | SoftmaxAttention
    if isinstance(layer, HSTULayer):
        holder, parts = layer, _of_hstu(layer, x, remembered, keep)
    else:
        holder, parts = layer.attention, _of_softmax(layer.attention, x, remembered)
    query, key, value = (split_heads(part, holder.heads) for part in parts)
    weights = x.new_zeros(*query.shape[:3], key.shape[2])  # (B, H, L, C)
    for block in blocks:
        reach, seen = slice(0, block.columns), block.visible[:, None]
        scores = query[:, :, block.rows] @ key[:, :, reach].transpose(-1, -2)
        scores = scores + holder.position_bias[:, block.buckets.position.long()].transpose(0, 1)
        if holder.time_bias is not None and block.buckets.time is not None:
            scores = scores + holder.time_bias[:, block.buckets.time.long()].transpose(0, 1)
        if isinstance(holder, HSTULayer):
            weights[:, :, block.rows, reach] = F.silu(scores) * seen / holder.divisor
        else:  # a row that sees nothing is given nothing
            weights[:, :, block.rows, reach] = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1).nan_to_num()
    return weights, value


def shares(weights: Tensor, values: Tensor) -> Tensor:
    """The share of each column in what each row attends to: (B, L, C), rows adding up to 1 (or 0, where all is 0)."""
    lengths = (weights.abs() * values.norm(dim=-1)[:, :, None]).sum(dim=1)
    return lengths / lengths.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(lengths.dtype).tiny)


def _of_hstu(
    layer: HSTULayer, x: Tensor, remembered: Tensor | None, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, L, D), keys and values (B, C, D); values of tokens and remembered rows with their gain."""
    gain = layer.token_gain.repeat_interleave(x.shape[-1] // layer.heads)  # (D,)
    query, key, value = _parts(layer, x)
    if keep is not None:
        value = value.index_copy(1, keep, value[:, keep] * gain)
    if remembered is not None and remembered.shape[1]:
        _, old_key, old_value = _parts(layer, remembered)
        key, value = torch.cat([old_key, key], dim=1), torch.cat([old_value * gain, value], dim=1)
    return query, key, value


def _parts(layer: HSTULayer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (B, L, D)."""
    _, value, query, key = F.silu(layer.inner(norm(x))).chunk(4, dim=-1)
    return query, key, value


def _of_softmax(layer: SoftmaxAttention, x: Tensor, remembered: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, L, D), divided by the root of E, keys and values (B, C, D); all of normed rows."""
    query, key, value = layer.inner(norm(x)).chunk(3, dim=-1)
    if remembered is not None and remembered.shape[1]:
        _, old_key, old_value = layer.inner(norm(remembered)).chunk(3, dim=-1)
        key, value = torch.cat([old_key, key], dim=1), torch.cat([old_value, value], dim=1)
    return query * (x.shape[-1] // layer.heads) ** -0.5, key, value


def _of_recurrent(folds: list[list[_Step]], closed: Tensor, last: Tensor, segment: int, tokens: int) -> Attended:
    """The old rows stand in front of the others, in each step but the first; means over all layers."""
    written, carried = [], []
    for fold in folds[:-1]:
        mean = torch.stack([step.shares for step in fold]).mean(dim=0).double()  # (users of this fold, L, L)
        old = mean.shape[1] - segment - tokens
        own = mean[:, -tokens:]
        written.append(own[:, :, old : old + segment])
        carried.append(own[:, :, :old].sum(dim=2).mean(dim=1))
    read = torch.stack([step.shares[torch.arange(len(last)), tokens + last] for step in folds[-1]]).mean(dim=0)
    return Attended(
        written=np.asarray(_total(written, len(closed)) / closed[:, None, None]),
        read=read[:, :tokens].double().numpy(),
        means=False,
        carried=np.asarray(_total(carried, len(closed)) / (closed - 1)),  # nothing is old in the first; 0 / 0 is NaN
    )


def _total(parts: list[Tensor], users: int) -> Tensor:
    """The sum over folds, of which each has the first users only: (B, ...)."""
    total = parts[0].new_zeros(users, *parts[0].shape[1:])
    for part in parts:
        total[: len(part)] += part
    return total


def _written(folds: list[list[_Step]], closed: Tensor, segment: int) -> Floats:
    """(B, K, S), the mean over each user's segments and over layers 1 to N-1."""
    means = []
    for fold in folds:
        found = []
        for step in fold[:-1]:
            assert step.keep is not None
            remembered = step.shares.shape[2] - step.shares.shape[1]
            found.append(step.shares[:, step.keep, remembered : remembered + segment])
        means.append(torch.stack(found).mean(dim=0).double())  # (users of this fold, K, S)
    return np.asarray(_total(means, len(closed)) / closed[:, None, None])


def _read(steps: list[_Step], last: Tensor, kept: Tensor, tokens: int) -> Floats:
    """(B, G), newest segment first, the mean over the layers given."""
    rows = torch.stack([step.shares[torch.arange(len(last)), last] for step in steps]).mean(dim=0).double()
    remembered = steps[0].shares.shape[2] - steps[0].shares.shape[1]
    by_segment = rows[:, :remembered].unflatten(1, (-1, tokens)).sum(dim=2).flip(1)  # (B, G)
    none = torch.arange(by_segment.shape[1])[None] >= kept[:, None]
    return by_segment.masked_fill(none, torch.nan).numpy()
