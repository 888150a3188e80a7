"""What the user had most often: the baseline to beat where people come back for the same things."""

import numpy as np

from persrec.baselines.baseline import Scores, shares, times_of, with_popularity
from persrec.baselines.events import halving, known, matrix
from persrec.baselines.popularity import DAY
from persrec.prepared import Prepared, Queries


class PersonalFrequency:
    """How often the user had each item; with half-lives, old events count less, without them equal counts, which are
    many, go by popularity.

    An event counts half for every `half_life_events` events and for every `half_life_days` days between it and the last
    known one. When the query is asked is of no matter: it would scale all scores of a user alike.
    """

    def __init__(self, *, half_life_events: float | None = None, half_life_days: float | None = None) -> None:
        self.half_life_events, self.half_life_days = half_life_events, half_life_days

    def fit(self, data: Prepared) -> None:
        if self.half_life_days is not None:
            times_of(data, "baseline personal_frequency with half_life_days")
        self.popularity = data.training_events_per_item

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> Scores:
        events = known(data, queries)
        halvings = np.zeros(len(events.row))
        if self.half_life_events is not None:
            halvings += events.age / self.half_life_events
        if self.half_life_days is not None:
            times = times_of(data, "baseline personal_frequency with half_life_days")
            last = times[data.offsets[queries.user] + queries.end - 1]
            halvings += (last[events.row] - times[events.place]) / (DAY * self.half_life_days)
        counts = matrix(data, events, halving(halvings), len(queries.user)).toarray()
        had = counts > 0
        if self.half_life_events is None and self.half_life_days is None:
            counts += shares(self.popularity) / 2  # counts differ by 1 or not at all
        return with_popularity(counts, had, self.popularity)
