"""What memory tokens are asked for themselves: the set of items that they have read, or of some that come later.

A next-item loss reaches a token only through later rows that read it, and says little until these have learned to. A
loss of the token's own puts what it carries where item vectors are, so that reading a memory is what reading events is.
(A summary that reconstructs what it sums up: VISTA, arXiv 2510.22049; one that predicts a window of later events:
PinnerFormer, arXiv 2205.04507.)

Shapes: B users, P planes, G segments of S events, K tokens, D width, V items, C candidates.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import Batch
from persrec.constants import PAD
from persrec.models.compressor import Looped
from persrec.models.item_encoders import ItemVectors
from persrec.models.model import Model
from persrec.models.segments import SegmentRule

TEMPERATURE: Final = 0.07  # of cosines, where the model's own scores are products


class SetWeights(NamedTuple):
    """How much each set counts beside the loss of the rows."""

    past: float = 0.0  # the items that the tokens have read
    future: float = 0.0  # those of the events from R to R + horizon after the segment
    horizon: int = 40


class Written(NamedTuple):
    """What is kept of the segments from `first` to before `last`."""

    states: Tensor  # (B, G, P, K, D)
    first: Tensor  # (B, G) int64, numbers of the user's; below 0 where there is none
    last: Tensor  # (B, G) int64
    grown: bool  # each holds what the earlier ones held, too


def set_loss(
    model: Model,
    batch: Batch,
    looped: Looped,
    weights: SetWeights,
    negatives: Tensor | None,
    made: ItemVectors | None = None,
) -> Tensor:
    """Weighted mean cross-entropy () of the sets of items given the tokens, the best token per item scoring it.

    Scored is the cosine of what each stored plane holds and the items, divided by the temperature (where the model's is
    not of a cosine, by TEMPERATURE), against the whole catalogue, or against `negatives` (J,) and the items of all
    sets. Without a segment it is zero. `made` are the vectors of a step, where they have been made.
    """
    written = _written(model.compressor.rows, model.rule, batch, looped)
    if written is None or not bool((written.first >= 0).any()):
        return looped.memory.states.sum() * 0
    sets, segment = [], model.rule.segment
    if weights.past:
        sets.append((weights.past, _past(batch, written, segment), written.grown))
    if weights.future:
        start = written.last * segment + (model.rule.recent or 0)
        sets.append((weights.future, _events(batch, written, start, start + weights.horizon), False))
    candidates = _candidates([items for _, items, _ in sets], negatives, model.items.count)
    vectors = (model.items if made is None else made).vectors(candidates)
    return _weighted(sets, written, candidates, vectors, model.temperature if model.cosine else TEMPERATURE)


def past_set_loss(
    tokens: int,
    rule: SegmentRule,
    batch: Batch,
    looped: Looped,
    candidates: Tensor,
    vectors: Tensor,
    temperature: float,
) -> Tensor:
    """The mean cross-entropy () of the items that K tokens have read, against candidates (C,), ascending, all of these
    items among them, whose vectors are (C, D); see `set_loss`. For loops without a `Model`.
    """
    written = _written(tokens, rule, batch, looped)
    if written is None or not bool((written.first >= 0).any()):
        return looped.memory.states.sum() * 0
    items = _past(batch, written, rule.segment)
    return _weighted([(1.0, items, written.grown)], written, candidates, vectors, temperature)


def _weighted(
    sets: list[tuple[float, Tensor, bool]],
    written: Written,
    candidates: Tensor,
    vectors: Tensor,
    temperature: float | Tensor,
) -> Tensor:
    """The losses of sets (their weight, items (B, G, S), whether each segment's includes the earlier ones')."""
    scores = F.normalize(written.states, dim=-1) @ F.normalize(vectors, dim=-1).T / temperature  # (B, G, P, K, C)
    chances = F.log_softmax(scores.amax(dim=3), dim=-1).mean(dim=2)  # (B, G, C)
    losses = []
    for weight, items, grown in sets:
        wanted = _marked(items, candidates)
        if grown:
            wanted = (wanted.cumsum(dim=1) > 0) & (written.first >= 0)[:, :, None]
        per_segment = -(chances * wanted).sum(dim=-1) / wanted.sum(dim=-1).clamp(min=1)
        losses.append(weight * per_segment.sum() / wanted.any(dim=-1).sum().clamp(min=1))
    return torch.stack(losses).sum()


def _written(tokens: int, rule: SegmentRule, batch: Batch, looped: Looped) -> Written | None:
    """The rows that are kept, by blocks of K `tokens`; None where there are none."""
    memory, closed = looped.memory, rule.closed(batch.events)
    if not memory.rows:
        return None
    if memory.states.shape[1] > 1:  # layered: the memory holds them all, of one segment each, or of several merged ones
        blocks = memory.rows // tokens
        events = memory.weight.unflatten(1, (blocks, tokens)).sum(dim=2)
        kept = memory.valid[:, ::tokens]
        segments = (events / rule.segment - 1e-4).ceil().long() * kept  # a user's first one may be short
        first = closed[:, None] - segments.flip(1).cumsum(dim=1).flip(1)
        states = memory.states[:, 1:].unflatten(2, (blocks, tokens)).transpose(1, 2)
        return Written(states, first.where(kept, -1), first + segments, grown=False)
    users = len(closed)
    number = torch.arange(len(looped.trail), device=closed.device)[None]
    padded = [F.pad(step.states, (0, 0, 0, 0, 0, 0, 0, users - len(step.states))) for step in looped.trail]
    first = number.where(number < closed[:, None], -1)
    return Written(torch.stack(padded, dim=1), first, first + 1, grown=True)


def _past(batch: Batch, written: Written, segment: int) -> Tensor:
    """Items (B, G, E) of the segments that each block is of."""
    return _events(batch, written, written.first * segment, written.last * segment)


def _events(batch: Batch, written: Written, start: Tensor, end: Tensor) -> Tensor:
    """Items (B, G, E) of the events from `start` to before `end` (B, G); PAD where there is none."""
    there = written.first >= 0
    longest = int((end - start).where(there, 0).max())
    column = start[:, :, None] + torch.arange(longest, device=start.device)
    exist = there[:, :, None] & (column < torch.minimum(end, batch.events[:, None])[:, :, None])
    column = column.clamp(0, batch.history.item.shape[1] - 1)
    return batch.history.item.gather(1, column.flatten(1)).view_as(column).where(exist, PAD)


def _candidates(sets: list[Tensor], negatives: Tensor | None, catalogue: int) -> Tensor:
    """The items (C,) that are scored, ascending."""
    if negatives is None:
        return torch.arange(1, catalogue + 1, device=sets[0].device)
    every = torch.cat([*(items.flatten() for items in sets), negatives]).unique()
    return every[every != PAD]


def _marked(items: Tensor, candidates: Tensor) -> Tensor:
    """Which candidates are in each set: bool (B, G, C)."""
    place = torch.searchsorted(candidates, items).clamp(max=len(candidates) - 1)
    marks = torch.zeros(*items.shape[:2], len(candidates), dtype=torch.int64, device=items.device)
    return marks.scatter_add_(2, place, (items != PAD).long()) > 0
