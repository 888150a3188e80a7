import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.interactions.vocabulary import Numbering, compact

IDS = st.one_of(st.lists(st.text(max_size=3), min_size=1, max_size=50), st.lists(st.integers(0, 60), min_size=1))


def test_numbers_follow_the_sorted_ids():
    numbering = Numbering("item_id")
    numbers = numbering.numbers(pl.DataFrame({"item_id": ["b", "ä", "a", "b"]}))
    ids, place = numbering.ordered()
    assert ids.to_list() == ["a", "b", "ä"]
    assert place[numbers.to_numpy()].tolist() == [1, 2, 0, 1]
    assert (numbers.dtype, place.dtype) == (pl.Int32, np.int32)


@given(IDS, st.integers(1, 20))
@settings(max_examples=40)
def test_numbering_is_undone_by_the_ids_however_they_come(ids, rows):
    frame, numbering = pl.DataFrame({"item_id": ids}), Numbering("item_id")
    numbers = pl.concat([numbering.numbers(part) for part in frame.iter_slices(rows)])
    known, place = numbering.ordered()
    assert known.to_list() == sorted(set(ids), key=lambda one: one if isinstance(one, int) else one.encode())
    assert [known[int(number)] for number in place[numbers.to_numpy()]] == ids


def test_compact_closes_gaps():
    events = np.array([0, 2, 0, 5, 1])
    assert compact(events, first=1)[events > 0].tolist() == [1, 2, 3]
    assert compact(events, first=0)[events > 0].tolist() == [0, 1, 2]
