"""The training loss of a model on a batch.

Shapes: B users, N scored rows, J negatives, D width, W = most clear events of a row.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from persrec import losses, negatives
from persrec.batches import Batch, History
from persrec.constants import PAD
from persrec.models.model import Model


class LossSettings(NamedTuple):
    """Which cross-entropy a row carries."""

    sampled: bool = True
    negatives: int = 512  # of a sampled loss
    per_row: bool = False  # drawn for every row by itself
    chunk: int = 1 << 24  # logits of a full loss that exist at a time


class Scored(NamedTuple):
    """Losses of some rows, summed."""

    loss: Tensor  # () with gradient
    by_clear_events: Tensor  # (2, W): sums of loss, numbers of rows, by number of clear events minus 1


def objective(model: Model, batch: Batch, settings: LossSettings, *, reads_all: bool) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the batch's scored rows, and (2, W) sums by number of clear events (see `Scored`)."""
    shared = None
    if settings.sampled and not settings.per_row:
        items = negatives.uniform(settings.negatives, items=model.items.count, device=batch.events.device)
        shared = items, model.vectors(items)

    def score(hidden: Tensor, history: History) -> Scored:
        rows = history.target != PAD
        loss = _row_losses(model, hidden[rows], history.target[rows], settings, shared)
        clear = history.valid.cumsum(dim=1)[rows] - 1
        tally = loss.new_zeros(2, hidden.shape[1])
        tally[0].index_add_(0, clear, loss.detach())
        tally[1].index_add_(0, clear, torch.ones_like(loss))
        return Scored(loss.sum(), tally)

    scored: list[Scored] = model(batch, score=score, reads_all=reads_all).scored
    width = max(part.by_clear_events.shape[1] for part in scored)
    padded = [
        torch.nn.functional.pad(part.by_clear_events, (0, width - part.by_clear_events.shape[1])) for part in scored
    ]
    tally = torch.stack(padded).sum(dim=0)
    return torch.stack([part.loss for part in scored]).sum() / tally[1].sum().clamp(min=1), tally


def _row_losses(
    model: Model, hidden: Tensor, target: Tensor, settings: LossSettings, shared: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Loss (N,) of each hidden row (N, D)."""
    queries = model.query(hidden) / model.temperature
    weight = torch.ones_like(queries[:, 0])
    if not settings.sampled:
        return losses.full_softmax(queries, model.vectors(), target, weight, chunk=settings.chunk)
    if shared is None:
        items = negatives.uniform(settings.negatives, items=model.items.count, rows=len(target), device=target.device)
        shared = items, model.vectors(items)
    items, vectors = shared
    return losses.sampled_softmax(queries, model.vectors(target), vectors, target, items, weight)
