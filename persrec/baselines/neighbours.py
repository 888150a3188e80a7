"""Items that stand near the last one in other histories."""

import numpy as np
from scipy import sparse

from persrec.baselines.baseline import Scores, with_popularity
from persrec.baselines.events import cooccurrence, known, matrix, pairs, trained
from persrec.prepared import Prepared, Queries


class ItemKNN:
    """Cosine of co-occurrence with the user's last item, of which each item keeps the nearest `neighbours`.

    Two items occur together where they are at most `window` events apart in a history, in either order.
    """

    def __init__(self, *, window: int = 3, neighbours: int = 200) -> None:
        self.window, self.neighbours = window, neighbours

    def fit(self, data: Prepared) -> None:
        self.popularity = data.training_events_per_item
        events = trained(data)
        width = data.items_count + 1
        together = sparse.csr_matrix((width, width))
        for distance in range(1, self.window + 1):
            found = pairs(data, events, distance)
            together += cooccurrence(data, found, np.ones(len(found.later)))
        together = (together + together.T).tocoo()
        size = np.sqrt(self.popularity)
        cosine = together.data / (size[together.row] * size[together.col])
        best = np.lexsort((together.col, -cosine, together.row))
        place = np.arange(len(best)) - np.searchsorted(together.row[best], together.row[best])
        best = best[place < self.neighbours]
        cells = (together.row[best], together.col[best])
        self.similarity = sparse.csr_matrix((cosine[best].astype(np.float32), cells), shape=(width, width))

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        events = known(data, queries, last=1)
        last = matrix(data, events, np.ones(len(events.row)), len(queries.user))
        near = (last @ self.similarity).toarray()
        return with_popularity(near, near > 0, self.popularity)
