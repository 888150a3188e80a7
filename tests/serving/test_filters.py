"""Seen items as bits: none is lost, few are taken for seen, and it grows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec.retrieval.search import ExactIndex, top_k
from persrec.serving.filters import FIRST, Filtered, none, size


@given(st.lists(st.integers(1, 10**6), max_size=200), st.sampled_from([0.5, 0.1, 0.01]))
def test_what_went_in_is_found(items: list[int], rate: float) -> None:
    given_items = np.array(items, dtype=np.int64)
    found = none(rate).after(given_items)
    assert found.contains(given_items).all()
    assert found.held <= len(set(items))
    assert len(found.bits) == size(rate, found.held)


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("count", [FIRST, 100, 3000])
def test_others_are_taken_for_seen_at_most_at_the_rate(rate: float, count: int) -> None:
    grown = none(rate)
    items = np.random.default_rng(0).permutation(np.arange(1, 200_001))
    for start in range(0, count, 40):
        grown = grown.after(items[start : min(start + 40, count)])
    wrong = grown.contains(items[count:]).mean()
    assert wrong <= 1.1 * rate


def test_in_whatever_steps_items_come_the_bits_are_the_same() -> None:
    items = np.arange(1, 200)
    one = none(0.01).after(items)
    other = none(0.01)
    for start in range(0, len(items), FIRST):
        other = other.after(items[start : start + FIRST])
    assert one.held == other.held
    assert np.array_equal(one.bits, other.bits)
    assert np.array_equal(one.after(items[:50]).bits, one.bits), "what is in it already changes nothing"


def test_bytes_of_a_thousand_items() -> None:
    assert size(0.01, 0) == 0
    assert size(0.01, 1000) == sum(-(-items * hashes / np.log(2) // 8) for items, hashes in PARTS)
    assert size(0.1, 992) < 1.5 * 992 < size(0.01, 992) < 2.2 * 992


PARTS = [(32, 8), (64, 9), (128, 10), (256, 11), (512, 12), (1024, 13)]  # each is filled before the next begins


def test_users_of_a_batch() -> None:
    filters = [none(0.001).after(np.array([1, 2, 3])), none(0.001)]
    seen = Filtered(filters, [np.array([7]), np.array([8, 9])], 10)
    asked = np.array([[1, 7, 8], [9, 1, 8]])
    assert seen.contains(np.array([0, 1]), asked).tolist() == [[True, True, False], [True, False, True]]
    assert seen.contains(np.array([1]), asked[:1]).tolist() == [[False, False, True]]
    assert (seen.counts >= [4, 2]).all()


@pytest.mark.parametrize(("rate", "k"), [(0.01, 1), (0.1, 5000), (0.5, 1000), (0.9, 1000)])
def test_everybody_gets_k_items_where_there_are_as_many(rate: float, k: int) -> None:
    random = np.random.default_rng(0)
    index = ExactIndex(random.normal(size=(20_001, 4)).astype(np.float32))
    had = [random.choice(np.arange(1, 20_001), 60, replace=False) for _ in range(40)]
    seen = Filtered([none(rate).after(items[:50]) for items in had], [items[50:] for items in had], k)
    items, _ = top_k(index, random.normal(size=(40, 4)).astype(np.float32), seen, k)
    assert (items > 0).all()
