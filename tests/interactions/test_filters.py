import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.interactions.filters import drop_duplicates, k_core
from persrec.interactions.sequences import ordered

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60)


def log(rows, columns=("user_id", "item_id", "timestamp")):
    return pl.LazyFrame(rows, schema=list(columns), orient="row")


def test_a_duplicate_repeats_every_column():
    rows = [(1, 7, 10, 5.0), (1, 8, 10, 5.0), (1, 7, 10, 5.0), (1, 7, 10, 4.0), (1, 7, 11, 5.0), (2, 7, 11, 5.0)]
    kept = drop_duplicates(log(rows, ("user_id", "item_id", "timestamp", "rating"))).collect()
    assert kept.rows() == [rows[0], rows[1], *rows[3:]]


def test_without_times_nothing_is_a_duplicate():
    rows = [(1, 7), (1, 7)]
    assert drop_duplicates(log(rows, ("user_id", "item_id"))).collect().rows() == rows


@given(EVENTS)
@settings(deadline=None, max_examples=60)
def test_duplicates_as_one_would_by_hand(rows):
    in_order = ordered(log(rows)).collect().rows()
    assert drop_duplicates(ordered(log(rows))).collect().rows() == list(dict.fromkeys(in_order))


def test_k_core_goes_on_until_nothing_changes():
    """Item 9 goes (1 event), then user 3 (1 left), then item 8 (1 left), then user 2."""
    rows = [(1, 6), (1, 7), (4, 6), (4, 7), (2, 7), (2, 8), (3, 8), (3, 9)]
    kept = k_core(log(rows, ("user_id", "item_id")), min_user_events=2, min_item_events=2).collect()
    assert kept.rows() == [(1, 6), (1, 7), (4, 6), (4, 7)]


def slow_k_core(rows, users, items):
    """Every offender goes, one kind at a time, until there is none."""
    while True:
        kept = [row for row in rows if sum(other[0] == row[0] for other in rows) >= users]
        kept = [row for row in kept if sum(other[1] == row[1] for other in kept) >= items]
        if kept == rows:
            return rows
        rows = kept


@given(EVENTS, st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_k_core_is_the_fixed_point_in_order(rows, users, items):
    expected = slow_k_core(rows, users, items)
    if not expected:
        with pytest.raises(UserError, match="leave none of the"):
            k_core(log(rows), min_user_events=users, min_item_events=items)
        return
    kept = k_core(log(rows), min_user_events=users, min_item_events=items).collect()
    assert kept.rows() == expected
    assert k_core(kept.lazy(), min_user_events=users, min_item_events=items).collect().rows() == expected


def test_nothing_left():
    with pytest.raises(
        UserError, match=r"data.min_user_events: 3 and data.min_item_events: 1 leave none of the 2 events"
    ):
        k_core(log([(1, 2, 3), (2, 2, 3)]), min_user_events=3)
