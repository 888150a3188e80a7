"""Metrics against lists worked by hand, against their definitions and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score
from sklearn.metrics.pairwise import cosine_distances

from persrec import metrics

INF = np.inf
LISTS = np.array([[1, 2, 3], [1, 3, 0], [1, 0, 0], [0, 0, 0]])  # of a catalogue of 5 items; the last one is empty


def test_five_targets_by_hand() -> None:
    ranks = np.array([1.0, 2.0, 3.0, 7.0, INF])
    assert metrics.hit_rate(ranks, 2).tolist() == [1, 1, 0, 0, 0]
    assert metrics.recall(ranks, 3).tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(metrics.ndcg(ranks, 10), [1, 0.6309297535714575, 0.5, 1 / 3, 0])
    np.testing.assert_allclose(metrics.mrr(ranks, 5), [1, 1 / 2, 1 / 3, 0, 0])


def test_ties_count_half() -> None:
    """One item above, two tied: rank 1 + 1 + 2/2 = 3; one tied and none above: 1.5."""
    ranks = np.array([3.0, 1.5])
    assert metrics.hit_rate(ranks, 1).tolist() == [0, 0]
    np.testing.assert_allclose(metrics.mrr(ranks, 3), [1 / 3, 2 / 3])
    np.testing.assert_allclose(metrics.ndcg(ranks, 3), [0.5, 1 / np.log2(2.5)])


def test_names_are_those_of_tables() -> None:
    table = metrics.per_user(np.array([1.0, 4.0]), np.ones(2, dtype=int), (1, 5))
    assert set(table) == {f"{name}@{k}" for name in metrics.METRICS for k in (1, 5)}
    assert table["mrr@5"].tolist() == table["map@5"].tolist() == [1, 0.25]


def test_several_targets_of_a_user_by_hand() -> None:
    """The first user has targets at ranks 1, 3 and beyond; the second one at rank 2."""
    table = metrics.per_user(np.array([1.0, 3.0, INF, 2.0]), np.array([3, 1]), (2, 5))
    np.testing.assert_allclose(table["recall@5"], [2 / 3, 1])
    np.testing.assert_allclose(table["hit_rate@2"], [1, 1])
    np.testing.assert_allclose(table["precision@5"], [2 / 5, 1 / 5])
    np.testing.assert_allclose(table["precision@2"], [1 / 2, 1 / 2])
    np.testing.assert_allclose(table["mrr@5"], [1, 1 / 2])
    np.testing.assert_allclose(table["map@5"], [(1 / 1 + 2 / 3) / 3, 1 / 2])
    np.testing.assert_allclose(table["map@2"], [1 / 3, 1 / 2])
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    np.testing.assert_allclose(table["ndcg@5"], [(1 + 1 / 2) / ideal, 1 / np.log2(3)])
    np.testing.assert_allclose(table["ndcg@2"], [1 / (1 + 1 / np.log2(3)), 1 / np.log2(3)])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 25))
def test_one_target_per_user_is_the_plain_metric(ranks: list[int], k: int) -> None:
    floats = np.array(ranks, dtype=float)
    grouped = metrics.per_user(floats, np.ones(len(ranks), dtype=int), (k,))
    for name, metric in metrics.METRICS.items():
        np.testing.assert_allclose(grouped[f"{name}@{k}"], metric(floats, k))


@given(st.permutations(range(1, 13)), st.sets(st.integers(1, 12), min_size=1), st.integers(1, 15))
def test_against_the_definitions_on_a_list(ranking: list[int], relevant: set[int], k: int) -> None:
    """The definitions walk down the recommended list; the functions see ranks only."""
    gains = [1.0 if item in relevant else 0.0 for item in ranking[:k]]
    found = [place for place, gain in enumerate(gains, start=1) if gain]
    ideal = sum(1 / np.log2(place + 1) for place in range(1, min(k, len(relevant)) + 1))
    expected = {
        "recall": len(found) / len(relevant),
        "hit_rate": float(bool(found)),
        "precision": len(found) / k,
        "mrr": 1 / found[0] if found else 0.0,
        "ndcg": sum(1 / np.log2(place + 1) for place in found) / ideal,
        "map": sum((index + 1) / place for index, place in enumerate(found)) / len(relevant),
    }
    ranks = np.array([ranking.index(item) + 1.0 for item in sorted(relevant)])  # in no order
    table = metrics.per_user(ranks, np.array([len(relevant)]), (k,))
    for name, value in expected.items():
        assert table[f"{name}@{k}"][0] == pytest.approx(value)


def test_the_order_of_a_users_targets_is_of_no_matter() -> None:
    one = metrics.per_user(np.array([7.0, 1.0, INF, 3.0, 2.0]), np.array([4, 1]), (5, 10))
    other = metrics.per_user(np.array([1.0, 3.0, 7.0, INF, 2.0]), np.array([4, 1]), (5, 10))
    assert all(one[name].tolist() == pytest.approx(other[name].tolist(), abs=1e-12) for name in one)


def test_average_precision_of_tied_targets() -> None:
    """Two targets tied with each other alone both have rank 1.5, and the precision of a list that begins with them."""
    table = metrics.per_user(np.array([1.5, 1.5, 2.0, 2.0, 2.0]), np.array([2, 3]), (5,))
    assert table["map@5"].tolist() == [1, 1]


@given(st.data())
def test_equals_scikit_learn_on_random_lists(data: st.DataObject) -> None:
    catalogue, users = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 5))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    k = data.draw(st.integers(1, catalogue))
    scores = np.stack([random.permutation(catalogue) for _ in range(users)]).astype(float)
    relevant = random.random((users, catalogue)) < 0.3
    relevant[:, 0] = True
    place = catalogue - scores.argsort(axis=1).argsort(axis=1)
    counts = relevant.sum(axis=1)
    table = metrics.per_user(place[relevant].astype(float), counts, (k, catalogue))
    for user in range(users):
        truth, own = relevant[user : user + 1].astype(int), scores[user : user + 1]
        assert table[f"ndcg@{k}"][user] == pytest.approx(ndcg_score(truth, own, k=k), abs=1e-9)
        expected = average_precision_score(truth[0], own[0])
        assert table[f"map@{catalogue}"][user] == pytest.approx(expected, abs=1e-9)


def test_coverage_by_hand() -> None:
    assert metrics.coverage(LISTS, 5) == pytest.approx(3 / 5)
    assert metrics.coverage(np.zeros((2, 3), int), 5) == 0


def test_gini_by_hand() -> None:
    """Items 1 2 3 are shown 3 1 2 times, 4 and 5 never: (-4*0 - 2*0 + 0*1 + 2*2 + 4*3) / (5 * 6)."""
    assert metrics.gini(LISTS, 5) == pytest.approx(16 / 30)
    assert metrics.gini(np.array([[1, 2], [3, 4]]), 4) == 0
    assert metrics.gini(np.array([[2], [2]]), 4) == pytest.approx(1 - 1 / 4)
    assert np.isnan(metrics.gini(np.zeros((2, 3), int), 4))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30).filter(any))
def test_gini_is_half_the_relative_mean_difference(items: list[int]) -> None:
    shown = np.bincount(items, minlength=7)[1:]
    difference = np.abs(shown[:, None] - shown[None, :]).mean()
    assert metrics.gini(np.array([items]), 6) == pytest.approx(difference / (2 * shown.mean()), abs=1e-12)


def test_novelty_by_hand() -> None:
    """Of 8 users 8, 4 and 2 had items 1, 2 and 3: 0, 1 and 2 bits; nobody had item 4, which counts as one user."""
    users_per_item = np.array([0, 8, 4, 2, 0, 1])
    values = metrics.novelty(LISTS, users_per_item, 8)
    np.testing.assert_allclose(values, [1, 1, 0, np.nan])
    assert metrics.novelty(np.array([[4]]), users_per_item, 8).tolist() == [3]


def test_average_popularity_by_hand() -> None:
    events_per_item = np.array([1000, 10, 6, 2, 0, 0])
    np.testing.assert_allclose(metrics.average_popularity(LISTS, events_per_item), [6, 6, 10, np.nan])


def test_diversity_by_hand() -> None:
    """Items 1 and 3 point the same way, item 2 across: cosines 0, 1, 0 of the three pairs, whatever the lengths."""
    vectors = np.array([[9, 9], [1, 0], [0, 7], [5, 0], [0, 0], [0, 0]], np.float32)
    np.testing.assert_allclose(metrics.diversity(LISTS, vectors), [2 / 3, 0, 0, 0], atol=1e-12)
    assert metrics.diversity(np.array([[1, 4], [4, 5]]), vectors).tolist() == [1, 1], "a zero vector is far from all"


def test_diversity_equals_scikit_learns_distances() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(31, 8))
    lists = np.stack([random.permutation(np.arange(1, 31))[:7] for _ in range(20)])
    distance = cosine_distances(vectors)
    pairs = [[distance[one, other] for one in row for other in row if one < other] for row in lists]
    np.testing.assert_allclose(metrics.diversity(lists, vectors), np.mean(pairs, axis=1), rtol=0, atol=1e-9)
