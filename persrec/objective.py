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
from persrec.token_objectives import set_loss


class LossSettings(NamedTuple):
    """Which cross-entropy a row carries."""

    sampled: bool = True
    negatives: int = 512  # of a sampled loss
    per_row: bool = False  # drawn for every row by itself
    chunk: int = 1 << 24  # logits of a full loss that exist at a time
    break_ms: int | None = None  # how long before its target a row must lie to be one after a break
    break_weight: float = 1.0  # of rows after a break; only where rows know the time at which they are asked
    past_set: float = 0.0  # weight of what tokens are asked for themselves, see `token_objectives`


class Scored(NamedTuple):
    """Losses of some rows, summed."""

    loss: Tensor  # () with gradient
    weight: Tensor  # ()
    by_clear_events: Tensor  # (2, W): sums of loss, numbers of rows, by number of clear events minus 1


class Objective(NamedTuple):
    """What is minimised, and its parts."""

    loss: Tensor  # () with gradient: that of the rows, and what the tokens are asked for
    rows: Tensor  # () mean over the scored rows
    by_clear_events: Tensor  # (2, W), see `Scored`


def objective(model: Model, batch: Batch, settings: LossSettings, *, reads_all: bool) -> Objective:
    """The mean cross-entropy of the batch's scored rows, and the weighted loss of its tokens."""
    shared = None
    if settings.sampled and not settings.per_row:
        items = negatives.uniform(settings.negatives, items=model.items.count, device=batch.events.device)
        shared = items, model.vectors(items)

    def score(hidden: Tensor, history: History) -> Scored:
        rows = history.target != PAD
        weight = _weights(history, settings)[rows]
        bonus = _bonus(model, batch, hidden[rows], history, rows)
        loss = _row_losses(model, hidden[rows], history.target[rows], weight, settings, shared, bonus)
        clear = history.valid.cumsum(dim=1)[rows] - 1
        tally = loss.new_zeros(2, hidden.shape[1])
        tally[0].index_add_(0, clear, loss.detach())
        tally[1].index_add_(0, clear, torch.ones_like(loss))
        return Scored(loss.sum(), weight.sum(), tally)

    looped = model(batch, score=score, reads_all=reads_all)
    scored: list[Scored] = looped.scored
    width = max(part.by_clear_events.shape[1] for part in scored)
    padded = [
        torch.nn.functional.pad(part.by_clear_events, (0, width - part.by_clear_events.shape[1])) for part in scored
    ]
    tally = torch.stack(padded).sum(dim=0)
    weight = torch.stack([part.weight for part in scored]).sum()
    rows = torch.stack([part.loss for part in scored]).sum() / torch.where(weight > 0, weight, 1.0)
    if not settings.past_set or not looped.memory.rows:
        return Objective(rows, rows.detach(), tally)
    others = None if shared is None else shared[0]
    if settings.sampled and others is None:
        others = negatives.uniform(settings.negatives, items=model.items.count, device=batch.events.device)
    asked = set_loss(model, batch, looped.memory, others)
    return Objective(rows + settings.past_set * asked, rows.detach(), tally)


def _weights(history: History, settings: LossSettings) -> Tensor:
    """Weight (E, L) of each row."""
    weight = torch.ones(history.item.shape, device=history.item.device)
    if settings.break_ms is None:
        return weight
    return weight.masked_fill(history.query_time - history.time >= settings.break_ms, settings.break_weight)


def _bonus(model: Model, batch: Batch, hidden: Tensor, history: History, rows: Tensor) -> losses.Bonus | None:
    """What the repeat head adds for scored rows, `rows` (E, L), of which `hidden` (N, D) are the hidden ones."""
    if model.repeat is None or batch.consumed is None or history.cell is None:
        return None
    had = batch.consumed.of(history.cell[rows])
    return losses.Bonus(had.row, had.item, model.repeat(hidden, had))


def _row_losses(
    model: Model,
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    settings: LossSettings,
    shared: tuple[Tensor, Tensor] | None,
    bonus: losses.Bonus | None,
) -> Tensor:
    """Loss (N,) of each hidden row (N, D)."""
    queries = model.query(hidden) / model.temperature
    if not settings.sampled:
        return losses.full_softmax(queries, model.vectors(), target, weight, chunk=settings.chunk, bonus=bonus)
    if shared is None:
        items = negatives.uniform(settings.negatives, items=model.items.count, rows=len(target), device=target.device)
        shared = items, model.vectors(items)
    items, vectors = shared
    return losses.sampled_softmax(queries, model.vectors(target), vectors, target, items, weight)
