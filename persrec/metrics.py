"""Ranking metrics as pure functions of ranks.

A rank is `1 + (items above the target) + (items tied with it) / 2`, so it may lie between two whole numbers; a target
that was not found has the rank infinity. T targets, U users.
"""

from collections.abc import Callable

import numpy as np

Ranks = np.ndarray  # (T,) float, 1 is the best
Values = np.ndarray  # float64, between 0 and 1


def hit_rate(ranks: Ranks, k: int) -> Values:
    """1 for a target among the first k, else 0. (T,)"""
    return (ranks <= k).astype(np.float64)


def recall(ranks: Ranks, k: int) -> Values:
    """The found part of a target: as `hit_rate`, but averaged over the targets of a user. (T,)"""
    return hit_rate(ranks, k)


def ndcg(ranks: Ranks, k: int) -> Values:
    """1 / log2(rank + 1) for a target among the first k, else 0. (T,)"""
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)


def mrr(ranks: Ranks, k: int) -> Values:
    """1 / rank for a target among the first k, else 0. (T,)"""
    return np.where(ranks <= k, 1 / ranks, 0.0)


METRICS: dict[str, Callable[[Ranks, int], Values]] = {
    "recall": recall,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr,
}


def per_target(ranks: Ranks, cutoffs: tuple[int, ...]) -> dict[str, Values]:
    """Every metric at every cutoff, by the name that tables and recipes use: `ndcg@10`. Each (T,)"""
    return {f"{name}@{k}": metric(ranks, k) for name, metric in METRICS.items() for k in cutoffs}


def per_user(ranks: Ranks, counts: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, Values]:
    """Every metric at every cutoff for users with several targets each, given the targets' ranks in one list per user.

    `counts` (U,), all at least 1: targets of each user, which stand one after the other in `ranks`. Each (U,); with one
    target per user the same as `per_target`.
    """
    starts = np.cumsum(counts) - counts
    return {
        f"{name}@{k}": _reduce(name, METRICS[name](ranks, k), starts, counts, k) for name in METRICS for k in cutoffs
    }


def _reduce(name: str, values: Values, starts: np.ndarray, counts: np.ndarray, k: int) -> Values:
    if name in ("hit_rate", "mrr"):  # one found target is enough; the first one found counts
        return np.maximum.reduceat(values, starts)
    totals = np.add.reduceat(values, starts)
    return totals / counts if name == "recall" else totals / _ideal_gain(counts, k)


def _ideal_gain(counts: np.ndarray, k: int) -> Values:
    """The discounted gain of a list that begins with all targets of a user. (U,)"""
    gains = np.cumsum(1 / np.log2(np.arange(1, k + 1) + 1))
    return gains[np.minimum(counts, k) - 1]
