"""What memory tokens are asked for themselves: the set of items that they have read.

A next-item loss reaches a token only through later rows that read it, and says little until these have learned to. A
loss of the token's own puts what it carries where item vectors are, so that reading a memory is what reading events is.
(A summary that reconstructs what it sums up: VISTA, arXiv 2510.22049.)

Shapes: B users, P planes, M remembered rows, G segments of S events, K tokens, D width, V items, C candidates.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import Batch
from persrec.constants import PAD
from persrec.models.interfaces import Memory
from persrec.models.model import Model


def set_loss(model: Model, batch: Batch, memory: Memory, negatives: Tensor | None) -> Tensor:
    """Mean cross-entropy () of each segment's set of items given its tokens, the best token per item scoring it.

    Scored is the cosine of what each stored plane holds and the items, divided by the temperature, against the whole
    catalogue, or against `negatives` (J,) and the items of all sets. Memories without a row give zero.
    """
    if not bool(memory.valid.any()):
        return memory.states.sum()
    tokens = model.compressor.rows
    segments = memory.rows // tokens
    items = _sets(model, batch, memory.valid[:, ::tokens])  # (B, G, S)
    candidates = _candidates(items, negatives, model.items.count)
    states = memory.states[:, 1:].unflatten(2, (segments, tokens))  # (B, P-1, G, K, D)
    vectors = F.normalize(F.embedding(candidates, model.items.table), dim=-1)
    scores = (F.normalize(states, dim=-1) @ vectors.T / model.temperature).amax(dim=3)  # (B, P-1, G, C)
    chances = F.log_softmax(scores, dim=-1).mean(dim=1)  # (B, G, C)
    wanted = _marked(items, candidates)
    per_segment = -(chances * wanted).sum(dim=-1) / wanted.sum(dim=-1).clamp(min=1)
    return per_segment.sum() / wanted.any(dim=-1).sum()


def _sets(model: Model, batch: Batch, kept: Tensor) -> Tensor:
    """Items (B, G, S) of the newest G segments, PAD where there is no event; `kept` (B, G) are in memory."""
    closed = model.rule.closed(batch.events)
    segments, length = kept.shape[1], model.rule.segment
    number = closed[:, None] - segments + torch.arange(segments, device=closed.device)  # (B, G)
    column = (number[:, :, None] * length + torch.arange(length, device=closed.device)).clamp(min=0)  # (B, G, S)
    found = batch.history.item.gather(1, column.flatten(1)).view_as(column)
    return found.where(kept[:, :, None], PAD)


def _candidates(items: Tensor, negatives: Tensor | None, catalogue: int) -> Tensor:
    """The items (C,) that are scored, ascending."""
    if negatives is None:
        return torch.arange(1, catalogue + 1, device=items.device)
    every = torch.cat([items.flatten(), negatives]).unique()
    return every[every != PAD]


def _marked(items: Tensor, candidates: Tensor) -> Tensor:
    """Which candidates are in each set: bool (B, G, C)."""
    place = torch.searchsorted(candidates, items).clamp(max=len(candidates) - 1)
    marks = torch.zeros(*items.shape[:2], len(candidates), dtype=torch.int64, device=items.device)
    return marks.scatter_add_(2, place, (items != PAD).long()) > 0
