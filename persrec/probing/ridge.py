"""A linear next-item model: ridge from what is in blocks of a history to the next item. NUMPY, SCIPY AND SKLEARN ONLY.

An item is its vector in a truncated SVD of which items stand near each other; a block (the last 16 events decayed, the
last R, everything older than R) is the mean of its vectors. All windows are taken from the same events, so one Gram
matrix serves every choice of blocks. What the vectors are too narrow for is that people have the very same item again:
so an item's score also has a part for its own share in each block, fitted to what the ridge leaves.

Shapes: E events of all users, Q queries (each the event that is asked for, as its place among all), V items, D numbers
of a vector, F features, B blocks of a model.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LAST, DECAY = 16, 0.8  # events of the decayed block, and what each is worth of the one after it
NEAR = 8  # events between which items are near each other
DIMENSIONS = 128
ROWS, SPAN = 8192, 1 << 17  # rows of features at a time, and events over which they may be spread
SCORES = 1 << 23  # of queries with all items, at a time
OWN_ROWS = 4000  # that the parts of the same item are fitted to
PENALTIES = (0.01, 0.1, 1.0)  # in units of a feature's mean square
OLDER = (1.0, 10.0, 100.0, 1000.0)  # the penalty of the older block in terms of the others'

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Histories(NamedTuple):
    """User u's history is events offsets[u] to offsets[u + 1]."""

    offsets: Ints  # (U+1,)
    items: Ints  # (E,) 0..V-1
    times: Ints | None  # (E,) ms
    catalogue: int  # V

    def user_of(self, event: Ints) -> Ints:
        return np.searchsorted(self.offsets, event, side="right") - 1

    def start_of(self, event: Ints) -> Ints:
        """The first event of the user that an event is of."""
        return self.offsets[self.user_of(event)]

    def had(self, low: Ints, high: Ints) -> tuple[Ints, Ints, Ints]:
        """Of the events low to high (Q,) of each query: its row, the item, and how far before `high` it is."""
        sizes = high - low
        row = np.repeat(np.arange(len(low)), sizes)
        event = np.arange(len(row)) + np.repeat(low - np.cumsum(sizes) + sizes, sizes)
        return row, self.items[event], high[row] - event


class Fitted(NamedTuple):
    """What is known of a history (the last `window` events, and, with `older`, those before) and what it is worth."""

    window: int
    older: bool
    columns: Ints  # the features among all
    weights: Floats  # (len(columns), V)
    own: npt.NDArray[np.float64]  # (B,) of an item's share in each block


def item_vectors(histories: Histories, used: Mask, *, seed: int) -> Floats:
    """(V, D) by which items stand within `NEAR` events of each other, among the events `used` (E,)."""
    from scipy.sparse import coo_array, csr_array
    from sklearn.decomposition import TruncatedSVD

    shape = (histories.catalogue, histories.catalogue)
    user = histories.user_of(np.arange(len(used)))
    near = csr_array(shape, dtype=np.float32)
    for step in range(1, NEAR + 1):
        both = (user[step:] == user[:-step]) & used[step:] & used[:-step]
        pairs = histories.items[:-step][both], histories.items[step:][both]
        near += coo_array((np.ones(int(both.sum()), dtype=np.float32), pairs), shape=shape).tocsr()
    near = near + near.T
    scale = 1 / np.sqrt(np.maximum(near.sum(axis=1), 1))
    near = near.multiply(scale[:, None]).multiply(scale[None]).tocsr()
    vectors = TruncatedSVD(min(DIMENSIONS, histories.catalogue - 1), random_state=seed).fit_transform(near)
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)).astype(np.float32)


class Ridge:
    """The model for several windows at once."""

    def __init__(self, histories: Histories, vectors: Floats, windows: tuple[int, ...]) -> None:
        self.histories, self.vectors, self.windows = histories, vectors, windows
        features = vectors.shape[1] * (1 + 2 * len(windows)) + 1
        self.gram = np.zeros((features, features))
        self.cross = np.zeros((features, histories.catalogue), dtype=np.float32)

    def columns(self, window: int, *, older: bool) -> Ints:
        """The features of who knows the last `window` events, and, with `older`, those before them as well."""
        first, width = 1 + 2 * self.windows.index(window), self.vectors.shape[1]
        blocks = [0, first, first + 1] if older else [0, first]
        return np.concatenate([*(block * width + np.arange(width) for block in blocks), [len(self.gram) - 1]])

    def features(self, event: Ints) -> Floats:
        """(Q, F): decayed block; for each window the block within it and the one older than it; one."""
        start = self.histories.start_of(event)
        first, last = int(start.min()), int(event.max()) + 1
        vectors = self.vectors[self.histories.items[first:last]]
        sums = np.zeros((last - first + 1, vectors.shape[1]))
        np.cumsum(vectors, axis=0, out=sums[1:])
        found = [_decayed(vectors, event - first, start - first)]
        for window in self.windows:
            edge = np.maximum(event - window, start)
            for low, high in ((edge, event), (start, edge)):
                found.append((sums[high - first] - sums[low - first]) / np.maximum(high - low, 1)[:, None])
        found.append(np.ones((len(event), 1)))
        return np.concatenate(found, axis=1, dtype=np.float32)

    def fit(self, event: Ints) -> "Ridge":
        """Take the events (Q,), in order, as rows."""
        from scipy.sparse import csr_array

        for part in _parts(event):
            rows, place = self.features(part), np.arange(len(part))
            self.gram += rows.T @ rows
            targets = csr_array(
                (np.ones(len(part), dtype=np.float32), (self.histories.items[part], place)),
                shape=(self.histories.catalogue, len(part)),
            )
            self.cross += (targets @ rows).T
        return self

    def weights(self, columns: Ints, penalty: float, older: float = 1.0) -> Floats:
        """(len(columns), V) of the model with these features; `older` times the penalty for what is older.

        Blocks count alike whatever their scale, but what is older, which many rows lack, has that of its window; the
        constant is free.
        """
        width, rows = self.vectors.shape[1], self.gram[-1, -1]
        square = np.add.reduceat(np.diag(self.gram)[:-1], np.arange(0, len(self.gram) - 1, width)) / rows
        square[2::2] = square[1::2]
        scale = np.append(np.repeat(1 / np.sqrt(np.maximum(square, 1e-9)), width), 1.0)[columns]
        times = np.repeat([1.0, 1.0, older], width)[: len(columns) - 1]
        gram = self.gram[np.ix_(columns, columns)] * scale[:, None] * scale
        gram[np.diag_indices_from(gram)] += np.append(penalty * rows / width * times, 1e-6)
        return (scale[:, None] * np.linalg.solve(gram, self.cross[columns] * scale[:, None])).astype(np.float32)

    def model(self, window: int, penalty: float, older: float | None = None) -> Fitted:
        """Who knows the last `window` events; with `older`, a factor of its penalty, those before them as well."""
        columns = self.columns(window, older=older is not None)
        weights = self.weights(columns, penalty, older or 1.0)
        return Fitted(window, older is not None, columns, weights, np.zeros(2 + (older is not None)))

    def with_own(self, model: Fitted, event: Ints) -> Fitted:
        """The model with the parts of the same item, by least squares of what it leaves of the events (Q,)."""
        size = len(model.own)
        gram, cross = 1e-6 * np.eye(size), np.zeros(size)
        for part in _parts(event, SCORES // self.histories.catalogue):
            left = -self.scores(part, self.features(part), model)
            left[np.arange(len(part)), self.histories.items[part]] += 1
            shares = list(self.shares(part, model))
            cross += [share.multiply(left).sum() for share in shares]
            gram += [[one.multiply(other).sum() for one in shares] for other in shares]
        return model._replace(own=np.linalg.solve(gram, cross).astype(np.float64))

    def shares(self, event: Ints, model: Fitted) -> "Iterator[csr_array]":
        """For each block of a model the share (Q, V) of each item in it."""
        from scipy.sparse import csr_array

        start = self.histories.start_of(event)
        edge = np.maximum(event - model.window, start)
        blocks = [(np.maximum(event - LAST, start), event, DECAY), (edge, event, 1.0), (start, edge, 1.0)]
        for low, high, decay in blocks[: len(model.own)]:
            row, item, left = self.histories.had(low, high)
            worth = decay**left
            worth /= np.bincount(row, weights=worth, minlength=len(event))[row]
            yield csr_array((worth, (row, item)), shape=(len(event), self.histories.catalogue))

    def scores(self, event: Ints, features: Floats, model: Fitted) -> Floats:
        """(Q, V)"""
        found = features[:, model.columns] @ model.weights
        if model.own.any():
            for own, share in zip(model.own, self.shares(event, model), strict=True):
                found += (np.float32(own) * share).toarray()
        return found

    def ranks(self, event: Ints, models: list[Fitted], *, exclude_seen: bool) -> npt.NDArray[np.float64]:
        """(len(models), Q) of the items that came, among all, or among those that the user has not had yet."""
        found = []
        for part in _parts(event, SCORES // self.histories.catalogue):
            features = self.features(part)
            scores = (self.scores(part, features, model) for model in models)
            found.append([ranks(self.histories, part, each, exclude_seen=exclude_seen) for each in scores])
        return np.concatenate(found, axis=1)


def frequency_ranks(histories: Histories, event: Ints, known: Mask, window: int | None) -> npt.NDArray[np.float64]:
    """(Q,) ranks by how often the user had an item among the last `window` events, ties by how often it stands among
    the events `known` (E,)."""
    popularity = np.bincount(histories.items[known], minlength=histories.catalogue)
    found = []
    for part in _parts(event, SCORES // histories.catalogue):
        start = histories.start_of(part)
        row, item, _ = histories.had(start if window is None else np.maximum(start, part - window), part)
        counts = np.bincount(row * histories.catalogue + item, minlength=len(part) * histories.catalogue)
        scores = counts.reshape(len(part), -1) + popularity / (popularity.max() + 1)
        found.append(ranks(histories, part, scores, exclude_seen=False))
    return np.concatenate(found)


def ranks(
    histories: Histories, event: Ints, scores: npt.NDArray[np.floating], *, exclude_seen: bool
) -> npt.NDArray[np.float64]:
    """(Q,) ranks of the items that came, of scores (Q, V), which are changed; ties count half."""
    target = histories.items[event][:, None]
    own = np.take_along_axis(scores, target, axis=1)
    if exclude_seen:
        row, item, _ = histories.had(histories.start_of(event), event)
        scores[row, item] = -np.inf
        np.put_along_axis(scores, target, own, axis=1)
    return 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2


def _decayed(vectors: Floats, event: Ints, start: Ints) -> npt.NDArray[np.float64]:
    """(Q, D) mean of the `LAST` vectors before each event, the later ones counting more."""
    total, weight = np.zeros((len(event), vectors.shape[1])), np.zeros(len(event))
    for step in range(1, LAST + 1):
        there = np.where(event - step >= start, DECAY**step, 0.0)
        total += there[:, None] * vectors[np.maximum(event - step, 0)]
        weight += there
    return total / np.maximum(weight, 1e-9)[:, None]


def _parts(event: Ints, most: int = ROWS) -> Iterator[Ints]:
    """The events in parts of at most `most`, none spread over much more than `SPAN` events."""
    for part in np.split(event, np.flatnonzero(np.diff(event // SPAN)) + 1):
        for start in range(0, len(part), max(1, min(most, ROWS))):
            yield part[start : start + max(1, min(most, ROWS))]
