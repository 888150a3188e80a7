import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.interactions.vocabulary import compact, encode, item_table, vocabulary


def test_numbers_follow_the_sorted_ids():
    ids = vocabulary(pl.LazyFrame({"item_id": ["b", "ä", "a", "b"]}), "item_id", first=1).collect()
    assert ids.rows() == [("a", 1), ("b", 2), ("ä", 3)]
    assert ids["index"].dtype == pl.Int32


@given(st.lists(st.one_of(st.text(max_size=3)), min_size=1, max_size=50))
@settings(deadline=None, max_examples=40)
def test_encoding_is_undone_by_the_vocabulary(ids):
    frame = pl.LazyFrame(
        {"user_id": range(len(ids)), "item_id": ids}, schema={"user_id": pl.Int64, "item_id": pl.String}
    )
    items = vocabulary(frame, "item_id", first=1).collect()
    numbers = encode(frame, {"item_id": items.lazy()}).collect()
    assert numbers["user_id"].to_list() == list(range(len(ids)))
    assert [items["item_id"][number - 1] for number in numbers["item_id"]] == ids


def test_compact_closes_gaps():
    items = pl.LazyFrame({"item_id": ["a", "b", "c"], "index": [1, 2, 3]}, schema_overrides={"index": pl.Int32})
    frame = pl.LazyFrame({"item_id": [3, 1, 3]}, schema={"item_id": pl.Int32})
    events, smaller = compact(frame, items, "item_id", first=1)
    assert events.collect()["item_id"].to_list() == [2, 1, 2]
    assert smaller.collect().rows() == [("a", 1), ("c", 2)]


def test_item_table():
    items = pl.LazyFrame({"item_id": ["a", "b"], "index": [1, 2]}, schema_overrides={"index": pl.Int32})
    events = pl.LazyFrame({"item_id": [1, 2, 2, 1, 1]}, schema={"item_id": pl.Int32})
    assert item_table(items, events).collect().rows() == [("a", 3), ("b", 2)]
