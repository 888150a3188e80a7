"""The training loss of a model on a batch.

Shapes: B users, N scored rows, J negatives, D width, Q width of queries, n events of a text head, W = most clear events
of a row.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from persrec import losses, negatives
from persrec.batches import Batch, History
from persrec.constants import PAD
from persrec.consumption import Runs
from persrec.losses import info_nce
from persrec.models.item_encoders import ItemVectors
from persrec.models.model import Model
from persrec.negatives import Sampler
from persrec.training.token_objectives import SetWeights, set_loss

Kind = Literal["sampled", "full", "bce", "gbce", "bpr", "info_nce"]  # those of a recipe

HEAD_ROWS = 8  # one row in so many trains a text head, which has few weights
LOGITS_PER_PAIR = 16  # of `chunk`; pairs of row and item that its user has had take some 400 bytes each


class LossSettings(NamedTuple):
    """Which loss a row carries."""

    kind: Kind = "sampled"
    negatives: int = 512  # of all kinds but the full softmax
    per_row: bool = False  # drawn for every row by itself
    sampler: Sampler = "uniform"
    corrected: bool = False  # for what the sampler draws more often (logQ); of a sampled softmax
    calibration: float = 0.0  # of a binary cross-entropy, gBCE's
    logit_adjustment: float = 0.0  # of a softmax: what share of an item's log popularity scores need not say
    full_from: float | None = None  # share of the epochs after which a sampled loss gives way to the full one
    chunk: int = 1 << 24  # logits of a full loss that exist at a time
    break_ms: int | None = None  # how long before its target a row must lie to be one after a break
    break_weight: float = 1.0  # of rows after a break; only where rows know the time at which they are asked
    sets: SetWeights = SetWeights()  # what tokens are asked for themselves
    skips_had: bool = False  # to a text head items that it compares are no negatives, as they are never recommended
    consistency: float = 0.0  # weight of the disagreement of memories with references, see `models.parallel`

    @property
    def sampled(self) -> bool:
        """Whether targets stand against negatives, not against the whole catalogue."""
        return self.kind != "full"

    @property
    def needs_counts(self) -> bool:
        """Whether it asks how often an item is a target."""
        return self.sampler != "uniform" or self.logit_adjustment > 0


class Step(NamedTuple):
    """What is the same for all rows of a step."""

    model: Model
    settings: LossSettings
    made: ItemVectors
    counts: Tensor | None


class Drawn(NamedTuple):
    """Negatives of a sampled loss, shared by all rows or drawn for each."""

    item: Tensor  # (J,) or (N, J)
    vector: Tensor  # (J, D), or (V+1, D) where each row has its own
    expected: Tensor | None  # shaped as `item`: see `sampled_softmax`


class Had(NamedTuple):
    """What the users of scored rows have had."""

    runs: Runs  # of the batch
    cells: Tensor  # (N,) int64, the rows' numbers in the batch
    at_a_time: int | None  # how many pairs may exist; None = all of the batch


class Scored(NamedTuple):
    """Losses of some rows, summed."""

    loss: Tensor  # () with gradient
    weight: Tensor  # ()
    by_clear_events: Tensor  # (3, W): sums of loss, numbers of rows, sums of weights, by number of clear events minus 1


class Objective(NamedTuple):
    """What is minimised, and its parts."""

    loss: Tensor  # () with gradient: that of the rows, and what the tokens are asked for
    rows: Tensor  # () weighted mean over the scored rows
    by_clear_events: Tensor  # (3, W), see `Scored`


def objective(
    model: Model, batch: Batch, settings: LossSettings, *, reads_all: bool, counts: Tensor | None = None
) -> Objective:
    """The mean loss of the batch's scored rows, and the weighted loss of its tokens.

    `counts` (V+1,) are the items' numbers as targets, where the settings need them.
    """
    targets = batch.history.target[batch.history.target != PAD]
    found = _items_drawn(model, settings, counts, targets) if settings.sampled and not settings.per_row else None
    needed = None if found is None else torch.cat([batch.history.item.flatten(), targets, found])
    made = model.items.during_step(needed)
    shared = None if found is None else _drawn(model, settings, counts, found, made)
    step = Step(model, settings, made, counts)
    runs, fitting = batch.consumed, max(1, settings.chunk // LOGITS_PER_PAIR)
    at_a_time = None if runs is None or runs.pairs <= fitting else fitting

    def drawn(rows: int | None = None) -> Drawn:
        return _drawn(model, settings, counts, _items_drawn(model, settings, counts, targets, rows), made)

    def score(hidden: Tensor, history: History) -> Scored:
        with _exactly(hidden):
            return scored_rows(hidden.to(torch.promote_types(hidden.dtype, torch.float32)), history)

    def scored_rows(hidden: Tensor, history: History) -> Scored:
        rows = history.target != PAD
        weight = _weights(history, settings)[rows]
        had = None if runs is None or history.cell is None else Had(runs, history.cell[rows], at_a_time)
        target = history.target[rows]
        against = drawn(len(target)) if settings.sampled and shared is None else shared
        loss = _row_losses(step, hidden[rows], target, weight, against, had)
        if history.last is not None:
            loss = loss + _of_text_head(step, hidden[rows], target, weight, against, history.last[rows])
        clear = history.valid.cumsum(dim=1)[rows] - 1
        tally = loss.new_zeros(3, hidden.shape[1])
        tally.index_add_(1, clear, torch.stack([loss.detach(), torch.ones_like(loss), weight.to(loss)]))
        return Scored(loss.sum(), weight.sum(), tally)

    looped = model(batch, score=score, reads_all=reads_all, items=made)
    scored: list[Scored] = looped.scored
    width = max(part.by_clear_events.shape[1] for part in scored)
    padded = [
        torch.nn.functional.pad(part.by_clear_events, (0, width - part.by_clear_events.shape[1])) for part in scored
    ]
    tally = torch.stack(padded).sum(dim=0)
    weight = torch.stack([part.weight for part in scored]).sum()
    rows = torch.stack([part.loss for part in scored]).sum() / torch.where(weight > 0, weight, 1.0)
    loss = rows if looped.disagreement is None else rows + settings.consistency * looped.disagreement
    if not any(settings.sets[:2]) or not looped.memory.rows:
        return Objective(loss, rows.detach(), tally)
    others = shared or (drawn() if settings.sampled else None)
    with _exactly(loss):
        asked = set_loss(model, batch, looped, settings.sets, None if others is None else others.item, made)
    return Objective(loss + asked, rows.detach(), tally)


def _exactly(like: Tensor) -> torch.autocast:
    """Scores and losses are float32 whatever the layers run in: a logit of 20 has a step of 0.125 in bfloat16."""
    return torch.autocast(like.device.type, enabled=False)


def _items_drawn(
    model: Model, settings: LossSettings, counts: Tensor | None, targets: Tensor, rows: int | None = None
) -> Tensor:
    """Negatives (J,) for all rows, or (N, J) for each of `rows`; `targets` (T,) are those of the batch."""
    sampler, count, items = settings.sampler, settings.negatives, model.items.count
    return negatives.draw(sampler, count, items=items, counts=counts, targets=targets, rows=rows)


def _drawn(model: Model, settings: LossSettings, counts: Tensor | None, found: Tensor, made: ItemVectors) -> Drawn:
    """Items that were drawn, and what goes with them."""
    sampler, count, items = settings.sampler, settings.negatives, model.items.count
    often = negatives.expected(sampler, count, found, items=items, counts=counts) if settings.corrected else None
    wanted = found if found.dim() == 1 else None  # negatives of each row are rows of the whole table
    return Drawn(found, model.own_vectors(wanted, made=made), often)


def _weights(history: History, settings: LossSettings) -> Tensor:
    """Weight (E, L) of each row."""
    weight = history.weight
    if weight is None:
        weight = torch.ones(history.item.shape, device=history.item.device)
    if settings.break_ms is None:
        return weight
    after = history.query_time - history.time >= settings.break_ms
    return weight * torch.where(after, settings.break_weight, 1.0)


def _row_losses(
    step: Step, hidden: Tensor, target: Tensor, weight: Tensor, drawn: Drawn | None, had: Had | None
) -> Tensor:
    """Loss (N,) of each hidden row (N, D), without what a text head adds."""
    model = step.model
    if drawn is None and model.repeat is not None and had is not None:
        return _repeat_losses(step, hidden, target, weight, had)
    return _cost(step, model.own_query(hidden) / model.temperature, target, weight, drawn)


def _of_text_head(
    step: Step, hidden: Tensor, target: Tensor, weight: Tensor, drawn: Drawn | None, last: Tensor
) -> Tensor:
    """Zeros (N,) that bring a text head its gradient: that of one row in so many, `last` (N, n) its last items.

    Layers and items are taken as they are, and learn from a loss of their own, as if there were no head. (Trained as
    one they learn less: what the head has said already is no loss any more.)
    """
    model, settings, some = step.model, step.settings, slice(None, None, HEAD_ROWS)
    queries = model.query(model.with_texts(hidden[some].detach(), last[some])) / model.fixed_temperature
    if drawn is not None:
        drawn = drawn._replace(vector=_detached(step, None if settings.per_row else drawn.item))
        if settings.per_row:
            expected = None if drawn.expected is None else drawn.expected[some]
            drawn = drawn._replace(item=drawn.item[some], expected=expected)
    skipped = last[some] if settings.skips_had else None
    cost = _cost(step, queries, target[some], weight[some], drawn, skipped, of=_detached)
    nothing = torch.zeros_like(weight, dtype=cost.dtype)
    nothing[some] = len(weight) / max(1, len(cost)) * (cost - cost.detach())
    return nothing


def _own(step: Step, items: Tensor | None) -> Tensor:
    """Vectors (..., D) of the given items, or of all, by which layers and items learn."""
    return step.model.own_vectors(items, made=step.made)


def _detached(step: Step, items: Tensor | None) -> Tensor:
    """The same without their gradient, with their texts' beside them (..., Q): a text head alone learns by these."""
    return step.model.beside_texts(_own(step, items).detach(), items)


def _cost(
    step: Step,
    queries: Tensor,
    target: Tensor,
    weight: Tensor,
    drawn: Drawn | None,
    skipped: Tensor | None = None,
    *,
    of: Callable[[Step, Tensor | None], Tensor] = _own,
) -> Tensor:
    """Loss (N,) of queries, over the temperature, against what was drawn, or everything, but `skipped` (N, n).

    `of` gives the vectors of items that they are matched against.
    """
    model, settings, _, counts = step
    queries = _wider(queries, queries.new_ones(len(queries)) if settings.logit_adjustment else None)
    if drawn is None:
        out = None if skipped is None else losses.without(skipped, target, queries.dtype)
        table = _wider(of(step, None), _given(settings, counts))
        return losses.full_softmax(queries, table, target, weight, chunk=settings.chunk, bonus=out)
    right = _wider(of(step, target), _given(settings, counts, target))
    wrong = _wider(drawn.vector, _given(settings, counts, None if settings.per_row else drawn.item))
    given = (queries, right, wrong, target, drawn.item, weight)
    if settings.kind == "sampled":
        return losses.sampled_softmax(*given, expected=drawn.expected, skipped=skipped)
    if settings.kind == "info_nce":
        return info_nce(*given, skipped=skipped)
    if settings.kind == "bpr":
        return losses.bpr(*given, skipped=skipped)
    power = losses.gbce_power(settings.negatives, model.items.count, settings.calibration)
    return losses.binary_cross_entropy(*given, power=power, skipped=skipped)


def _given(settings: LossSettings, counts: Tensor | None, items: Tensor | None = None) -> Tensor | None:
    """What is added to the logits of some items, or of all (V+1,), while training (arXiv 2007.07314, section 4.2)."""
    if not settings.logit_adjustment:
        return None
    assert counts is not None
    return settings.logit_adjustment * (1 + (counts if items is None else counts[items])).float().log()


def _wider(vectors: Tensor, added: Tensor | None) -> Tensor:
    """Vectors (N, D) with one number more each (N,), if any: products with queries that have a 1 there grow by it."""
    return vectors if added is None else torch.cat([vectors, added[:, None]], dim=1)


def _repeat_losses(step: Step, hidden: Tensor, target: Tensor, weight: Tensor, had: Had) -> Tensor:
    """Loss (N,) of each hidden row over all items where what its user has had adds to the logits.

    The pairs of a long history do not fit into memory: where a batch has more than may exist, rows are taken in blocks
    of so many pairs, and their losses once more in the backward pass (the same numbers, and the same gradient).
    """
    model, chunk = step.model, step.settings.chunk
    table, given = _own(step, None), _given(step.settings, step.counts)

    def losses_of(hidden: Tensor, target: Tensor, weight: Tensor, cells: Tensor) -> Tensor:
        queries, bonus = model.own_query(hidden) / model.temperature, model.bonus(hidden, had.runs.of(cells), table)
        asking = _wider(queries, None if given is None else queries.new_ones(len(queries)))
        return losses.full_softmax(asking, _wider(table, given), target, weight, chunk=chunk, bonus=bonus)

    rows = hidden, target, weight, had.cells
    if had.at_a_time is None or not len(target):
        return losses_of(*rows)
    block = had.runs.counts(had.cells).cumsum(0) // had.at_a_time
    sizes = block.unique_consecutive(return_counts=True)[1].tolist()
    blocks = zip(*(field.split(sizes) for field in rows), strict=True)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(losses_of, *part, **options) for part in blocks])
