"""Metrics against lists worked by hand and against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec import metrics

INF = np.inf


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
    table = metrics.per_target(np.array([1.0, 4.0]), (1, 5))
    assert set(table) == {f"{name}@{k}" for name in ("recall", "hit_rate", "ndcg", "mrr") for k in (1, 5)}
    assert table["mrr@5"].tolist() == [1, 0.25]


def test_several_targets_of_a_user_by_hand() -> None:
    """The first user has targets at ranks 1, 3 and beyond; the second one at rank 2."""
    table = metrics.per_user(np.array([1.0, 3.0, INF, 2.0]), np.array([3, 1]), (2, 5))
    np.testing.assert_allclose(table["recall@5"], [2 / 3, 1])
    np.testing.assert_allclose(table["hit_rate@2"], [1, 1])
    np.testing.assert_allclose(table["mrr@5"], [1, 1 / 2])
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    np.testing.assert_allclose(table["ndcg@5"], [(1 + 1 / 2) / ideal, 1 / np.log2(3)])
    np.testing.assert_allclose(table["ndcg@2"], [1 / (1 + 1 / np.log2(3)), 1 / np.log2(3)])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 25))
def test_one_target_per_user_is_the_plain_metric(ranks: list[int], k: int) -> None:
    floats = np.array(ranks, dtype=float)
    grouped = metrics.per_user(floats, np.ones(len(ranks), dtype=int), (k,))
    for name, values in metrics.per_target(floats, (k,)).items():
        np.testing.assert_allclose(grouped[name], values)


@given(st.permutations(range(1, 13)), st.sets(st.integers(1, 12), min_size=1), st.integers(1, 15))
def test_against_the_definitions_on_a_list(ranking: list[int], relevant: set[int], k: int) -> None:
    """The definitions walk down the recommended list; the functions see ranks only."""
    gains = [1.0 if item in relevant else 0.0 for item in ranking[:k]]
    found = [place for place, gain in enumerate(gains, start=1) if gain]
    ideal = sum(1 / np.log2(place + 1) for place in range(1, min(k, len(relevant)) + 1))
    expected = {
        "recall": len(found) / len(relevant),
        "hit_rate": float(bool(found)),
        "mrr": 1 / found[0] if found else 0.0,
        "ndcg": sum(1 / np.log2(place + 1) for place in found) / ideal,
    }
    ranks = np.array([ranking.index(item) + 1.0 for item in sorted(relevant)])
    table = metrics.per_user(ranks, np.array([len(relevant)]), (k,))
    for name, value in expected.items():
        assert table[f"{name}@{k}"][0] == pytest.approx(value)
