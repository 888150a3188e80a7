"""Known and trained events of small histories, and their matrices."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from persrec.baselines import events
from persrec.baselines.baseline import with_popularity
from tests.baselines.worlds import asked, prepared_of

DATA = prepared_of([[1, 2, 1, 3], [4], [2, 2, 3]], [3, 1, 2])


def test_known_events_by_hand() -> None:
    found = events.known(DATA, asked((2, 2), (0, 3), (2, 3)))
    assert found.row.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert DATA.items[found.place].tolist() == [2, 2, 1, 2, 1, 2, 2, 3]
    assert found.age.tolist() == [1, 0, 2, 1, 0, 2, 1, 0]


def test_the_last_known_events() -> None:
    found = events.known(DATA, asked((0, 3), (1, 1)), last=2)
    assert found.row.tolist() == [0, 0, 1]
    assert DATA.items[found.place].tolist() == [2, 1, 4]
    assert found.age.tolist() == [1, 0, 0]


def test_trained_events_end_where_training_does() -> None:
    found = events.trained(DATA)
    assert DATA.items[found.place].tolist() == [1, 2, 1, 4, 2, 2]
    assert found.row.tolist() == [0, 0, 0, 1, 2, 2]


def test_matrices_add_up_repeats() -> None:
    found = events.known(DATA, asked((0, 3), (2, 3)))
    weights = events.matrix(DATA, found, np.array([1, 2, 4, 1, 2, 4]), 2)
    assert weights.toarray().tolist() == [[0, 5, 2, 0, 0], [0, 0, 3, 4, 0]]
    assert events.distinct(DATA, found, 2).toarray().tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]


def test_pairs_stay_within_a_user_and_within_training() -> None:
    found = events.pairs(DATA, events.trained(DATA), 1)
    assert list(zip(found.earlier.tolist(), found.later.tolist(), found.after.tolist(), strict=True)) == [
        (1, 2, 1),
        (2, 1, 0),
        (2, 2, 0),
    ]
    assert events.pairs(DATA, events.trained(DATA), 2).later.tolist() == [1]
    assert events.pairs(DATA, events.trained(DATA), 30).later.tolist() == []


def test_the_oldest_event_never_vanishes() -> None:
    weights = events.halving(np.array([0.0, 1.0, 1e9])).astype(np.float32)
    assert weights[:2].tolist() == [1, 0.5]
    assert weights[2] > 0


@given(st.data())
def test_what_is_scored_stands_above_what_goes_by_popularity(data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 12))
    scores = np.array(data.draw(st.lists(st.floats(-50, 50), min_size=width, max_size=width)))
    scored = np.array(data.draw(st.lists(st.booleans(), min_size=width, max_size=width)))
    popularity = np.array(data.draw(st.lists(st.integers(0, 5), min_size=width, max_size=width)))
    scored[0], popularity[0] = False, 0
    filled = with_popularity(scores[None], scored[None], popularity)[0]
    rest = ~scored & (np.arange(width) > 0)
    assert np.isneginf(filled[0])
    assert filled[scored].tolist() == scores[scored].astype(np.float32).tolist()
    if scored.any() and rest.any():
        assert filled[scored].min() > filled[rest].max()
    signs = np.sign(filled[rest][:, None] - filled[rest][None])
    np.testing.assert_array_equal(signs, np.sign(popularity[rest][:, None] - popularity[rest][None]))
