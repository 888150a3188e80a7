"""Targets ranked, and lists made, by the scores of a baseline, as persrec/retrieval/search.py does by vectors.

Shapes: B queries of a chunk, Q queries, T targets, V items.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from persrec.baselines.baseline import Baseline, Ints, Scores
from persrec.baselines.events import known
from persrec.constants import PAD
from persrec.errors import UserError
from persrec.prepared import Prepared
from persrec.targets import Targets

TIE = 4e-7  # share of a score by which float32 sums of the same terms may differ; counts up to two million stay apart


class Ranked(NamedTuple):
    """What a baseline makes of queries."""

    rank: npt.NDArray[np.float64]  # (T,) inf beyond `deepest`
    lists: Ints  # (Q, k) the best items, ties by item; PAD where there are fewer


def rank(
    baseline: Baseline,
    data: Prepared,
    targets: Targets,
    *,
    k: int,
    deepest: int,
    exclude_seen: bool,
    time: str,
    queries_per_chunk: int = 512,
    on_queries: Callable[[int], None] = lambda count: None,
) -> Ranked:
    """Ranks of the targets, each by itself: 1 + items above it + items tied with it / 2, and lists of k items.

    With `exclude_seen` items that the user had before the query take no rank and stand in no list, but the target does
    take its rank. `on_queries` is told how many queries have been ranked. Raises UserError for k or `deepest` outside
    1..V and for scores that are not numbers.
    """
    if not 1 <= min(k, deepest) <= max(k, deepest) <= data.items_count:
        raise UserError(
            f"k: got {k} and {deepest}, expected 1 to {data.items_count}, the number of items; ask for fewer"
        )
    ranks = np.empty(len(targets.item))
    lists = np.full((len(targets.queries.user), k), PAD, dtype=np.int64)
    for start in range(0, len(lists), queries_per_chunk):
        part = targets.queries.take(slice(start, start + queries_per_chunk))
        scores = baseline.scores(data, part, time=time)
        _check(scores, part.user, data)
        asked = slice(*np.searchsorted(targets.query, [start, start + len(scores)]))
        row, item = targets.query[asked] - start, targets.item[asked]
        own = scores[row, item]
        if exclude_seen:
            seen = known(data, part)
            scores[seen.row, data.items[seen.place]] = -np.inf
        lists[start : start + len(scores)] = _best(scores, k)
        ranks[asked] = _ranks(scores, row, item, own, queries_per_chunk)
        on_queries(len(scores))
    return Ranked(np.where(ranks <= deepest, ranks, np.inf), lists)


def _ranks(scores: Scores, row: Ints, item: Ints, own: Scores, most: int) -> npt.NDArray[np.float64]:
    """The rank of each target among the scores (B, V+1) of its query; rows are copied for so many at a time."""
    ranks = np.empty(len(row))
    for start in range(0, len(row), most):
        part = slice(start, start + most)
        rivals, score = scores[row[part]], own[part, None]
        rivals[np.arange(len(rivals)), item[part]] = -np.inf
        margin = TIE * np.abs(score)
        ranks[part] = 1 + (rivals > score + margin).sum(axis=1) + (np.abs(rivals - score) <= margin).sum(axis=1) / 2
    return ranks


def _best(scores: Scores, k: int) -> Ints:
    """The items (B, k) with the highest scores (B, V+1), ties by item; PAD for scores of -inf."""
    best = np.full((len(scores), k), PAD, dtype=np.int64)
    least = np.partition(scores, -k, axis=1)[:, -k]
    for row, (own, bound) in enumerate(zip(scores, least, strict=True)):
        near = np.flatnonzero((own >= bound) & ~np.isneginf(own))
        first = near[np.lexsort((near, -own[near]))][:k]
        best[row, : len(first)] = first
    return best


def _check(scores: Scores, users: Ints, data: Prepared) -> None:
    wrong = np.isnan(scores).any(axis=1)
    if wrong.any():
        first = data.user_ids()[int(users[np.argmax(wrong)])].as_py()
        raise UserError(
            f"baseline: scores of {int(wrong.sum())} queries are not numbers, the first of user {first!r}; expected a "
            "number for every item: raise slist's ridge, or report a fault"
        )
