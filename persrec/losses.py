"""Losses: pure functions of queries, item vectors and targets; each gives one loss per row.

Shapes: N scored rows, D width, V items (row 0 of an item table is PAD), J negatives, P pairs of row and item. Queries
are already divided by the temperature, and both sides are normalised by the caller where the score is a cosine.
"""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from persrec.constants import PAD

SAME = 0.99  # cosine to the target's vector from which on InfoNCE takes a negative for the same thing
CACHED = 1 << 20  # logits that a CPU's cache holds; going over them again is then nearly free
FEWEST_ROWS = 32  # of a block, so that products with a large catalogue stay products of matrices


class Bonus(NamedTuple):
    """What is added to some of the logits."""

    row: Tensor  # (P,) ascending
    item: Tensor  # (P,) different items per row
    value: Tensor  # (P,)

    def part(self, start: int, end: int) -> "Bonus":
        """Those of rows start to end - 1, numbered from 0."""
        bounds = torch.searchsorted(self.row, torch.tensor([start, end], device=self.row.device)).tolist()
        row, item, value = (field[slice(*bounds)] for field in self)
        return Bonus(row - start, item, value)


def full_softmax(
    queries: Tensor,
    table: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    chunk: int = 1 << 24,
    bonus: Bonus | None = None,
) -> Tensor:
    """Cross-entropy of (N, D) queries over all V items of a (V+1, D) table, times `weight` (N,): (N,).

    Exact, and its gradient too, in memory for `chunk` logits at a time: rows are taken in blocks, on a CPU small enough
    for its cache, and where V > chunk the catalogue as well. Gradients reach queries, table and bonus through the sum
    of the result only (they are made on the way forward, with the same factor for every row; what differs between rows
    belongs into `weight`).
    """
    none = target.new_zeros(0)
    row, item, value = Bonus(none, none, queries.new_zeros(0)) if bonus is None else bonus
    return _FullSoftmax.apply(queries, table, target, weight, chunk, row, item, value)


def without(items: Tensor, target: Tensor, dtype: torch.dtype) -> Bonus:
    """What takes a row's items (N, n), PAD where there are fewer, out of a full softmax, but for its target (N,)."""
    items = items.sort(dim=1).values
    first = items != F.pad(items[:, :-1], (1, 0), value=PAD)
    row, column = ((items != PAD) & first & (items != target[:, None])).nonzero().unbind(dim=1)
    return Bonus(row, items[row, column], torch.full_like(row, -torch.inf, dtype=dtype))


class _FullSoftmax(torch.autograd.Function):
    """Softmax cross-entropy that makes its gradient while it has the logits, and keeps only that."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        table: Tensor,
        target: Tensor,
        weight: Tensor,
        chunk: int,
        row: Tensor,
        item: Tensor,
        value: Tensor,
    ) -> Tensor:
        wanted = queries.requires_grad or table.requires_grad or value.requires_grad
        items, every = table[PAD + 1 :], Bonus(row, item - 1, value)
        rows = _rows_of_block(len(items), chunk, cpu=items.device.type == "cpu")
        losses = queries.new_empty(len(queries))
        of_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        grads = Grads(torch.zeros_like(queries), of_table, torch.zeros_like(value))
        of_items = None if of_table is None else of_table[PAD + 1 :]
        done = 0
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            bonus = every.part(start, start + rows)
            own = slice(done, done + len(bonus.row))
            done = own.stop
            block = Grads(grads.queries[part], of_items, grads.bonus[own]) if wanted else None
            losses[part] = _softmax_block(queries[part], items, target[part] - 1, weight[part], chunk, bonus, block)
        ctx.save_for_backward(*grads)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, items, bonus = ctx.saved_tensors
        factor = grad[0] if len(grad) else grad.new_zeros(())
        if not bool((grad == factor).all()):
            raise RuntimeError("full_softmax can only be summed; put what differs between rows into `weight`")
        by_item = None if items is None else items * factor
        return queries * factor, by_item, None, None, None, None, None, bonus * factor


def _rows_of_block(items: int, chunk: int, *, cpu: bool) -> int:
    """How many rows of V logits are taken at a time."""
    rows = max(1, chunk // max(1, min(items, chunk)))
    return min(rows, max(FEWEST_ROWS, CACHED // max(1, items))) if cpu else rows


class Grads(NamedTuple):
    """Where gradients are added up."""

    queries: Tensor
    items: Tensor | None  # where they learn
    bonus: Tensor


def _softmax_block(
    queries: Tensor, items: Tensor, target: Tensor, weight: Tensor, chunk: int, bonus: Bonus, grads: Grads | None
) -> Tensor:
    """Weighted losses (n,) of a block of rows; gradients, where they are wanted, are added in place."""
    hit = bonus.item == target[bonus.row]  # the target itself was had before
    right = (queries * items[target]).sum(dim=1).index_add(0, bonus.row[hit], bonus.value[hit])
    largest, total, shares = _exponentials(queries, items, chunk, bonus)
    if grads is not None:
        scale = weight / total
        for part, share in shares:
            share.mul_(scale[:, None])
            grads.queries.addmm_(share, items[part])
            if grads.items is not None:
                grads.items[part].addmm_(share.T, queries)
            inside = (bonus.item >= part.start) & (bonus.item < part.stop)
            grads.bonus[inside] += share[bonus.row[inside], bonus.item[inside] - part.start]
        grads.queries.sub_(items[target] * weight[:, None])
        if grads.items is not None:
            grads.items.index_add_(0, target, queries * weight[:, None], alpha=-1)
        grads.bonus[hit] -= weight[bonus.row[hit]]
    return (total.log() + largest - right) * weight


def _exponentials(
    queries: Tensor, items: Tensor, chunk: int, bonus: Bonus
) -> tuple[Tensor, Tensor, Iterable[tuple[slice, Tensor]]]:
    """Largest logit (n,), sum of exp(logit - largest) (n,), and those terms by part of the catalogue, each once."""
    parts = [slice(start, start + chunk) for start in range(0, len(items), chunk)]

    def logits_of(part: slice) -> Tensor:
        logits = queries @ items[part].T
        if len(bonus.row):
            inside = (bonus.item >= part.start) & (bonus.item < part.stop)
            place = bonus.row[inside], bonus.item[inside] - part.start
            logits.index_put_(place, bonus.value[inside], accumulate=True)
        return logits

    if len(parts) == 1:
        logits = logits_of(parts[0])
        largest = logits.amax(dim=1)
        terms = logits.sub_(largest[:, None]).exp_()
        return largest, terms.sum(dim=1), [(parts[0], terms)]
    largest = torch.stack([logits_of(part).amax(dim=1) for part in parts]).amax(dim=0)

    def terms_of(part: slice) -> Tensor:
        return logits_of(part).sub_(largest[:, None]).exp_()

    total = torch.stack([terms_of(part).sum(dim=1) for part in parts]).sum(dim=0)
    return largest, total, ((part, terms_of(part)) for part in parts)


def sampled_softmax(
    queries: Tensor,
    positive: Tensor,
    negative: Tensor,
    target: Tensor,
    negatives: Tensor,
    weight: Tensor,
    *,
    expected: Tensor | None = None,
    skipped: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each target against its negatives, times `weight` (N,): (N,).

    `positive` (N, D) are the targets' vectors. `negatives` holds the items of the negatives: (J,) for all rows, when
    `negative` is their vectors (J, D); or (N, J), those of each row, when `negative` is the table (V+1, D) that they
    are rows of. A negative that is the row's own target is masked, and so is one of its `skipped` items (N, n).

    With `expected`, shaped as `negatives`, a negative that is drawn so many times on average counts for one (logQ
    correction): what the target stands against is on average the full softmax's. The target itself was not drawn, and
    its logit stays as it is (arXiv 2507.09331).
    """
    right, wrong, collides = _against(queries, positive, negative, target, negatives, skipped)
    if expected is not None:
        wrong = wrong - expected.log()
    logits = torch.cat([right, wrong.masked_fill(collides, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target), reduction="none") * weight


def binary_cross_entropy(
    queries: Tensor,
    positive: Tensor,
    negative: Tensor,
    target: Tensor,
    negatives: Tensor,
    weight: Tensor,
    *,
    power: float = 1.0,
    skipped: Tensor | None = None,
) -> Tensor:
    """Mean binary cross-entropy of each target and its negatives, times `weight` (N,): (N,).

    The target's probability is taken to the `power` (gBCE, arXiv 2308.07192; 1 = plain BCE). Shapes are
    those of `sampled_softmax`; what is masked there is left out of the mean.
    """
    right, wrong, collides = _against(queries, positive, negative, target, negatives, skipped)
    against = F.softplus(wrong).masked_fill(collides, 0.0).sum(dim=1)
    counted = 1 + (~collides).sum(dim=1)
    return (power * F.softplus(-right[:, 0]) + against) / counted * weight


def bpr(
    queries: Tensor,
    positive: Tensor,
    negative: Tensor,
    target: Tensor,
    negatives: Tensor,
    weight: Tensor,
    *,
    skipped: Tensor | None = None,
) -> Tensor:
    """Mean of -log sigmoid(target's logit - a negative's), times `weight` (N,): (N,) (BPR, arXiv 1205.2618).

    Shapes are those of `sampled_softmax`. What is masked there is left out of the mean, which is 0 where nothing else
    was drawn.
    """
    right, wrong, collides = _against(queries, positive, negative, target, negatives, skipped)
    below = F.softplus(wrong - right).masked_fill(collides, 0.0).sum(dim=1)
    return below / (~collides).sum(dim=1).clamp(min=1) * weight


def gbce_power(negatives: int, items: int, calibration: float) -> float:
    """The power beta of gBCE at J uniform negatives out of V items (arXiv 2308.07192).

    Calibration 0 is plain BCE; at 1 scores become probabilities of all items, as if none had been left out.
    """
    rate = negatives / max(1, items - 1)
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def _against(
    queries: Tensor,
    positive: Tensor,
    negative: Tensor,
    target: Tensor,
    negatives: Tensor,
    skipped: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the targets (N, 1) and of the negatives (N, J), and which of these are none, bool (N, J)."""
    right = (queries * positive).sum(dim=1, keepdim=True)
    none = negatives == target[:, None]
    for items in () if skipped is None else skipped.unbind(dim=1):
        none |= negatives == items[:, None]
    return right, _products(queries, negative, negatives), none


def _products(queries: Tensor, vectors: Tensor, items: Tensor) -> Tensor:
    """Products (N, J) of queries and the vectors of their items; see `sampled_softmax` for what these may be."""
    if items.dim() == 1:
        return queries @ vectors.T
    if items.shape[1] >= len(vectors):  # it is less to ask for all
        return (queries @ vectors.T).gather(1, items)
    if vectors.device.type != "cpu":
        return torch.einsum("nd,njd->nj", queries, vectors[items])
    start = torch.arange(len(items) + 1, dtype=torch.int32) * items.shape[1]
    return _ChosenProducts.apply(queries, vectors, start, items.flatten()).view(items.shape)


def pair_products(queries: Tensor, table: Tensor, row: Tensor, item: Tensor) -> Tensor:
    """Products (P,) of queries (N, D) and rows of a table (V+1, D); `row` (P,), that of the query, ascends."""
    if queries.device.type != "cpu":
        return (queries[row] * table[item]).sum(dim=-1)
    start = torch.searchsorted(row, torch.arange(len(queries) + 1)).int()
    return _ChosenProducts.apply(queries, table, start, item)


class _ChosenProducts(torch.autograd.Function):
    """Products (P,) of queries (N, D) and rows `items` (P,) of a table (V, D), as a sparse matrix (N, V).

    Query n has those from `start[n]` to `start[n+1]`, int32 (N+1,). Rows are never gathered: 130 each of 4,096 queries,
    D = 64, take 30 ms there and back on one core; gathered, 260 ms by a product of batches and 950 ms by an einsum.
    `items` may repeat themselves.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, table: Tensor, start: Tensor, items: Tensor) -> Tensor:
        ctx.save_for_backward(queries, table, start, items)
        asked = _by_rows(start, items, torch.zeros_like(items, dtype=queries.dtype), len(table))
        return torch.sparse.sampled_addmm(asked, queries, table.T, beta=0.0).values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, table, start, items = ctx.saved_tensors
        weights = _by_rows(start, items, grad, len(table))
        return weights @ table, weights.t() @ queries, None, None


def _by_rows(start: Tensor, items: Tensor, values: Tensor, catalogue: int) -> Tensor:
    """The sparse matrix (N, V) whose row n has the values (P,) from `start[n]` on at the columns items (P,)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        shape = (len(start) - 1, catalogue)
        return torch.sparse_csr_tensor(start, items.int(), values, shape, check_invariants=False)


def info_nce(
    queries: Tensor,
    positive: Tensor,
    negative: Tensor,
    target: Tensor,
    negatives: Tensor,
    weight: Tensor,
    *,
    same: float = SAME,
    skipped: Tensor | None = None,
) -> Tensor:
    """InfoNCE as HLLM trains with it (arXiv 2409.12740): cross-entropy times `weight` (N,): (N,).

    Shapes are those of `sampled_softmax`. Masked is what is masked there, and negatives whose vector has a cosine above
    `same` with the target's.
    """
    right, wrong, masked = _against(queries, positive, negative, target, negatives, skipped)
    with torch.no_grad():
        masked |= _products(F.normalize(positive, dim=-1), F.normalize(negative, dim=-1), negatives) > same
    logits = torch.cat([right, wrong.masked_fill(masked, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target), reduction="none") * weight
