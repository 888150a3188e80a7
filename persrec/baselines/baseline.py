"""What a baseline is: scores of all items, by closed forms and counts, for queries on a prepared log.

Shapes: B queries, V items.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from persrec.constants import PAD
from persrec.errors import UserError
from persrec.prepared import Prepared, Queries

Scores = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Baseline(Protocol):
    """Fitted on the training events, [0, train_end) of each user; asked for users who have had the events [0, end).

    What a baseline has nothing to say about is ranked by popularity, below everything that it does score; items without
    training events that it does not score come last, all tied.
    """

    def fit(self, data: Prepared) -> None:
        """Learn from the training events and nothing else. Raises UserError for a log that this baseline cannot use."""

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        """A score per item for a chunk of queries (B, V+1), -inf for PAD; of a user's events [0, end) alone are read.

        `time` is the recipe's: under `next` the time of event `end` is known as well, as when the query is asked.
        Memory is a few times B (V+1) float32. `end` is at least the user's train_end, or the answer was seen in `fit`.
        """


def shares(popularity: Ints) -> npt.NDArray[np.float64]:
    """Numbers (V+1,) from 0 to below 1 in the order of popularity (V+1,), equal where that is."""
    order = np.unique(popularity, return_inverse=True)[1]
    return np.asarray(order / (order.max() + 1))


def with_popularity(scores: npt.NDArray[np.floating], scored: npt.NDArray[np.bool_], popularity: Ints) -> Scores:
    """The scores (B, V+1) where `scored`, and below the lowest of them all other items by popularity (V+1,)."""
    share = shares(popularity)
    lowest = np.where(scored, scores, 0).min(axis=1, keepdims=True)  # (B, 1) at most 0
    filled = np.where(scored, scores, lowest - 1 + share).astype(np.float32)
    filled[:, PAD] = -np.inf
    return filled


def answerable(rows: sparse.csr_matrix, popularity: Ints) -> npt.NDArray[np.bool_]:
    """Where a model of training items has something to say (B, V+1): on such items, to whoever has had one of them."""
    there = popularity > 0
    return (rows @ there.astype(np.float32) > 0)[:, None] & there


def times_of(data: Prepared, what: str) -> Ints:
    """The times of a log (E,). Raises UserError where it has none; `what` needs them."""
    if data.times is None:
        raise UserError(
            f"{what}: got a log without times, expected one with a timestamp; use the baseline popular, or "
            "personal_frequency with half_life_events, which need an order only"
        )
    return data.times
