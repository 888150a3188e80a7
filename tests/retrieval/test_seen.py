"""Sets of seen items, found for a whole batch at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from persrec.retrieval.seen import Seen

HISTORIES = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6)


def test_by_hand() -> None:
    seen = Seen.from_lists([np.array([3, 1, 3]), np.array([]), np.array([2])])
    assert seen.counts.tolist() == [2, 0, 1]
    items = np.array([[1, 2], [1, 2]])
    assert seen.contains(np.array([0, 2]), items).tolist() == [[True, False], [False, True]]


def test_nobody_has_seen_anything() -> None:
    seen = Seen.from_lists([np.array([]), np.array([])])
    assert seen.counts.tolist() == [0, 0]
    assert not seen.contains(np.array([0, 1]), np.array([[1, 2], [0, 3]])).any()


@given(HISTORIES)
def test_equals_python_sets_from_every_form(histories: list[list[int]]) -> None:
    lists = [np.array(items, dtype=np.int32) for items in histories]
    offsets = np.cumsum([0] + [len(items) for items in histories])
    flat = np.concatenate(lists)
    candidates = np.tile(np.arange(1, 15), (len(lists), 1))
    expected = [[item in items for item in range(1, 15)] for items in histories]
    for seen in (Seen.from_lists(lists), Seen.from_ranges(flat, offsets[:-1], offsets[1:])):
        assert seen.contains(np.arange(len(lists)), candidates).tolist() == expected
        assert seen.counts.tolist() == [len(set(items) - {0}) for items in histories]


def test_ranges_may_skip_users_and_ends() -> None:
    flat = np.array([5, 6, 7, 8, 9])
    seen = Seen.from_ranges(flat, np.array([3, 0]), np.array([4, 2]))
    assert seen.contains(np.array([0, 1]), np.array([[8, 9], [6, 7]])).tolist() == [[True, False], [True, False]]
