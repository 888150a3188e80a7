"""Most popular items, ever and of late."""

import numpy as np

from persrec.baselines.baseline import Ints, Scores, times_of, with_popularity
from persrec.baselines.events import trained
from persrec.constants import PAD
from persrec.prepared import Prepared, Queries

DAY = 86_400_000  # ms


class Popular:
    """The number of training events of each item."""

    def fit(self, data: Prepared) -> None:
        self.popularity = data.training_events_per_item

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        scores = np.tile(self.popularity.astype(np.float32), (len(queries.user), 1))
        scores[:, PAD] = -np.inf
        return scores


class PopularRecent:
    """The number of training events of each item in the last `days` days before the query is asked.

    Where training ends before the query is asked (global time split), the window is the last `days` of training.
    """

    def __init__(self, *, days: float = 7.0) -> None:
        self.days = days

    def fit(self, data: Prepared) -> None:
        times = times_of(data, "baseline popular_recent")
        place = trained(data).place
        place = place[np.argsort(times[place], kind="stable")]
        self._times, self._items = times[place], data.items[place]
        self.popularity = data.training_events_per_item

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        asked = np.minimum(asked_at(data, queries, time), self._times[-1] + 1)
        ends = np.searchsorted(self._times, asked)
        starts = np.searchsorted(self._times, asked - int(self.days * DAY))
        counts = np.zeros((len(asked), len(self.popularity)), np.float32)
        window, start, end = np.zeros(counts.shape[1], np.int64), 0, 0
        for row in np.argsort(asked, kind="stable"):  # one window that moves on, as those of neighbours overlap
            window += self._counts(end, ends[row]) - self._counts(start, starts[row])
            start, end = starts[row], ends[row]
            counts[row] = window
        return with_popularity(counts, counts > 0, self.popularity)

    def _counts(self, start: int, end: int) -> Ints:
        return np.bincount(self._items[start:end], minlength=len(self.popularity))


def asked_at(data: Prepared, queries: Queries, time: str) -> Ints:
    """When each query is asked (B,) ms: under `next` at event `end`, else at the last known event."""
    place = data.offsets[queries.user] + queries.end
    return times_of(data, "baseline popular_recent")[place if time == "next" else place - 1]
