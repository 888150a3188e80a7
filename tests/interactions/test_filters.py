import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.interactions.filters import DEFAULTS, by_count, by_value, drop_duplicates, k_core
from persrec.interactions.parts import Spool
from persrec.interactions.sequences import ordered

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60)


def log(rows, columns=("user_id", "item_id", "timestamp")):
    return pl.LazyFrame(rows, schema=list(columns), orient="row")


def parted(frame, users_of_each):
    """The log in parts of so many users, in order."""
    data, spool = frame.collect(), Spool()
    users = data["user_id"].unique().sort()
    for start in range(0, len(users), users_of_each):
        some = users[start : start + users_of_each]
        spool.append(data.filter(pl.col("user_id").is_in(some.implode())), start)
    return spool


def whole(spool):
    return pl.concat(list(spool)).rows()


PARTS = pytest.mark.parametrize("users", [1, 2, 99])


def test_a_duplicate_repeats_every_column():
    rows = [(1, 7, 10, 5.0), (1, 8, 10, 5.0), (1, 7, 10, 5.0), (1, 7, 10, 4.0), (1, 7, 11, 5.0), (2, 7, 11, 5.0)]
    kept = drop_duplicates(log(rows, ("user_id", "item_id", "timestamp", "rating"))).collect()
    assert kept.rows() == [rows[0], rows[1], *rows[3:]]


def test_without_times_nothing_is_a_duplicate():
    rows = [(1, 7), (1, 7)]
    assert drop_duplicates(log(rows, ("user_id", "item_id"))).collect().rows() == rows


@given(EVENTS)
@settings(max_examples=60)
def test_duplicates_as_one_would_by_hand(rows):
    in_order = ordered(log(rows)).collect().rows()
    assert drop_duplicates(ordered(log(rows))).collect().rows() == list(dict.fromkeys(in_order))


@PARTS
def test_k_core_goes_on_until_nothing_changes(users):
    """Item 9 goes (1 event), then user 3 (1 left), then item 8 (1 left), then user 2."""
    rows = [(1, 6), (1, 7), (2, 7), (2, 8), (3, 8), (3, 9), (4, 6), (4, 7)]
    kept = k_core(parted(log(rows, ("user_id", "item_id")), users), min_user_events=2, min_item_events=2)
    assert whole(kept) == [(1, 6), (1, 7), (4, 6), (4, 7)]


def slow_k_core(rows, users, items):
    """Every offender goes, one kind at a time, until there is none."""
    while True:
        kept = [row for row in rows if sum(other[0] == row[0] for other in rows) >= users]
        kept = [row for row in kept if sum(other[1] == row[1] for other in kept) >= items]
        if kept == rows:
            return rows
        rows = kept


@given(EVENTS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=60)
def test_k_core_is_the_fixed_point_in_order(rows, users, items, part):
    limits = {"min_user_events": users, "min_item_events": items}
    in_order = ordered(log(rows)).collect()
    expected = slow_k_core(in_order.rows(), users, items)
    if not expected:
        with pytest.raises(UserError, match="leave none of the"):
            k_core(parted(in_order.lazy(), part), **limits)
        return
    assert whole(k_core(parted(in_order.lazy(), part), **limits)) == expected
    assert whole(k_core(parted(log(expected), part), **limits)) == expected


def test_nothing_left():
    with pytest.raises(
        UserError, match=r"data.min_user_events: 3 and data.min_item_events: 1 leave none of the 2 events"
    ):
        k_core(parted(log([(1, 2, 3), (2, 2, 3)]), 1), min_user_events=3)


WHOLE = ("user_id", "item_id", "timestamp", "rating", "weight", "dwell", "event")
DAY = 86_400_000
ROWS = [
    (1, 7, 0, 5.0, 0.5, 90.0, "buy"),
    (1, 8, DAY, 4.0, 2.0, 3.0, "view"),
    (2, 8, 2 * DAY, 3.5, 0.1, 30.0, "buy"),
    (3, 9, 3 * DAY, 1.0, 0.0, 0.0, "like"),
]


@pytest.mark.parametrize(
    ("section", "left", "sentence"),
    [
        ({"events": ["buy"]}, [0, 2], "data.events: [buy] leaves 2 of 4 events; 1 users and 1 items have none."),
        ({"events": ("like", "view")}, [1, 3], "data.events: [like, view] leaves 2 of 4"),
        ({"min_rating": 3.5}, [0, 1, 2], "data.min_rating: 3.5 leaves 3 of 4 events; 1 users and 1 items have none."),
        ({"max_rating": 4}, [1, 2, 3], "data.max_rating: 4 leaves 3 of 4 events; 0 users and 1 items have none."),
        ({"min_rating": 3.5, "max_rating": 4}, [1, 2], "data.max_rating: 4 leaves 2 of 3 events"),
        ({"min_weight": 0.1}, [0, 1, 2], "data.min_weight: 0.1 leaves 3 of 4 events; 1 users and 1 items have none."),
        ({"min_dwell": 30}, [0, 2], "data.min_dwell: 30 leaves 2 of 4 events; 1 users and 1 items have none."),
        ({"since": "1970-01-02 00:00:00"}, [1, 2, 3], "data.since: 1970-01-02 00:00:00 leaves 3 of 4 events"),
        ({"until": "1970-01-02 00:00:00"}, [0], "data.until: 1970-01-02 00:00:00 leaves 1 of 4 events"),
        ({"since": "1970-01-02", "until": "1970-01-03"}, [1], "data.until: 1970-01-03 leaves 1 of 3 events"),
        ({}, [0, 1, 2, 3], None),
    ],
)
def test_by_value(section, left, sentence):
    said = []
    kept = by_value(log(ROWS, WHOLE), DEFAULTS | section, said.append).collect()
    assert kept.rows() == [ROWS[index] for index in left]
    assert said[-1].startswith(sentence) if sentence else not said


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"events": ["bye"]}, r"data.events: \[bye\] leaves none of the 4 events \(there are buy, like, view\)"),
        ({"min_rating": 6}, r"data.min_rating: 6 leaves none of the 4 events \(there are 1.0 to 5.0\); change it"),
        ({"max_rating": 0.5}, r"data.max_rating: 0.5 leaves none of the 4 events \(there are 1.0 to 5.0\); change it"),
        ({"min_weight": 3}, r"data.min_weight: 3 leaves none of the 4 events \(there are 0.0 to 2.0\); change it"),
        ({"min_dwell": 100}, r"data.min_dwell: 100 leaves none of the 4 events \(there are 0.0 to 90.0\); change it"),
        ({"since": "2024-01-01"}, r"data.since: 2024-01-01 leaves none .*there are 1970-01-01 00:00:00 to 1970-01-04"),
    ],
)
def test_values_that_leave_nothing_show_what_there_is(section, message):
    with pytest.raises(UserError, match=message):
        by_value(log(ROWS, WHOLE), DEFAULTS | section)


@pytest.mark.parametrize("column", ["weight", "dwell"])
def test_amounts_that_are_not_kept(column):
    with pytest.raises(UserError, match=rf"the log has no {column}; keep it by data.keep: \[{column}\], name"):
        by_value(log([(1, 2)], ("user_id", "item_id")), DEFAULTS | {f"min_{column}": 1})


@pytest.mark.parametrize(
    ("key", "value", "column"),
    [("max_rating", 3, "rating"), ("min_rating", 3, "rating"), ("since", "2024-01-01", "timestamp")],
)
def test_values_that_the_log_has_not(key, value, column):
    with pytest.raises(UserError, match=rf"data.{key}: the log has no {column}; name its column by data.columns"):
        by_value(log([(1, 2)], ("user_id", "item_id")), DEFAULTS | {key: value})


@PARTS
def test_users_and_items_with_too_many_events_go_before_histories_are_cut(users):
    rows = [(1, 5, 1), (1, 6, 2), (1, 5, 3), (2, 5, 1), (2, 7, 2)]
    said = []
    kept = by_count(parted(log(rows), users), DEFAULTS | {"max_user_events": 2, "max_history": 1}, said.append)
    assert whole(kept) == [(2, 7, 2)]
    assert said[0] == "data.max_user_events: 2 leaves 2 of 5 events; 1 users and 1 items have none."
    assert whole(by_count(parted(log(rows), users), DEFAULTS | {"max_item_events": 2})) == [(1, 6, 2), (2, 7, 2)]


def test_counts_that_leave_nothing():
    with pytest.raises(UserError, match=r"data.max_user_events: 1 leaves none of the 2 events; change it"):
        by_count(parted(log([(1, 2, 3), (1, 2, 4)]), 1), DEFAULTS | {"max_user_events": 1})


@given(EVENTS, st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=40)
def test_the_newest_events_of_each_user(rows, newest, part):
    in_order = ordered(log(rows)).collect().rows()
    expected = [
        row for user in sorted({row[0] for row in rows}) for row in [r for r in in_order if r[0] == user][-newest:]
    ]
    assert whole(by_count(parted(ordered(log(rows)), part), DEFAULTS | {"max_history": newest})) == expected
