"""Metrics: of ranks, how well the targets were found; of lists, what was recommended. NUMPY ONLY.

A rank is `1 + (items above the target) + (items tied with it) / 2`, so it may lie between two whole numbers; a target
that was not found has the rank infinity. A list holds item indices, best first, and PAD where nothing is recommended.
T targets, U users, Q lists, k their length, V items, D width.
"""

from collections.abc import Callable

import numpy as np

from persrec.constants import PAD

Ranks = np.ndarray  # (T,) float, 1 is the best
Values = np.ndarray  # float64
Lists = np.ndarray  # (Q, k) int64, 1..V or PAD


def hit_rate(ranks: Ranks, k: int) -> Values:
    """1 for a target among the first k, else 0. (T,)"""
    return (ranks <= k).astype(np.float64)


def recall(ranks: Ranks, k: int) -> Values:
    """The found part of a target: as `hit_rate`, but averaged over the targets of a user. (T,)"""
    return hit_rate(ranks, k)


def precision(ranks: Ranks, k: int) -> Values:
    """The part of a list of k that a target fills: 1/k where it is among them; added up over those of a user. (T,)"""
    return hit_rate(ranks, k) / k


def ndcg(ranks: Ranks, k: int) -> Values:
    """1 / log2(rank + 1) for a target among the first k, else 0. (T,)"""
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)


def mrr(ranks: Ranks, k: int) -> Values:
    """1 / rank for a target among the first k, else 0. (T,)"""
    return np.where(ranks <= k, 1 / ranks, 0.0)


def average_precision(ranks: Ranks, k: int) -> Values:
    """Of one target the same as `mrr`; of several the mean over them of the precision at each one found. (T,)"""
    return mrr(ranks, k)


METRICS: dict[str, Callable[[Ranks, int], Values]] = {
    "recall": recall,
    "hit_rate": hit_rate,
    "precision": precision,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}


def per_user(ranks: Ranks, counts: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, Values]:
    """Every metric at every cutoff, named as in tables and recipes (`ndcg@10`), given the ranks of all targets.

    `counts` (U,), all at least 1: targets of each user, which stand one after the other in `ranks`. Each (U,); with one
    target per user the plain metric of its rank.
    """
    starts = np.cumsum(counts) - counts
    ranks = ranks[np.lexsort((ranks, np.repeat(np.arange(len(counts)), counts)))]  # of each user, the best first
    return {
        f"{name}@{k}": _reduce(name, METRICS[name](ranks, k), starts, counts, k) for name in METRICS for k in cutoffs
    }


def _reduce(name: str, values: Values, starts: np.ndarray, counts: np.ndarray, k: int) -> Values:
    if name == "map":  # the i-th target found, at rank r, has the precision i / r; those not found count as 0
        found = np.arange(1, len(values) + 1) - np.repeat(starts, counts)
        return np.add.reduceat(found * values, starts) / counts
    if name in ("hit_rate", "mrr"):  # one found target is enough; the first one found counts
        return np.maximum.reduceat(values, starts)
    totals = np.add.reduceat(values, starts)
    if name == "precision":
        return totals
    return totals / counts if name == "recall" else totals / _ideal_gain(counts, k)


def _ideal_gain(counts: np.ndarray, k: int) -> Values:
    """The discounted gain of a list that begins with all targets of a user. (U,)"""
    gains = np.cumsum(1 / np.log2(np.arange(1, k + 1) + 1))
    return gains[np.minimum(counts, k) - 1]


def coverage(lists: Lists, catalogue: int) -> float:
    """Share of the V items of the catalogue that stand in any list."""
    return len(np.unique(lists[lists != PAD])) / catalogue


def gini(lists: Lists, catalogue: int) -> float:
    """How unevenly recommendations fall on the V items of the catalogue: 0 = all alike, 1 - 1/V = all on one item.

    NaN where nothing is recommended.
    """
    exposure = np.sort(np.bincount(lists[lists != PAD], minlength=catalogue + 1)[1:])
    if not exposure.sum():
        return float("nan")
    place = np.arange(1, catalogue + 1)
    return float(((2 * place - catalogue - 1) * exposure).sum() / (catalogue * exposure.sum()))


def novelty(lists: Lists, users_per_item: np.ndarray, users: int) -> Values:
    """Mean self-information of each list's items, -log2(share of the users who had the item), in bits. (Q,)

    `users_per_item` (V+1,) of the events that are trained on; an item that nobody had counts as had by one. NaN for an
    empty list.
    """
    return _mean_of_items(lists, -np.log2(np.maximum(users_per_item, 1) / users))


def average_popularity(lists: Lists, events_per_item: np.ndarray) -> Values:
    """Mean number of training events (V+1,) of each list's items; NaN for an empty list. (Q,)"""
    return _mean_of_items(lists, events_per_item)


def diversity(lists: Lists, vectors: np.ndarray) -> Values:
    """Intra-list diversity: 1 - cosine of two items' vectors (V+1, D), mean over all pairs of a list. (Q,)

    0 for a list of fewer than two items; a vector of zeros is at a distance of 1 from all.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    units = vectors / np.where(lengths > 0, lengths, 1)
    units[PAD] = 0
    total, own = np.zeros((len(lists), vectors.shape[1])), np.zeros(len(lists))
    for column in lists.T:
        total += units[column]
        own += (units[column] ** 2).sum(axis=1)
    count = (lists != PAD).sum(axis=1)
    pairs = count * (count - 1)
    cosines = (total**2).sum(axis=1) - own  # of all ordered pairs: |sum of v|^2 holds each v with itself as well
    return np.where(pairs > 0, 1 - cosines / np.maximum(pairs, 1), 0.0)


def _mean_of_items(lists: Lists, value: np.ndarray) -> Values:
    """Mean over each list's items of a value (V+1,) per item. (Q,)"""
    there = lists != PAD
    count = there.sum(axis=1)
    return np.where(count > 0, (value[lists] * there).sum(axis=1) / np.maximum(count, 1), np.nan)
