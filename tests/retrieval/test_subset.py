"""Search among some items against the dense way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.retrieval.indexes import IVF
from persrec.retrieval.rescoring import Additions, discounted
from persrec.retrieval.search import BruteForce
from persrec.retrieval.seen import Seen
from persrec.retrieval.subset import chosen_top_k

ITEMS = 12


@given(
    st.integers(0, 10_000),
    st.sets(st.integers(1, ITEMS), min_size=1),
    st.integers(1, ITEMS),
    st.booleans(),
    st.sampled_from([None, 0.5, 0.01]),
)
@settings(max_examples=60)
def test_the_best_of_the_chosen(seed: int, some: set[int], k: int, exclude: bool, odds: float | None) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((ITEMS + 1, 3)).astype(np.float32)
    queries = random.standard_normal((4, 3)).astype(np.float32)
    had = [random.integers(1, ITEMS + 1, random.integers(0, 9)) for _ in queries]
    chosen, seen = np.array(sorted(some)), Seen.from_lists(had)
    dense = queries @ vectors.T
    for row, items in enumerate(had):
        if odds is not None:
            dense[row, np.unique(items)] += np.float32(0.2 * np.log(odds))
        elif exclude:
            dense[row, items] = -np.inf
    additions = None if odds is None else discounted(None, seen, odds=odds, temperature=0.2)
    found, scores = chosen_top_k(BruteForce(vectors), chosen, queries, seen, additions, k, exclude_seen=exclude)
    for row in range(len(queries)):
        best = sorted(chosen, key=lambda item, row=row: (-dense[row, item], item))[:k]  # type: ignore[misc]
        best = [item for item in best if np.isfinite(dense[row, item])]
        assert [item for item in found[row] if item] == best
        np.testing.assert_allclose(scores[row, : len(best)], dense[row, best], atol=1e-6)


def test_an_approximate_index_misses_nothing_of_the_chosen() -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    chosen, nobody = np.arange(3, 400, 7), Seen.from_lists([np.zeros(0, np.int64)])
    index = IVF(vectors, lists=20, probes=1)
    items, _ = chosen_top_k(index, chosen, vectors[:1], nobody, None, 57, exclude_seen=True)
    assert sorted(items[0].tolist()) == chosen.tolist()


def test_k_above_the_catalogue_is_refused() -> None:
    index, nobody = BruteForce(np.ones((4, 2), np.float32)), Seen.from_lists([np.zeros(0, np.int64)])
    with pytest.raises(UserError, match="k: got 4, expected a whole number from 1 to 3"):
        chosen_top_k(index, np.array([1]), np.ones((1, 2), np.float32), nobody, None, 4, exclude_seen=True)


def test_a_discount_multiplies_the_odds() -> None:
    seen = Seen.from_lists([np.array([2, 5, 2]), np.array([], np.int64), np.array([1])])
    found = discounted(None, seen, odds=0.5, temperature=0.05)
    assert (found.query.tolist(), found.item.tolist()) == ([0, 0, 2], [2, 5, 1])
    score = 0.3
    odds = np.exp((score + found.value) / 0.05) / np.exp(score / 0.05)
    assert odds.tolist() == pytest.approx([0.5] * 3, rel=1e-5)


def test_a_discount_comes_beside_what_is_added_already() -> None:
    head = Additions(np.array([0, 0, 1]), np.array([2, 3, 9]), np.array([1.0, 2.0, 4.0], np.float32))
    found = discounted(head, Seen.from_lists([np.array([2]), np.array([7, 9])]), odds=np.exp(-1), temperature=0.5)
    assert list(zip(found.query, found.item, found.value.tolist(), strict=True)) == [
        (0, 2, 0.5), (0, 3, 2.0), (1, 7, -0.5), (1, 9, 3.5)
    ]  # fmt: skip
