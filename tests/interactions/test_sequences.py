import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.interactions.sequences import grouped, ordered

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=80)


def test_time_then_file_order():
    frame = pl.LazyFrame({"user_id": [2, 1, 1, 1], "item_id": [5, 7, 9, 8], "timestamp": [30, 20, 10, 20]})
    assert ordered(frame).collect()["item_id"].to_list() == [9, 7, 8, 5]


def test_without_times_file_order():
    frame = pl.LazyFrame({"user_id": [2, 1, 2], "item_id": [9, 7, 8]})
    assert ordered(frame).collect()["item_id"].to_list() == [7, 9, 8]


@given(EVENTS)
@settings(max_examples=60)
def test_the_order_is_stable(rows):
    """The place in the file stands as the item, so Python's stable sort says what is right."""
    frame = pl.LazyFrame(
        {"user_id": [user for user, _ in rows], "timestamp": [time for _, time in rows], "item_id": range(len(rows))}
    )
    expected = [place for place, _ in sorted(enumerate(rows), key=lambda entry: entry[1])]
    assert ordered(frame).collect()["item_id"].to_list() == expected


def test_one_row_per_user():
    frame = pl.LazyFrame(
        {"user_id": [1, 1, 2], "item_id": [9, 7, 5], "timestamp": [1, 2, 3], "rating": [1.0, 2.0, 3.0]}
    )
    assert grouped(frame).collect().rows() == [(1, [9, 7], [1, 2], [1.0, 2.0]), (2, [5], [3], [3.0])]


def test_columns_the_log_lacks_are_absent():
    assert grouped(pl.LazyFrame({"user_id": [1], "item_id": [9]})).collect().columns == ["user_id", "items"]
