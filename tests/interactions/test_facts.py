import numpy as np
import polars as pl
import pytest

from persrec.interactions.facts import facts_of

EVENTS = pl.DataFrame(
    {
        "user_id": [0, 0, 0, 0, 1, 1],
        "item_id": [1, 2, 1, 3, 3, 3],
        "timestamp": [0, 1000, 1000, 86_400_000, 5000, 6000],
    }
)

LENGTHS = np.array([4, 2])


def test_counts_by_hand():
    facts = facts_of([EVENTS], duplicates=4, filtered=5)
    assert (facts.users, facts.items, facts.events) == (2, 3, 6)
    assert (facts.duplicates_dropped, facts.filtered_dropped) == (4, 5)
    assert (facts.median_events, facts.max_events) == (3.0, 4)
    assert facts.ties == 2  # the two events of user 0 at 1 s
    assert facts.repeats == 2  # item 1 of user 0, item 3 of user 1
    assert (facts.first_time, facts.last_time) == ("1970-01-01 00:00:00", "1970-01-02 00:00:00")


def test_without_times():
    facts = facts_of([EVENTS.drop("timestamp")], duplicates=0, filtered=0)
    assert facts.ties is None
    assert ("span", "no times") in facts.rows()
    assert "ties" not in facts.as_dict()


@pytest.mark.parametrize(
    ("segment", "recent", "length", "users"), [(2, 2, None, 1), (1, 1, None, 2), (3, 2, None, 0), (2, 2, 3, 0)]
)
def test_users_with_memory(segment, recent, length, users):
    facts = facts_of([EVENTS], duplicates=0, filtered=0).with_segments(
        LENGTHS, segment=segment, recent=recent, length=length
    )
    assert facts.users_with_memory == users
    assert facts.rows()[-1] == (f"users with m >= 1 (S={segment}, R={recent})", f"{users} ({users / 2:.1%})")


def test_a_small_share_is_warned_of():
    facts = facts_of([EVENTS], duplicates=0, filtered=0).with_segments(LENGTHS, segment=40, recent=40, length=None)
    assert facts.warnings[0].startswith("only 0 of 2 users (0.0%) have m >= 1 closed segments at S=40, R=40")
    assert facts.warnings[1].startswith("33% of the events share their time")


def test_nothing_to_warn_of():
    events = EVENTS.with_columns(timestamp=pl.int_range(pl.len()))
    assert (
        facts_of([events], duplicates=0, filtered=0).with_segments(LENGTHS, segment=1, recent=1, length=None).warnings
        == []
    )
