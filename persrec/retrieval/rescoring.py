"""Search where some items of each query get an addition to their score: these one by one, all others by an index.

Shapes: B queries, P pairs of a query and an item with an addition, T targets, V items, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from persrec.errors import UserError
from persrec.retrieval.search import TIE, TopK, check, top_k
from persrec.retrieval.seen import Seen

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Additions(NamedTuple):
    """Pairs of query and item, each at most once, ascending by query."""

    query: Ints  # (P,)
    item: Ints  # (P,)
    value: Floats  # (P,)

    def take(self, queries: Ints) -> "Additions":
        """Those of some queries (ascending), numbered from 0."""
        begin, end = np.searchsorted(self.query, queries), np.searchsorted(self.query, queries + 1)
        counts = end - begin
        number = np.repeat(np.arange(len(queries)), counts)
        place = begin[number] + np.arange(len(number)) - (np.cumsum(counts) - counts)[number]
        return Additions(number, self.item[place], self.value[place])

    def within(self, place: Ints) -> "Additions":
        """The same of other numbers: `place` (V+1,) has that of each item, 0 where it has none."""
        item = place[self.item]
        return Additions(self.query[item > 0], item[item > 0], self.value[item > 0])


def check_finite(queries: Floats, additions: Additions | None, user_of: Callable[[int], object]) -> None:
    """Raise UserError for queries (B, D), or additions to their scores, that are not finite, and say whose they are."""
    wrong = np.asarray(~np.isfinite(queries).all(axis=1))
    if additions is not None:
        wrong[additions.query[~np.isfinite(additions.value)]] = True
    if wrong.any():
        raise UserError(
            f"the query of user {user_of(int(wrong.argmax()))!r} is not finite ({int(wrong.sum())} of {len(wrong)} are "
            "not); training has diverged: lower training.learning_rate or training.clip and fit again"
        )


def discounted(additions: Additions | None, seen: Seen, *, odds: float, temperature: float) -> Additions:
    """Additions by which what a query has seen is lowered, beside what else is added to it.

    A softmax over scores / temperature gives an item the odds exp(score / temperature) against another one of score 0;
    these are multiplied by `odds`, so temperature * log(odds) is added to the score.
    """
    query, item = seen.pairs()
    value = np.full(len(query), temperature * np.log(odds), np.float32)
    if additions is None:
        return Additions(query, item, value)
    queries, items = np.append(additions.query, query), np.append(additions.item, item)
    stride = int(items.max(initial=0)) + 1
    keys, place = np.unique(queries * stride + items, return_inverse=True)
    values = np.bincount(place, np.append(additions.value, value), len(keys))
    return Additions(keys // stride, keys % stride, values.astype(np.float32))


def rescored_top_k(
    index: TopK, queries: Floats, additions: Additions, k: int, *, users_per_chunk: int = 1024
) -> tuple[Ints, Floats]:
    """Items (B, k) and scores (B, k) of each query, best first, ties by item; raises as `top_k`."""
    without = Seen(additions.query, additions.item, len(queries))
    rest, scores = top_k(index, queries, without, k, exclude_seen=True, users_per_chunk=users_per_chunk)
    rows = np.repeat(np.arange(len(queries)), k)
    query = np.concatenate([rows, additions.query])
    item = np.concatenate([rest.ravel(), additions.item])
    score = np.concatenate(
        [scores.ravel(), products(index.vectors, queries, additions.query, additions.item) + additions.value]
    )
    order = np.lexsort((item, -score, query))
    counts = np.bincount(query, minlength=len(queries))
    best = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]  # at least k pairs per query: those of the index
    return item[best], score[best].astype(np.float32)


def rescored_ranks(
    index: TopK,
    queries: Floats,
    additions: Additions,
    query: Ints,
    target: Ints,
    k_max: int,
    *,
    users_per_chunk: int = 1024,
) -> npt.NDArray[np.float64]:
    """Rank (T,) of each target of a query (T,), ascending: 1 + items above it + items tied with it / 2; inf beyond
    `k_max`, and where an approximate search finds a target neither there nor among the additions. Raises as `top_k`."""
    check(index, queries, k_max)
    catalogue = len(index.vectors) - 1
    ranks = np.full(len(target), np.inf)
    for start in range(0, len(target), users_per_chunk):
        rows = np.arange(start, min(start + users_per_chunk, len(target)))
        depth = min(2 * k_max, catalogue)
        while len(rows):
            asked, place = np.unique(query[rows], return_inverse=True)
            some, own = queries[asked], additions.take(asked)
            items, scores = rescored_top_k(index, some, own, depth, users_per_chunk=users_per_chunk)
            rank, lowest = _ranks(index, some, own, place, target[rows], items[place], scores[place])
            late = rank > k_max
            settled = late | (scores[place, -1] < lowest) | (depth == catalogue)
            ranked = settled & ~late & (items[place] == target[rows, None]).any(axis=1)
            ranks[rows[ranked]] = rank[ranked]
            rows, depth = rows[~settled], min(2 * depth, catalogue)
    return ranks


def _ranks(
    index: TopK, queries: Floats, additions: Additions, query: Ints, target: Ints, items: Ints, scores: Floats
) -> tuple[npt.NDArray[np.float64], Floats]:
    """The rank (T,) in the lists at hand, and the score (T,) below which others would not change it."""
    base = products(index.vectors, queries, query, target)
    key = additions.query * len(index.vectors) + additions.item
    order = np.argsort(key)
    wanted = query * len(index.vectors) + target
    place = np.minimum(np.searchsorted(key[order], wanted), max(len(key) - 1, 0))
    found = key[order][place] == wanted if len(key) else np.zeros(len(wanted), dtype=bool)
    score = base + np.where(found, additions.value[order][place] if len(key) else 0.0, 0.0)
    margin = TIE * (np.linalg.norm(queries[query], axis=1) * np.linalg.norm(index.vectors[target], axis=1) + abs(score))
    rival = items != target[:, None]
    above = rival & (scores > (score + margin)[:, None])
    tied = rival & (abs(scores - score[:, None]) <= margin[:, None])
    return 1 + above.sum(axis=1) + tied.sum(axis=1) / 2, score - margin


def products(vectors: Floats, queries: Floats, query: Ints, item: Ints) -> Floats:
    """Inner products (P,) of pairs of query and item, by item vectors (V+1, D); 2**18 at a time."""
    parts = [
        np.einsum("pd,pd->p", queries[query[start : start + (1 << 18)]], vectors[item[start : start + (1 << 18)]])
        for start in range(0, len(query), 1 << 18)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
