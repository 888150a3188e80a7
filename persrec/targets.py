"""The targets of queries, flat, and the groups in which they are looked at.

Shapes: Q queries, T targets, E events of a log.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from persrec.consumption import before
from persrec.prepared import Prepared, Queries

HOUR = 3_600_000  # ms
GAP_HOURS = (1, 12, 24 * 7)
ITEM_EVENTS = (1, 10, 100, 1000)
COLD = "0 (cold)"  # items that were never trained on
TOGETHER = 1 << 22  # events of the users who are looked at together

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Targets:
    """The different items that each query asks for; those of a query stand one after the other."""

    queries: Queries
    query: Ints  # (T,) row of the query
    item: Ints  # (T,) 1..V
    age: Ints  # (T,) events since the user last had the item, 1 = it was the last one; 0 = never
    item_events: Ints  # (T,) of the item, among those that are trained on; 0 = cold
    gap: Ints | None  # (Q,) ms between the last known event and the first target

    @property
    def counts(self) -> Ints:
        """(Q,) targets of each query."""
        return np.bincount(self.query, minlength=len(self.queries.user))

    def groups(self, *, lengths: tuple[int, ...], recent: int) -> dict[str, list[tuple[str, Mask]]]:
        """Parts of the targets (T,) by what is known of them, empty parts left out.

        By events before the query (bounds `lengths`), hours since the last of them, training events of the item, and
        the age of the user's last consumption of it (at most `recent` events ago, earlier, never).
        """
        found = {"history length": _between(self.queries.end[self.query], lengths, last="+")}
        if self.gap is not None:
            hours = _between(self.gap[self.query] // HOUR, GAP_HOURS, last="+")
            found["hours since the last event"] = hours
        by_events = _between(self.item_events, ITEM_EVENTS, last="+")
        found["training events of the item"] = [(COLD if name == "0" else name, part) for name, part in by_events]
        ages = [
            ("never had", self.age == 0),
            (f"had <= {recent} events ago", (self.age > 0) & (self.age <= recent)),
            (f"had > {recent} events ago", self.age > recent),
        ]
        found["last consumption of the item"] = [(name, part) for name, part in ages if part.any()]
        return found


def targets_of(data: Prepared, queries: Queries) -> Targets:
    """What the queries of a log ask for; an item that a set holds twice counts once."""
    first = data.offsets[queries.user] + queries.end  # (Q,) place of the first target in the log
    query = np.repeat(np.arange(len(first)), queries.size)
    within = np.arange(len(query)) - np.repeat(np.cumsum(queries.size) - queries.size, queries.size)
    place = first[query] + within
    end = data.offsets[queries.user][query] + queries.end[query]
    earlier = _earlier(data, queries.user[query], place)
    new = earlier < end  # else it is in the set already
    query, place, earlier, end = query[new], place[new], earlier[new], end[new]
    item = data.items[place].astype(np.int64)
    return Targets(
        queries=queries,
        query=query,
        item=item,
        age=np.where(earlier >= 0, end - earlier, 0),
        item_events=data.training_events_per_item[item],
        gap=None if data.times is None else data.times[first] - data.times[first - 1],
    )


class _Some(NamedTuple):
    """Histories of some users, one after the other."""

    offsets: Ints
    items: npt.NDArray[np.int32]
    times: None = None


def _earlier(data: Prepared, user: Ints, place: Ints) -> Ints:
    """Where in the log the user (T,) of each place (T,) last had the item that stands there; -1 = never."""
    found = np.empty(len(place), dtype=np.int64)
    asked, row = np.unique(user, return_inverse=True)
    lengths = data.offsets[asked + 1] - data.offsets[asked]
    group = (np.cumsum(lengths) - lengths) // TOGETHER  # of each user
    for number in np.unique(group):
        first, last = np.searchsorted(group, [number, number + 1])
        starts, offsets = data.offsets[asked[first:last]], np.concatenate([[0], np.cumsum(lengths[first:last])])
        source = np.repeat(starts - offsets[:-1], lengths[first:last]) + np.arange(offsets[-1])
        mine = np.flatnonzero((row >= first) & (row < last))
        here = before(_Some(offsets, data.items[source]))[place[mine] + (offsets[:-1] - starts)[row[mine] - first]]
        found[mine] = np.where(here >= 0, source[here], -1)
    return found


def _between(values: Ints, bounds: tuple[int, ...], *, last: str) -> list[tuple[str, Mask]]:
    """Parts by size: below the first bound, from each to below the next, from the last on."""
    found = []
    for low, high in pairwise([0, *bounds, np.inf]):
        part = (values >= low) & (values < high)
        name = f"{low}{last}" if high == np.inf else f"{low}-{high - 1}" if high - low > 1 else f"{low}"
        if part.any():
            found.append((name, part))
    return found
