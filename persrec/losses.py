"""Losses: pure functions of queries, item vectors and targets; each gives one loss per row.

Shapes: N scored rows, D width, V items (row 0 of an item table is PAD), J negatives. Queries are already divided by the
temperature, and both sides are normalised by the caller where the score is a cosine.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from persrec.constants import PAD


def full_softmax(queries: Tensor, table: Tensor, target: Tensor, weight: Tensor, *, chunk: int = 1 << 24) -> Tensor:
    """Cross-entropy of (N, D) queries over all V items of a (V+1, D) table, times `weight` (N,): (N,).

    Exact, and its gradient too, in memory for `chunk` logits at a time: rows are taken in blocks, and where V > chunk
    the catalogue as well. Gradients reach queries and table through the sum of the result only (they are made on the
    way forward, with the same factor for every row; what differs between rows belongs into `weight`).
    """
    return _FullSoftmax.apply(queries, table, target, weight, chunk)


class _FullSoftmax(torch.autograd.Function):
    """Softmax cross-entropy that makes its gradient while it has the logits, and keeps only that."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, table: Tensor, target: Tensor, weight: Tensor, chunk: int) -> Tensor:
        wanted = queries.requires_grad or table.requires_grad
        items = table[PAD + 1 :]
        rows = max(1, chunk // max(1, min(len(items), chunk)))
        losses = queries.new_empty(len(queries))
        grad_queries, grad_table = torch.zeros_like(queries), torch.zeros_like(table)
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            losses[part] = _softmax_block(
                queries[part], items, target[part] - 1, weight[part], chunk, grad_queries[part], grad_table[1:], wanted
            )
        ctx.save_for_backward(grad_queries, grad_table)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_queries, grad_table = ctx.saved_tensors
        factor = grad[0] if len(grad) else grad.new_zeros(())
        if not bool((grad == factor).all()):
            raise RuntimeError("full_softmax can only be summed; put what differs between rows into `weight`")
        return grad_queries * factor, grad_table * factor, None, None, None


def _softmax_block(
    queries: Tensor,
    items: Tensor,
    target: Tensor,
    weight: Tensor,
    chunk: int,
    grad_queries: Tensor,
    grad_items: Tensor,
    wanted: bool,
) -> Tensor:
    """Weighted losses (n,) of a block of rows; with `wanted`, gradients are added in place."""
    right = (queries * items[target]).sum(dim=1)
    largest, total, shares = _exponentials(queries, items, chunk)
    if wanted:
        scale = (weight / total)[:, None]
        for part, share in shares:
            share.mul_(scale)
            grad_queries.addmm_(share, items[part])
            grad_items[part].addmm_(share.T, queries)
        grad_queries.sub_(items[target] * weight[:, None])
        grad_items.index_add_(0, target, queries * weight[:, None], alpha=-1)
    return (total.log() + largest - right) * weight


def _exponentials(queries: Tensor, items: Tensor, chunk: int) -> tuple[Tensor, Tensor, Iterable[tuple[slice, Tensor]]]:
    """Largest logit (n,), sum of exp(logit - largest) (n,), and those terms by part of the catalogue, each once."""
    parts = [slice(start, start + chunk) for start in range(0, len(items), chunk)]
    if len(parts) == 1:
        logits = queries @ items.T
        largest = logits.amax(dim=1)
        terms = logits.sub_(largest[:, None]).exp_()
        return largest, terms.sum(dim=1), [(parts[0], terms)]
    largest = torch.stack([(queries @ items[part].T).amax(dim=1) for part in parts]).amax(dim=0)

    def terms_of(part: slice) -> Tensor:
        return (queries @ items[part].T).sub_(largest[:, None]).exp_()

    total = torch.stack([terms_of(part).sum(dim=1) for part in parts]).sum(dim=0)
    return largest, total, ((part, terms_of(part)) for part in parts)


def sampled_softmax(
    queries: Tensor, positive: Tensor, negative: Tensor, target: Tensor, negatives: Tensor, weight: Tensor
) -> Tensor:
    """Cross-entropy of each target against its negatives, times `weight` (N,): (N,).

    `positive` (N, D) are the targets' vectors; `negative` is (J, D), shared by all rows, or (N, J, D); `negatives`
    holds the negatives' items, (J,) or (N, J). A negative that is the row's own target is masked.
    """
    right = (queries * positive).sum(dim=1, keepdim=True)  # (N, 1)
    wrong = queries @ negative.T if negative.dim() == 2 else torch.einsum("nd,njd->nj", queries, negative)
    wrong = wrong.masked_fill(negatives == target[:, None], float("-inf"))
    logits = torch.cat([right, wrong], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target), reduction="none") * weight
