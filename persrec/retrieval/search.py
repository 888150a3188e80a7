"""The items with the highest scores of a query, and the rank of a target among them.

B users, V items, D width. Item row 0 is padding and is never retrieved. `ExactIndex` (faiss) does the work,
`BruteForce` (numpy) is its oracle; whatever is a `TopK`, as those of indexes.py, can take their place.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from persrec.errors import UserError
from persrec.retrieval.seen import Membership

# Two scores are tied where they differ by no more than this share of |query| |target|: equal vectors may get float32
# sums that differ by as much, as the order of summation depends on the place in the matrix.
TIE = 1e-6


class TopK(Protocol):
    vectors: np.ndarray  # (V+1, D) float32

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B, k), falling, and items (B, k) int64 of queries (B, D).

        What an approximate search does not find it fills with PAD at the score -inf, at the end of the row. What a
        query gets depends on no other one, as long as all ask for depths between the same two powers of two.
        """


class ExactIndex:
    """Inner products over all items, by faiss."""

    def __init__(self, vectors: np.ndarray) -> None:
        import faiss  # here, as it costs half a second that only searches should pay

        self.vectors = checked_vectors(vectors)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(self.vectors[1:])

    @property
    def nbytes(self) -> int:
        return self.vectors[1:].nbytes

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        check(self, queries, k)
        scores, items = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return scores, items + 1


class BruteForce:
    """Inner products over all items, by numpy: slow, and short enough to be right."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = checked_vectors(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        check(self, queries, k)
        scores = queries.astype(np.float32) @ self.vectors[1:].T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), best + 1


def top_k(
    index: TopK,
    queries: np.ndarray,
    seen: Membership,
    k: int,
    *,
    exclude_seen: bool = True,
    users_per_chunk: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Items (B, k) and scores (B, k) of each user, best first, ties by item.

    k candidates and as many more as the user has seen items are enough; of an exact index first so many that 4 k others
    are expected, had chance chosen the seen ones, then twice as many until k others are there. Where fewer than k items
    are left to a user, the rest of the row is PAD with the score -inf. Raises UserError for k above V and for queries
    that are not finite.
    """
    check(index, queries, k)
    items, scores = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf, np.float32)
    enough = _depths(index, seen, k, exclude_seen)
    catalogue = len(index.vectors) - 1
    todo, depth = np.arange(len(queries)), np.full(len(queries), catalogue)
    if isinstance(index, ExactIndex):
        depth = 4 * k * catalogue // (catalogue - enough + k)
    while len(todo):
        short = []
        for rows, common in _groups(np.minimum(depth, enough)[todo], users_per_chunk):
            asked = todo[rows]
            found, candidates = index.search(queries[asked], common)
            last = found[:, -1].copy()
            if exclude_seen:
                found[seen.contains(asked, candidates)] = -np.inf
            best = np.lexsort((candidates, -found))[:, :k]  # hidden ones last
            scores[asked] = np.take_along_axis(found, best, axis=1)
            items[asked] = np.where(np.isneginf(scores[asked]), 0, np.take_along_axis(candidates, best, axis=1))
            short.append(asked[(scores[asked, -1] <= last) & (common < enough[asked])])
        todo, depth = np.concatenate(short), 2 * depth
    return items, scores


def rank_targets(
    index: TopK,
    queries: np.ndarray,
    targets: np.ndarray,
    seen: Membership,
    k_max: int,
    *,
    exclude_seen: bool = True,
    users_per_chunk: int = 1024,
) -> np.ndarray:
    """The rank (B,) of each user's target (B,): 1 + items above it + items tied with it / 2, and inf beyond `k_max`.

    Seen items take no rank, the target always does. A target that an
    approximate search does not find has the rank inf, and what else it misses takes no rank: the rank is that in the
    list that the user would get. Raises as `top_k`.
    """
    check(index, queries, k_max)
    ranks = np.full(len(queries), np.inf)
    for rows, depth in _groups(_depths(index, seen, k_max, exclude_seen), users_per_chunk):
        while len(rows):
            found, candidates = index.search(queries[rows], depth)
            rival = candidates != targets[rows, None]
            if exclude_seen:
                rival &= ~seen.contains(rows, candidates)
            rank, lowest = _rank(index, queries[rows], targets[rows], found, rival)
            late = rank > k_max
            settled = late | (found[:, -1] < lowest) | (depth == len(index.vectors) - 1)
            ranked = settled & ~late & (candidates == targets[rows, None]).any(axis=1)
            ranks[rows[ranked]] = rank[ranked]
            rows, depth = rows[~settled], min(2 * depth, len(index.vectors) - 1)
    return ranks


def _rank(
    index: TopK, queries: np.ndarray, targets: np.ndarray, found: np.ndarray, rival: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank (B,) among the candidates at hand, and the score (B,) below which others would not change it."""
    own = index.vectors[targets]
    score = np.einsum("bd,bd->b", queries, own)
    margin = TIE * np.linalg.norm(queries, axis=1) * np.linalg.norm(own, axis=1)
    above = rival & (found > (score + margin)[:, None])
    tied = rival & (np.abs(found - score[:, None]) <= margin[:, None])
    return 1 + above.sum(axis=1) + tied.sum(axis=1) / 2, score - margin


def _depths(index: TopK, seen: Membership, k: int, exclude_seen: bool) -> np.ndarray:
    """How many candidates each user needs, so that k are left after those it has seen. (B,)"""
    needed = seen.counts + k if exclude_seen else np.full(len(seen.counts), k)
    return np.minimum(needed, len(index.vectors) - 1)


def _groups(depths: np.ndarray, users_per_chunk: int) -> Iterator[tuple[np.ndarray, int]]:
    """Chunks of user rows that need about as many candidates (within a factor of two), and the most that one needs."""
    power = np.frexp(depths)[1]
    for value in np.unique(power):
        rows = np.flatnonzero(power == value)
        for start in range(0, len(rows), users_per_chunk):
            chunk = rows[start : start + users_per_chunk]
            yield chunk, int(depths[chunk].max())


def check(index: TopK, queries: np.ndarray, k: int) -> None:
    catalogue = len(index.vectors) - 1
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= catalogue:
        raise UserError(
            f"k: got {k!r}, expected a whole number from 1 to {catalogue}, the number of items (in a recipe: "
            "evaluation.k)"
        )
    _check_finite(queries, "the query of user row")


def checked_vectors(vectors: np.ndarray) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    _check_finite(vectors, "the vector of item")
    return vectors


def _check_finite(rows: np.ndarray, what: str) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        wrong = int(np.argmin(finite))
        advice = "training has diverged: lower training.learning_rate or training.clip and fit again"
        raise UserError(f"{what} {wrong} is not finite ({int((~finite).sum())} of {len(rows)} are not); {advice}")
