"""faiss, exact or set to exact, == brute force == a sum that anybody can follow, ties and seen items included."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.retrieval import search as retrieval
from persrec.retrieval.indexes import HNSW, IVF
from persrec.retrieval.search import BruteForce, ExactIndex, TopK, rank_targets, top_k
from persrec.retrieval.seen import Seen

Build = Callable[[np.ndarray], TopK]


def hnsw_to_exact(vectors: np.ndarray) -> TopK:
    return HNSW(vectors, breadth=len(vectors) - 1)


def ivf_to_exact(vectors: np.ndarray) -> TopK:
    lists = min(3, len(vectors) - 1)
    return IVF(vectors, lists=lists, probes=lists)


INDEXES = [ExactIndex, BruteForce, hnsw_to_exact, ivf_to_exact]


def vectors_of(values: list[list[float]]) -> np.ndarray:
    """Item vectors with a padding row that would win every search."""
    return np.array([[1000.0] * len(values[0]), *values], dtype=np.float32)


def slow_rank(scores: np.ndarray, target: int, seen: set[int], k_max: int) -> float:
    rivals = [item for item in range(1, len(scores)) if item != target and item not in seen]
    above = sum(scores[item] > scores[target] for item in rivals)
    tied = sum(scores[item] == scores[target] for item in rivals)
    rank = 1 + above + tied / 2
    return rank if rank <= k_max else np.inf


class Counting:
    """An index that notes how deep it was searched, for how many users."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors, self.searches = vectors, []
        self._index = BruteForce(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.searches.append((len(queries), k))
        return self._index.search(queries, k)


@pytest.fixture(params=INDEXES)
def build(request: pytest.FixtureRequest) -> Build:
    return request.param


def test_search_by_hand(build: Build) -> None:
    index = build(vectors_of([[1, 0], [0, 1], [2, 2]]))
    scores, items = index.search(np.array([[1, 0], [0.5, 1]], np.float32), 2)
    assert items.tolist() == [[3, 1], [3, 2]]
    assert scores.tolist() == [[2, 1], [3, 1]]
    assert items.dtype == np.int64


def test_faiss_equals_brute_force_on_random_vectors(build: Build) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(301, 16)).astype(np.float32), rng.normal(size=(50, 16)).astype(np.float32)
    fast, slow = build(vectors).search(queries, 40), BruteForce(vectors).search(queries, 40)
    np.testing.assert_array_equal(fast[1], slow[1])
    np.testing.assert_allclose(fast[0], slow[0], rtol=1e-5)


def test_rank_by_hand(build: Build) -> None:
    """Scores of items 1..5: 5 4 4 4 1. Item 3 has one above and two tied: 1 + 1 + 2/2 = 3."""
    index = build(vectors_of([[5], [4], [4], [4], [1]]))
    query = np.ones((1, 1), np.float32)
    nothing, two = (Seen.from_lists([np.array(items, int)]) for items in ([], [1, 2]))
    assert rank_targets(index, query, np.array([3]), nothing, 5).tolist() == [3]
    assert rank_targets(index, query, np.array([3]), two, 5).tolist() == [1.5]
    assert rank_targets(index, query, np.array([3]), two, 5, exclude_seen=False).tolist() == [3]
    assert rank_targets(index, query, np.array([5]), nothing, 4).tolist() == [np.inf]


def test_a_target_is_never_excluded(build: Build) -> None:
    index = build(vectors_of([[3], [2], [1]]))
    seen = Seen.from_lists([np.array([1, 2])])
    assert rank_targets(index, np.ones((1, 1), np.float32), np.array([2]), seen, 3).tolist() == [1]


def test_a_tie_group_larger_than_what_was_fetched(build: Build) -> None:
    """All 500 items score the same: rank 1 + 499/2, found or not by the first search."""
    index = build(vectors_of([[1, 1]] * 500))
    query = np.ones((3, 2), np.float32)
    targets, nothing = np.array([1, 250, 500]), Seen.from_lists([np.array([], int)] * 3)
    assert rank_targets(index, query, targets, nothing, 300).tolist() == [250.5] * 3
    assert rank_targets(index, query, targets, nothing, 10).tolist() == [np.inf] * 3


def test_equal_vectors_tie_whatever_the_order_of_summation(build: Build) -> None:
    rng = np.random.default_rng(1)
    one = rng.normal(size=64).astype(np.float32)
    index = build(np.concatenate([np.zeros((1, 64), np.float32), np.tile(one, (37, 1))]))
    ranks = rank_targets(
        index, rng.normal(size=(25, 64)).astype(np.float32), np.arange(1, 26), Seen.from_lists([np.array([])] * 25), 37
    )
    assert ranks.tolist() == [19.0] * 25


small = st.integers(-3, 3)


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("form", INDEXES)
def test_ranks_equal_the_definition(form: Build, data: st.DataObject) -> None:
    """Small whole numbers make exact scores and many ties."""
    count, users = data.draw(st.integers(2, 25)), data.draw(st.integers(1, 6))
    vectors = np.array(data.draw(st.lists(st.tuples(small, small), min_size=count + 1, max_size=count + 1)), np.float32)
    queries = np.array(data.draw(st.lists(st.tuples(small, small), min_size=users, max_size=users)), np.float32)
    seen = [data.draw(st.sets(st.integers(1, count))) for _ in range(users)]
    targets = np.array([data.draw(st.integers(1, count)) for _ in range(users)])
    k_max, exclude = data.draw(st.integers(1, count)), data.draw(st.booleans())
    had = Seen.from_lists([np.array(sorted(items), dtype=np.int64) for items in seen])
    ranks = rank_targets(form(vectors), queries, targets, had, k_max, exclude_seen=exclude, users_per_chunk=2)
    rows = zip(queries @ vectors.T, targets, seen, strict=True)
    assert ranks.tolist() == [slow_rank(scores, t, items if exclude else set(), k_max) for scores, t, items in rows]


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("form", INDEXES)
def test_top_k_equals_the_definition(form: Build, data: st.DataObject) -> None:
    count, users = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 5))
    vectors = np.array(data.draw(st.permutations(range(count + 1))), np.float32)[:, None]
    seen = [data.draw(st.sets(st.integers(1, count))) for _ in range(users)]
    k = data.draw(st.integers(1, count))
    had = Seen.from_lists([np.array(sorted(items), dtype=np.int64) for items in seen])
    items, scores = top_k(form(vectors), np.ones((users, 1), np.float32), had, k, users_per_chunk=2)
    for row, hidden in enumerate(seen):
        left = sorted(set(range(1, count + 1)) - hidden, key=lambda item: -vectors[item, 0])[:k]
        assert items[row].tolist() == left + [0] * (k - len(left))
        expected = [vectors[item, 0] for item in left] + [-np.inf] * (k - len(left))
        assert scores[row].tolist() == expected


def test_top_k_breaks_ties_by_item_and_can_repeat_seen_items(build: Build) -> None:
    index = build(vectors_of([[1], [2], [2]]))
    items, _ = top_k(index, np.ones((1, 1), np.float32), Seen.from_lists([np.array([2])]), 3, exclude_seen=False)
    assert items.tolist() == [[2, 3, 1]]


def test_one_long_history_does_not_cost_the_others() -> None:
    rng = np.random.default_rng(0)
    index = Counting(rng.normal(size=(3001, 4)).astype(np.float32))
    seen = Seen.from_lists([np.arange(1, 2001), *(np.array([7]) for _ in range(99))])
    queries = rng.normal(size=(100, 4)).astype(np.float32)
    rank_targets(index, queries, rng.integers(1, 3001, 100), seen, 20)
    assert sum(users * depth for users, depth in index.searches) <= 2 * (99 * 21 + 2020)
    assert (1, 2020) in index.searches


def test_results_do_not_depend_on_the_chunks() -> None:
    rng = np.random.default_rng(2)
    index = ExactIndex(rng.normal(size=(401, 8)).astype(np.float32))
    queries, targets = rng.normal(size=(30, 8)).astype(np.float32), rng.integers(1, 401, 30)
    seen = Seen.from_lists([rng.integers(1, 401, rng.integers(0, 60)) for _ in range(30)])
    whole = rank_targets(index, queries, targets, seen, 100)
    np.testing.assert_array_equal(whole, rank_targets(index, queries, targets, seen, 100, users_per_chunk=7))


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_fit_the_catalogue(build: Build, k: int) -> None:
    index, query = build(vectors_of([[1], [2], [3]])), np.ones((1, 1), np.float32)
    message = f"k: got {k}, expected a whole number from 1 to 3, the number of items"
    with pytest.raises(UserError, match=message):
        index.search(query, k)
    with pytest.raises(UserError, match=message):
        rank_targets(index, query, np.array([1]), Seen.from_lists([np.array([])]), k)
    with pytest.raises(UserError, match=message):
        top_k(index, query, Seen.from_lists([np.array([])]), k)


def test_queries_and_vectors_must_be_finite(build: Build) -> None:
    queries = np.ones((4, 1), np.float32)
    queries[2] = np.nan
    with pytest.raises(UserError, match=r"query of user row 2 is not finite \(1 of 4 are not\); training has diverged"):
        rank_targets(build(vectors_of([[1]])), queries, np.ones(4, int), Seen.from_lists([np.array([])] * 4), 1)
    with pytest.raises(UserError, match="vector of item 1 is not finite"):
        build(vectors_of([[np.inf], [1]]))


def test_the_margin_of_a_tie_is_that_of_rounding() -> None:
    """Wide enough for float32, far narrower than what tells two items apart."""
    assert np.finfo(np.float32).eps < retrieval.TIE <= 1e-5
