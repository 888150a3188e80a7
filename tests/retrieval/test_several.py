"""Search by several queries of a user: what one search with the best score of each item would give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.retrieval.search import ExactIndex, top_k
from persrec.retrieval.seen import Seen
from persrec.retrieval.several import top_k_of_several


@settings(max_examples=60)
@given(
    users=st.integers(1, 5),
    count=st.integers(1, 4),
    items=st.integers(1, 30),
    exclude=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_an_item_counts_by_its_best_score(users: int, count: int, items: int, exclude: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(items + 1, 3)).astype(np.float32)
    queries = random.normal(size=(users, count, 3)).astype(np.float32)
    had = [random.integers(1, items + 1, random.integers(0, items)) for _ in range(users)]
    k = int(random.integers(1, items + 1))
    index = ExactIndex(vectors)
    found, scores = top_k_of_several(
        lambda asked, seen: top_k(index, asked, seen, k, exclude_seen=exclude), queries, Seen.from_lists(had)
    )
    best = (queries @ vectors.T).max(axis=1)  # (B, V+1)
    best[:, 0] = -np.inf
    for user in range(users):
        if exclude:
            best[user, had[user]] = -np.inf
        left = int(np.isfinite(best[user]).sum())
        expected = np.argsort(-best[user], kind="stable")[: min(k, left)]
        assert found[user].tolist() == expected.tolist() + [0] * (k - len(expected))
        np.testing.assert_allclose(scores[user, : len(expected)], best[user, expected], rtol=1e-5, atol=1e-6)
        assert np.isneginf(scores[user, len(expected) :]).all()


@pytest.mark.parametrize("count", [1, 3])
def test_the_same_query_again_changes_nothing(count: int) -> None:
    random = np.random.default_rng(0)
    index = ExactIndex(random.normal(size=(41, 4)).astype(np.float32))
    queries, seen = random.normal(size=(6, 4)).astype(np.float32), Seen.from_lists([np.arange(1, 9)] * 6)
    items, scores = top_k_of_several(
        lambda asked, known: top_k(index, asked, known, 7), np.repeat(queries[:, None], count, axis=1), seen
    )
    plain = top_k(index, queries, seen, 7)
    np.testing.assert_array_equal(items, plain[0])
    np.testing.assert_allclose(scores, plain[1], rtol=1e-5)
