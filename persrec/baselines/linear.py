"""A linear model of items by items in closed form, after SLIST (Choi et al. 2021, arXiv 2103.16104).

Shapes: U users, V items, N places between two events of the training histories.
"""

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from persrec.baselines.baseline import Scores, answerable, with_popularity
from persrec.baselines.events import Events, cooccurrence, distinct, halving, known, matrix, pairs, trained
from persrec.errors import UserError
from persrec.prepared import Prepared, Queries

MOST_ITEMS = 15_000  # two matrices of V x V float64 beside the sparse sums: 3.6 GB, and minutes for the solution
LEAST_WEIGHT = 1e-3  # events that weigh less are left out

Square = npt.NDArray[np.floating]  # (V+1, V+1) float64


class SLIST:
    """The weights B (V, V) that minimise alpha |X - X B|^2 + (1 - alpha) |T - S B|^2 + ridge |B|^2.

    X (U, V) holds the different items of each user. For every place between two events of a history, a row of S (N, V)
    holds the events before it and one of T (N, V) those after it, each event weighing half for every `half_life` events
    between it and the place. An item may predict itself. A query is a row like those of S.
    """

    def __init__(self, *, half_life: float = 2.0, alpha: float = 0.2, ridge: float = 100.0) -> None:
        self.half_life, self.alpha, self.ridge = half_life, alpha, ridge
        self.reach = int(np.ceil(-np.log2(LEAST_WEIGHT) * half_life))

    def fit(self, data: Prepared) -> None:
        if data.items_count > MOST_ITEMS:
            raise UserError(
                f"baseline slist: got {data.items_count:,} items, expected at most {MOST_ITEMS:,}, as it solves for a "
                "matrix of items by items; raise data.min_item_events, or use the baseline item_knn or svd"
            )
        self.popularity = data.training_events_per_item
        left, right = self._sums(data, trained(data))
        solved = linalg.solve(left, right, assume_a="pos", overwrite_a=True, overwrite_b=True, check_finite=False)
        self.weights = solved.astype(np.float32)

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        events = known(data, queries, last=self.reach)
        rows = matrix(data, events, halving(events.age / self.half_life), len(queries.user))
        return with_popularity(rows @ self.weights, answerable(rows, self.popularity), self.popularity)

    def _sums(self, data: Prepared, events: Events) -> tuple[Square, Square]:
        """What B is multiplied by, and the product: alpha X'X + (1 - alpha) S'S + ridge, alpha X'X + (1 - alpha) S'T.

        S'S and S'T are sums over pairs of events by their distance d: with w the weight after one event, a pair adds
        w^d (1 + w^2 + w^4 ...) to S'S, a term for each place after its later event, and d w^(d - 1) to S'T, once for
        each place between the two.
        """
        width, keep = data.items_count + 1, 0.5 ** (1 / self.half_life)
        left, right = sparse.csr_matrix((width, width)), sparse.csr_matrix((width, width))
        for distance in range(1, self.reach):
            found = pairs(data, events, distance)
            left += cooccurrence(data, found, keep**distance * _places(keep, found.after))
            right += cooccurrence(data, found, np.full(len(found.after), distance * keep ** (distance - 1)))
        own = np.bincount(data.items[events.place], weights=_places(keep, events.age), minlength=width)
        users = distinct(data, events, data.users).astype(np.float64)
        together = self.alpha * (users.T @ users)
        left = (1 - self.alpha) * (left + left.T + sparse.diags(own)) + together
        right = (1 - self.alpha) * right + together
        left += self.ridge * sparse.eye(width)
        return left.toarray(order="F"), right.toarray(order="F")


def _places(keep: float, after: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """1 + w^2 + w^4 + ..., as many terms as there are events, and so places, after an event."""
    return (1 - keep ** (2.0 * after)) / (1 - keep**2)
