"""Metrics equal those of RecTools 0.19 on random lists; needs rectools, which needs numpy < 2, and no more."""

import math
from typing import Any

import numpy as np
import pytest

from persrec import metrics

pd = pytest.importorskip("pandas")
peer = pytest.importorskip("rectools.metrics", reason="needs rectools (pip install 'rectools==0.19.*'), so numpy < 2")
distances = pytest.importorskip("rectools.metrics.distances", reason="needs rectools")

USERS, ITEMS, K = 60, 50, 12
EXACT = {"rel": 0, "abs": 1e-9}


class World:
    """Random lists of 1 to 12 items, 1 to 9 targets per user, and a log; users and items from 1."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.lists = np.zeros((USERS, K), np.int64)
        for row in self.lists:
            length = random.integers(1, K + 1)
            row[:length] = random.permutation(np.arange(1, ITEMS + 1))[:length]
        self.targets = [random.permutation(np.arange(1, ITEMS + 1))[: random.integers(1, 10)] for _ in range(USERS)]
        self.log = np.stack([random.integers(1, USERS + 1, 400), random.integers(1, ITEMS - 4, 400)], axis=1)
        self.vectors = random.normal(size=(ITEMS + 1, 6))

    @property
    def recommended(self) -> Any:
        user, place = np.nonzero(self.lists)
        columns = {"user_id": user + 1, "item_id": self.lists[user, place], "rank": place + 1}
        return pd.DataFrame(columns)

    @property
    def relevant(self) -> Any:
        pairs = [(user + 1, item) for user, items in enumerate(self.targets) for item in items]
        return pd.DataFrame(pairs, columns=["user_id", "item_id"])

    @property
    def previous(self) -> Any:
        return pd.DataFrame(self.log, columns=["user_id", "item_id"])

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of the targets in one list per user, and how many targets each has."""
        rows = zip(self.lists.tolist(), self.targets, strict=True)
        ranks = [row.index(item) + 1.0 if item in row else math.inf for row, items in rows for item in items]
        return np.array(ranks), np.array([len(items) for items in self.targets])


@pytest.fixture(params=range(5))
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.mark.parametrize("k", [1, 5, 10, 12])
def test_ranking_metrics_of_each_user(world: World, k: int) -> None:
    ranks, counts = world.ranks()
    ours = metrics.per_user(ranks, counts, (k,))
    theirs = {
        "recall": peer.Recall(k),
        "hit_rate": peer.HitRate(k),
        "precision": peer.Precision(k),
        "ndcg": peer.NDCG(k, divide_by_achievable=True),
        "mrr": peer.MRR(k),
        "map": peer.MAP(k),
    }
    assert {f"{name}@{k}" for name in theirs} == set(ours)
    for name, metric in theirs.items():
        values = metric.calc_per_user(world.recommended, world.relevant).sort_index()
        assert values.index.tolist() == list(range(1, USERS + 1))
        assert ours[f"{name}@{k}"].tolist() == pytest.approx(values.tolist(), **EXACT), name


@pytest.mark.parametrize("k", [1, 5, 12])
def test_novelty_and_popularity_of_each_list(world: World, k: int) -> None:
    pairs = np.unique(world.log, axis=0)
    users_per_item = np.bincount(pairs[:, 1], minlength=ITEMS + 1)
    events_per_item = np.bincount(world.log[:, 1], minlength=ITEMS + 1)
    lists, users = world.lists[:, :k], len(np.unique(world.log[:, 0]))
    novelty = peer.MeanInvUserFreq(k).calc_per_user(world.recommended, world.previous).sort_index()
    popularity = peer.AvgRecPopularity(k).calc_per_user(world.recommended, world.previous).sort_index()
    assert metrics.novelty(lists, users_per_item, users).tolist() == pytest.approx(novelty.tolist(), **EXACT)
    assert metrics.average_popularity(lists, events_per_item).tolist() == pytest.approx(popularity.tolist(), **EXACT)


@pytest.mark.parametrize("k", [1, 5, 12])
def test_coverage(world: World, k: int) -> None:
    theirs = peer.CatalogCoverage(k, normalize=True).calc(world.recommended, range(1, ITEMS + 1))
    assert metrics.coverage(world.lists[:, :k], ITEMS) == pytest.approx(theirs, **EXACT)


@pytest.mark.parametrize("k", [2, 5, 12])
def test_intra_list_diversity(world: World, k: int) -> None:
    """RecTools is given our distance, pair by pair, and takes the mean."""
    units = world.vectors / np.linalg.norm(world.vectors, axis=1, keepdims=True)
    matrix = 1 - units @ units.T

    class Cosine(distances.PairwiseDistanceCalculator):
        def _get_distances_for_item_pairs(self, one: Any, other: Any) -> np.ndarray:
            return matrix[np.asarray(one, int), np.asarray(other, int)]

    theirs = peer.IntraListDiversity(k, Cosine()).calc_per_user(world.recommended).sort_index()
    assert metrics.diversity(world.lists[:, :k], world.vectors).tolist() == pytest.approx(theirs.tolist(), **EXACT)


def test_the_lists_are_of_every_length_and_find_something(world: World) -> None:
    """Else the tests above would say little."""
    assert set((world.lists > 0).sum(axis=1).tolist()) == set(range(1, K + 1))
    assert 0 < np.isfinite(world.ranks()[0]).mean() < 1
