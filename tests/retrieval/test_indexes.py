"""Approximate indexes: honest about what they miss, exact when set to exact (tests/test_retrieval.py has more)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from persrec.errors import UserError
from persrec.retrieval.indexes import HNSW, INDEXES, IVF, IVFPQ, Index, measure
from persrec.retrieval.search import BruteForce, ExactIndex, TopK, rank_targets, top_k
from persrec.retrieval.seen import Seen

ITEMS, WIDTH = 600, 16
NOTHING = Seen.from_lists([np.array([], np.int64)] * 60)
APPROXIMATE: dict[str, Callable[[np.ndarray], Index]] = {
    "hnsw": lambda vectors: HNSW(vectors, links=4, build_breadth=8, breadth=8),
    "ivf": lambda vectors: IVF(vectors, lists=24, probes=2),
    "ivf_pq": lambda vectors: IVFPQ(vectors, lists=24, probes=2, code_bytes=4, rescore=1),
}
EXACT: dict[str, Callable[[np.ndarray], Index]] = {
    "flat": ExactIndex,
    "hnsw": lambda vectors: HNSW(vectors, breadth=ITEMS),
    "ivf": lambda vectors: IVF(vectors, lists=24, probes=24),
    "ivf_pq": lambda vectors: IVFPQ(vectors, lists=24, probes=24, code_bytes=4, rescore=ITEMS),
}


def vectors_of(count: int = ITEMS, seed: int = 0) -> np.ndarray:
    """Vectors in 24 clouds, of unequal lengths, with a padding row that would win every search."""
    points, _ = make_blobs(count, WIDTH, centers=24, random_state=seed)
    return np.concatenate([np.full((1, WIDTH), 100.0), points]).astype(np.float32)


def queries_of(count: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, WIDTH)).astype(np.float32)


VECTORS, QUERIES = vectors_of(), queries_of(60)


@pytest.mark.parametrize("kind", EXACT)
def test_set_to_exact_they_equal_brute_force(kind: str) -> None:
    index, slow = EXACT[kind](VECTORS), BruteForce(VECTORS)
    random = np.random.default_rng(1)
    seen = Seen.from_lists([random.integers(1, ITEMS + 1, random.integers(0, 90)) for _ in QUERIES])
    targets = random.integers(1, ITEMS + 1, len(QUERIES))
    for exclude in (True, False):
        items, scores = top_k(index, QUERIES, seen, 20, exclude_seen=exclude)
        expected, values = top_k(slow, QUERIES, seen, 20, exclude_seen=exclude)
        np.testing.assert_array_equal(items, expected)
        np.testing.assert_allclose(scores, values, rtol=1e-5)
        ranks = [rank_targets(form, QUERIES, targets, seen, 300, exclude_seen=exclude) for form in (index, slow)]
        np.testing.assert_array_equal(*ranks)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_what_is_found_has_its_exact_score_and_the_rest_is_padding(kind: str) -> None:
    """Asked for all items, each of them finds only some."""
    index = APPROXIMATE[kind](VECTORS)
    scores, items = index.search(QUERIES, 400)
    missing = items == 0
    assert missing.any()
    assert np.isneginf(scores[missing]).all()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all(), "padding is at the end"
    expected = (QUERIES @ VECTORS.T)[np.arange(len(items))[:, None], items]
    np.testing.assert_allclose(scores[~missing], expected[~missing], rtol=1e-4, atol=1e-4)
    with np.errstate(invalid="ignore"):
        assert not (np.diff(scores, axis=1) > 0).any(), "falling"


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_fewer_than_k_are_returned_honestly(kind: str) -> None:
    index = APPROXIMATE[kind](VECTORS)
    seen = Seen.from_lists([np.arange(1, 201)] * len(QUERIES))
    items, scores = top_k(index, QUERIES, seen, 300)
    assert (items == 0).any()
    np.testing.assert_array_equal(items == 0, np.isneginf(scores))
    assert not np.isin(items, np.arange(1, 201)).any(), "seen items never fill the gap"
    for row in items:
        found = row[row > 0]
        assert len(set(found.tolist())) == len(found)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_rank_is_the_place_in_the_list_that_the_user_would_get(kind: str) -> None:
    """A target that is not found is a miss, even where its score is high enough."""
    index = APPROXIMATE[kind](VECTORS)
    targets = top_k(BruteForce(VECTORS), QUERIES, NOTHING, 3)[0][:, 2]
    items, _ = top_k(index, QUERIES, NOTHING, 20)
    rows = zip(items.tolist(), targets, strict=True)
    expected = [row.index(target) + 1 if target in row else np.inf for row, target in rows]
    ranks = rank_targets(index, QUERIES, targets, NOTHING, 20)
    assert ranks.tolist() == expected
    assert 0 < np.isinf(ranks).sum() < len(ranks)


class NotingExact(ExactIndex):
    """What it is asked for."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.depths = [*getattr(self, "depths", []), k]
        return super().search(queries, k)


def test_of_an_exact_index_seen_items_cost_more_only_where_they_are_among_the_best() -> None:
    best = BruteForce(VECTORS).search(QUERIES[:1], ITEMS)[1][0]
    for seen, depths in ((best[:37], [42, 47]), (best[:20], [30]), (best[:30], [40]), (best[-137:], [51])):
        index = NotingExact(VECTORS)
        top_k(index, QUERIES[:1], Seen.from_lists([seen]), 10)
        assert index.depths == depths


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_of_others_seen_items_cost_exactly_as_many_candidates_more(kind: str) -> None:
    class Noting:
        def __init__(self, index: TopK) -> None:
            self.index, self.vectors, self.depths = index, index.vectors, []

        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            self.depths.append(k)
            return self.index.search(queries, k)

    index = Noting(APPROXIMATE[kind](VECTORS))
    top_k(index, QUERIES[:1], Seen.from_lists([np.arange(1, 38)]), 10)
    assert index.depths == [47]


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_user_gets_the_same_alone(kind: str) -> None:
    index = APPROXIMATE[kind](VECTORS)
    random = np.random.default_rng(2)
    had = [random.integers(1, ITEMS + 1, random.integers(0, 200)) for _ in QUERIES]
    together = top_k(index, QUERIES, Seen.from_lists(had), 10)[0]
    alone = [
        top_k(index, query[None], Seen.from_lists([own]), 10)[0][0] for query, own in zip(QUERIES, had, strict=True)
    ]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_the_same_vectors_make_the_same_index(kind: str) -> None:
    one, other = (APPROXIMATE[kind](VECTORS).search(QUERIES, 50)[1] for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        ({"kind": "hnsw", "breadth": 8, "links": 4}, {"kind": "hnsw", "breadth": 256}),
        ({"kind": "ivf", "probes": 1}, {"kind": "ivf", "probes": 16}),
        ({"kind": "ivf_pq", "code_bytes": 2, "rescore": 1}, {"kind": "ivf_pq", "code_bytes": 8, "rescore": 8}),
    ],
)
def test_more_work_finds_more(weak: dict[str, Any], strong: dict[str, Any]) -> None:
    found = [measure(INDEXES[kind](VECTORS, **rest), QUERIES, 10) for kind, rest in map(kind_and_rest, (weak, strong))]
    assert found[0].recall < found[1].recall
    assert found[1].recall > 0.9
    assert all(quality.milliseconds > 0 for quality in found)
    assert all(quality.exact_milliseconds > 0 for quality in found)
    assert {quality.exact_nbytes for quality in found} == {ITEMS * WIDTH * 4}


def kind_and_rest(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return settings["kind"], {name: value for name, value in settings.items() if name != "kind"}


def test_measured_by_hand() -> None:
    """Of three items in two lists one list is probed, which holds two of the three best."""
    vectors = np.array([[9, 9], [1, 0], [1, 0.1], [0, 1]], np.float32)
    query = np.array([[1, 0.5]], np.float32)
    assert measure(IVF(vectors, lists=2, probes=1), query, 3).recall == pytest.approx(2 / 3)
    exact = measure(ExactIndex(vectors), query, 3)
    assert exact.recall == 1
    assert exact.nbytes == 3 * 2 * 4


def test_codes_are_smaller_than_vectors() -> None:
    vectors = vectors_of(3000)
    sizes = {kind: INDEXES[kind](vectors, **({"code_bytes": 4} if kind == "ivf_pq" else {})).nbytes for kind in INDEXES}
    assert sizes["flat"] == 3000 * WIDTH * 4
    assert sizes["ivf_pq"] < sizes["flat"] / 2
    assert sizes["hnsw"] > sizes["ivf"] > sizes["flat"]


@pytest.mark.parametrize("kind", ["ivf", "ivf_pq"])
def test_more_lists_than_items_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"retrieval\.lists: got 601, expected at most 600, the number of items"):
        INDEXES[kind](VECTORS, lists=601)


def test_codes_need_items_to_learn_from_and_a_divisible_width() -> None:
    with pytest.raises(UserError, match=r"retrieval\.kind: got ivf_pq for 255 items, expected at least 256.*use flat"):
        IVFPQ(vectors_of(255))
    with pytest.raises(UserError, match=r"retrieval\.code_bytes: got 5, expected a divisor of the vectors' width 16"):
        IVFPQ(VECTORS, code_bytes=5)


@pytest.mark.parametrize("kind", INDEXES)
def test_bad_input_is_refused_as_by_exact_search(kind: str) -> None:
    index = INDEXES[kind](VECTORS)
    with pytest.raises(UserError, match="k: got 0, expected a whole number from 1 to 600, the number of items"):
        index.search(QUERIES, 0)
    broken = QUERIES.copy()
    broken[3] = np.nan
    with pytest.raises(UserError, match="query of user row 3 is not finite"):
        index.search(broken, 5)
