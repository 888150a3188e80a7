"""Search by several queries of each user: an item's score is the highest that any of them gives it.

Shapes: B users, J queries of each, D width, V items.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from persrec.constants import PAD
from persrec.retrieval.seen import Membership

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Shared:
    """What users have seen, for `count` queries of each, one after the other."""

    def __init__(self, seen: Membership, count: int) -> None:
        self._seen, self._count = seen, count
        self.counts = np.repeat(seen.counts, count)

    def contains(self, users: Ints, items: Ints) -> npt.NDArray[np.bool_]:
        return self._seen.contains(users // self._count, items)


def top_k_of_several(
    search: Callable[[Floats, Membership], tuple[Ints, Floats]], queries: Floats, seen: Membership
) -> tuple[Ints, Floats]:
    """Items and scores (B, k) of users with queries (B, J, D), best first, ties by item, each item once.

    `search` gives items and scores (N, k) of queries (N, D) and what each has seen. The k best by the highest score are
    among the k best of one query or another, so nothing is missed.
    """
    users, count, width = queries.shape
    items, scores = search(queries.reshape(users * count, width), Shared(seen, count))
    k = items.shape[1]
    items, scores = items.reshape(users, -1), scores.reshape(users, -1)
    order = np.lexsort((-scores, items))  # each item's best score first
    items, scores = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)
    again = np.zeros(items.shape, dtype=bool)
    again[:, 1:] = items[:, 1:] == items[:, :-1]
    scores = np.where(again | (items == PAD), -np.inf, scores).astype(np.float32)
    best = np.lexsort((items, -scores))[:, :k]
    scores = np.take_along_axis(scores, best, axis=1)
    return np.where(np.isneginf(scores), PAD, np.take_along_axis(items, best, axis=1)), scores
