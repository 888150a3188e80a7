"""Events of users as flat arrays and sparse matrices: what queries know, what is trained on, pairs at a distance.

Shapes: E events, Q queries, P pairs of events, V items.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from persrec.prepared import Prepared, Queries

Ints = npt.NDArray[np.int64]


class Events(NamedTuple):
    """Events of some rows, those of a row one after the other."""

    row: Ints  # (E,) the query, or the user, that an event belongs to
    place: Ints  # (E,) in the log
    age: Ints  # (E,) events after it in its row: 0 is the last one


def known(data: Prepared, queries: Queries, *, last: int | None = None) -> Events:
    """The events [0, end) of each query, or the last so many of them."""
    return _stretches(data.offsets[queries.user], queries.end, last)


def trained(data: Prepared) -> Events:
    """The events [0, train_end) of each user."""
    return _stretches(data.offsets[:-1], data.train_end, None)


def _stretches(first: Ints, end: Ints, last: int | None) -> Events:
    count = end if last is None else np.minimum(end, last)
    row = np.repeat(np.arange(len(count)), count)
    age = np.repeat(np.cumsum(count), count) - np.arange(len(row)) - 1
    return Events(row, (first + end)[row] - 1 - age, age)


def matrix(data: Prepared, events: Events, weight: npt.NDArray[np.floating], rows: int) -> sparse.csr_matrix:
    """Rows by items, (rows, V+1) float32: the weights (E,) of the events of each row and item, added up."""
    columns = data.items[events.place]
    shape = (rows, data.items_count + 1)
    return sparse.csr_matrix((weight.astype(np.float32), (events.row, columns)), shape=shape)


def distinct(data: Prepared, events: Events, rows: int) -> sparse.csr_matrix:
    """Rows by items, (rows, V+1) float32: 1 where a row has an event with the item."""
    found = matrix(data, events, np.ones(len(events.row)), rows)
    found.data[:] = 1
    return found


def halving(halvings: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Weights after so many half-lives; never zero in float32, so that the oldest event still counts."""
    return np.maximum(0.5**halvings, np.finfo(np.float32).tiny)


class Pairs(NamedTuple):
    """Two training events of a user at a fixed distance."""

    earlier: npt.NDArray[np.int32]  # (P,) item
    later: npt.NDArray[np.int32]  # (P,) item
    after: Ints  # (P,) training events of the user after the later one


def pairs(data: Prepared, events: Events, distance: int) -> Pairs:
    """All pairs of training events `distance` events apart; `events` are the trained ones."""
    item = data.items[events.place]
    same = events.row[distance:] == events.row[:-distance]
    return Pairs(item[:-distance][same], item[distance:][same], events.age[distance:][same])


def cooccurrence(data: Prepared, found: Pairs, weight: npt.NDArray[np.floating]) -> sparse.csr_matrix:
    """Earlier by later item, (V+1, V+1): the weights (P,) of the pairs, added up."""
    shape = (data.items_count + 1, data.items_count + 1)
    return sparse.csr_matrix((weight, (found.earlier, found.later)), shape=shape)
