"""Item vectors from a truncated SVD, and two ways to a user's vector: all items alike, or the latest first.

Shapes: B queries, V items, D width.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from persrec.baselines.baseline import Scores, answerable, with_popularity
from persrec.baselines.events import distinct, halving, known, matrix, trained
from persrec.prepared import Prepared, Queries

LEAST_STRENGTH = 1e-5  # of a direction, against the first one; below there is nothing but rounding

Floats = npt.NDArray[np.float32]


class SVD:
    """PureSVD (Cremonesi et al. 2010): x V V' for the row x of a user's different items; users by items are U S V'."""

    def __init__(self, *, width: int = 64) -> None:
        self.width = width

    def fit(self, data: Prepared) -> None:
        self.popularity = data.training_events_per_item
        self.vectors = decompose(data, self.width).vectors

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        rows = distinct(data, known(data, queries), len(queries.user))
        found = (rows @ self.vectors) @ self.vectors.T
        return with_popularity(found, answerable(rows, self.popularity), self.popularity)


class DecayedMean:
    """Inner product of an item's vector with the mean of those of the history, where old events count less.

    Vectors are the rows of V S at length 1; an event counts half for every `half_life` events after it.
    """

    def __init__(self, *, width: int = 64, half_life: float = 4.0) -> None:
        self.width, self.half_life = width, half_life

    def fit(self, data: Prepared) -> None:
        self.popularity = data.training_events_per_item
        vectors, strength = decompose(data, self.width)
        length = np.linalg.norm(vectors * strength, axis=1, keepdims=True)
        self.vectors = vectors * strength / np.where(length > 0, length, 1)

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        events = known(data, queries)
        rows = matrix(data, events, halving(events.age / self.half_life), len(queries.user))
        mean = rows @ self.vectors / rows.sum(axis=1).reshape(-1, 1)
        found = np.asarray(mean) @ self.vectors.T
        return with_popularity(found, answerable(rows, self.popularity), self.popularity)


def weighted_vectors(data: Prepared, width: int) -> Floats:
    """Vectors (V+1, D) of the items by who had them: the rows of V S."""
    vectors, strength = decompose(data, width)
    return vectors * strength


class Decomposition(NamedTuple):
    """V and S of users by items."""

    vectors: Floats  # (V+1, D)
    strength: Floats  # (D,) falling


def decompose(data: Prepared, width: int) -> Decomposition:
    """At most `width` directions of the matrix of users by different items, of training events."""
    from sklearn.utils.extmath import randomized_svd  # here, as scikit-learn takes a second to load

    rows = distinct(data, trained(data), data.users)
    _, strength, directions = randomized_svd(rows, min(width, *rows.shape), random_state=0)
    there = strength > LEAST_STRENGTH * strength[0]
    return Decomposition(np.ascontiguousarray(directions[there].T), strength[there])
