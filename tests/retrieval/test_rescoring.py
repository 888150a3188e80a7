"""Search with additions against the dense way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec.retrieval.indexes import INDEXES
from persrec.retrieval.rescoring import Additions, rescored_ranks, rescored_top_k
from persrec.retrieval.search import BruteForce, ExactIndex


def world(seed: int, *, queries: int = 9, items: int = 40, share: float = 0.2, whole: bool = False):
    """Queries, vectors, additions, and the dense scores; hundredths, or `whole` numbers that make ties."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        values = random.integers(-2, 3, shape) if whole else random.standard_normal(shape).round(2)
        return values.astype(np.float32)

    query, vectors = draw(queries, 3), draw(items + 1, 3)
    has = random.random((queries, items + 1)) < share
    has[:, 0], has[1] = False, False
    rows, item = has.nonzero()
    value = draw(len(rows))
    dense = query @ vectors.T
    dense[rows, item] += value
    dense[:, 0] = -np.inf
    return query, vectors, Additions(rows, item, value), dense


@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([0.0, 0.2, 1.0]))
def test_lists_are_those_of_the_dense_scores(seed: int, k: int, share: float) -> None:
    query, vectors, additions, dense = world(seed, share=share)
    items, scores = rescored_top_k(BruteForce(vectors), query, additions, k, users_per_chunk=4)
    best = np.argsort(-dense, axis=1, kind="stable")[:, :k]
    np.testing.assert_allclose(scores, np.take_along_axis(dense, best, axis=1), atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(dense, items, axis=1), scores, atol=1e-5)


@given(st.integers(0, 1000), st.integers(1, 40), st.booleans())
def test_ranks_are_those_of_the_dense_scores_ties_half(seed: int, k_max: int, whole: bool) -> None:
    query, vectors, additions, dense = world(seed, whole=whole)
    of = np.repeat(np.arange(len(query)), 3)
    target = np.random.default_rng(seed).integers(1, len(vectors), len(of))
    found = rescored_ranks(ExactIndex(vectors), query, additions, of, target, k_max, users_per_chunk=5)
    own = dense[of, target][:, None]
    above, tied = (dense[of] > own + 5e-5).sum(axis=1), (abs(dense[of] - own) < 5e-5).sum(axis=1) - 1
    rank = 1 + above + tied / 2
    np.testing.assert_array_equal(found, np.where(rank <= k_max, rank, np.inf))


def test_an_addition_lifts_an_item_to_the_top() -> None:
    query, vectors, _, _ = world(0)
    additions = Additions(np.array([2]), np.array([7]), np.array([100.0], dtype=np.float32))
    items, _ = rescored_top_k(ExactIndex(vectors), query, additions, 5)
    assert items[2, 0] == 7
    of, target = np.array([1, 2]), np.array([7, 7])
    ranks = rescored_ranks(ExactIndex(vectors), query, additions, of, target, 40)
    assert ranks[1] == 1.0
    assert ranks[0] == pytest.approx(1 + (query[1] @ vectors[1:].T > query[1] @ vectors[7] + 5e-5).sum())


def test_of_an_approximate_search_ranks_are_those_in_the_lists() -> None:
    """What the search misses is in no list, however high it would stand."""
    random = np.random.default_rng(0)
    vectors, query = random.normal(size=(601, 8)).astype(np.float32), random.normal(size=(40, 8)).astype(np.float32)
    index = INDEXES["ivf"](vectors, lists=20, probes=1)
    rows = np.repeat(np.arange(40), 3)
    item = np.concatenate([random.choice(np.arange(1, 601), 3, replace=False) for _ in range(40)])
    additions = Additions(rows, item, np.full(120, 0.5, np.float32))
    best = BruteForce(vectors).search(query, 3)[1]
    of, target = np.repeat(np.arange(40), 3), best.ravel()
    lists = rescored_top_k(index, query, additions, 10)[0]
    ranks = rescored_ranks(index, query, additions, of, target, 10)
    listed = (lists[of] == target[:, None]).any(axis=1)
    assert 0 < listed.sum() < len(listed), "some are missed"
    np.testing.assert_array_equal(np.isfinite(ranks), listed)
