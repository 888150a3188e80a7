"""Ranks and lists of baselines against plain loops."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from persrec.baselines import BASELINES, Baseline
from persrec.baselines.ranking import Ranked, rank
from persrec.errors import UserError
from persrec.interactions.prepare import write_batch
from persrec.prepared import USERS, Prepared, Queries
from persrec.targets import Targets, targets_of
from tests.baselines.worlds import asked, prepared_of, two_halves

WORLD = two_halves()
TARGETS = targets_of(WORLD, Queries(*np.array([(0, 9, 2), (2, 9, 3), (2, 11, 1), (3, 9, 1), (10, 1, 1)]).T))


@dataclasses.dataclass
class Given:
    """A baseline that scores as told: one row (V+1,) for all."""

    row: list[float]

    def fit(self, data: Prepared) -> None:
        """Nothing to learn."""

    def scores(self, data: Prepared, queries: Queries, *, time: str = "last") -> np.ndarray:
        return np.tile(np.array(self.row, np.float32), (len(queries.user), 1))


def ranked(baseline: Baseline, data: Prepared, targets: Targets, *, exclude: bool, chunk: int = 2) -> Ranked:
    catalogue = data.items_count
    return rank(
        baseline, data, targets, k=4, deepest=catalogue, exclude_seen=exclude, time="last", queries_per_chunk=chunk
    )


def test_by_hand() -> None:
    """Scores 5 4 4 4 1; the user had items 1 and 2 and is asked for {3, 1}."""
    data = prepared_of([[1, 2, 3, 1]], [2], items=5)
    targets = targets_of(data, Queries(*np.array([[0], [2], [2]])))
    given = Given([-np.inf, 5, 4, 4, 4, 1])
    everything = ranked(given, data, targets, exclude=False)
    assert everything.rank.tolist() == [1 + 1 + 2 / 2, 1]
    assert everything.lists.tolist() == [[1, 2, 3, 4]]
    without = ranked(given, data, targets, exclude=True)
    assert without.rank.tolist() == [1 + 1 / 2, 1]
    assert without.lists.tolist() == [[3, 4, 5, 0]]


def test_beyond_the_deepest_is_not_found() -> None:
    data = prepared_of([[1, 2, 3]], [2], items=5)
    targets = targets_of(data, asked((0, 2)))
    given = Given([-np.inf, 5, 4, 3, 2, 1])
    found = [
        rank(given, data, targets, k=1, deepest=deepest, exclude_seen=False, time="last").rank[0] for deepest in (2, 3)
    ]
    assert found == [np.inf, 3]


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("name", BASELINES)
def test_equals_the_slow_way(name: str, exclude: bool) -> None:
    baseline = BASELINES[name]()
    baseline.fit(WORLD)
    got = ranked(baseline, WORLD, TARGETS, exclude=exclude)
    scores = baseline.scores(WORLD, TARGETS.queries).astype(float)
    for target, (query, item) in enumerate(zip(TARGETS.query, TARGETS.item, strict=True)):
        first, end = WORLD.offsets[TARGETS.queries.user[query]], TARGETS.queries.end[query]
        seen = set(WORLD.items[first : first + end].tolist()) if exclude else set()
        rivals = [scores[query, other] for other in range(1, 13) if other != item and other not in seen]
        gaps = np.array(rivals) - scores[query, item]
        close = np.abs(gaps) <= 1e-6 * abs(scores[query, item])
        assert got.rank[target] == 1 + ((gaps > 0) & ~close).sum() + close.sum() / 2
    for query, own in enumerate(got.lists):
        found = own[own > 0]
        assert len(set(found.tolist())) == len(found)
        assert (np.diff(scores[query, found]) <= 0).all()


def test_chunks_change_nothing_and_are_told() -> None:
    baseline = BASELINES["slist"]()
    baseline.fit(WORLD)
    counts: list[int] = []
    options = {"k": 4, "deepest": 12, "exclude_seen": True, "time": "last"}
    one = rank(baseline, WORLD, TARGETS, **options, queries_per_chunk=2, on_queries=counts.append)
    other = rank(baseline, WORLD, TARGETS, **options)
    assert counts == [2, 2, 1]
    np.testing.assert_array_equal(one.rank, other.rank)
    np.testing.assert_array_equal(one.lists, other.lists)


@pytest.mark.parametrize(("k", "deepest"), [(0, 5), (5, 0), (13, 5), (5, 13)])
def test_k_must_fit_the_catalogue(k: int, deepest: int) -> None:
    with pytest.raises(UserError, match=f"k: got {k} and {deepest}, expected 1 to 12, the number of items"):
        rank(Given([0.0] * 13), WORLD, TARGETS, k=k, deepest=deepest, exclude_seen=False, time="last")


def test_scores_that_are_not_numbers_name_the_user(tmp_path: Path) -> None:
    write_batch(pl.DataFrame({"user_id": [f"u{row}" for row in range(WORLD.users)]}), tmp_path / USERS)
    broken = Given([-np.inf, *[np.nan] * 12])
    with pytest.raises(UserError, match="scores of 1 queries are not numbers, the first of user 'u10'; expected"):
        ranked(broken, dataclasses.replace(WORLD, folder=tmp_path), targets_of(WORLD, asked((10, 1))), exclude=False)
