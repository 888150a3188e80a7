from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.interactions.split import split
from persrec.recipe.sections import Data, Split

HOUR = 3_600_000


def log(times: dict[int, list[float]]) -> pl.LazyFrame:
    """Users with events at these hours."""
    rows = [(user, 1, int(hour * HOUR)) for user, hours in times.items() for hour in hours]
    schema = {"user_id": pl.Int32, "item_id": pl.Int32, "timestamp": pl.Int64}
    return pl.LazyFrame(rows, schema=schema, orient="row")


def counted(*counts: int) -> pl.LazyFrame:
    return log({user: list(range(count)) for user, count in enumerate(counts)})


def parts(events: pl.LazyFrame, **settings: Any) -> tuple[list[int], list[Any], list[Any]]:
    found = split(events, Split(**settings).model_dump(exclude_none=True))
    bounds, validation, test = (part.collect() for part in found)
    assert all(dtype == pl.Int64 for frame in (bounds, validation, test) for dtype in frame.dtypes)
    return bounds["train_end"].to_list(), validation.rows(), test.rows()


def test_leave_one_out():
    bounds, validation, test = parts(counted(1, 2, 3, 9))
    assert bounds == [1, 2, 1, 7]
    assert validation == [(2, 1, 1), (3, 7, 1)]
    assert test == [(2, 2, 1), (3, 8, 1)]


def test_leave_one_out_needs_no_times():
    assert parts(counted(3).drop("timestamp")) == ([1], [(0, 1, 1)], [(0, 2, 1)])


def test_last_n_asks_for_each_by_itself():
    bounds, validation, test = parts(counted(4, 7), kind="last", n=2)
    assert bounds == [4, 3]
    assert validation == [(1, 3, 1), (1, 4, 1)]
    assert test == [(1, 5, 1), (1, 6, 1)]


def test_global_time_cuts_everybody_at_the_same_moments():
    events = log({0: [0, 1, 2, 10, 11, 12, 20, 21], 1: [11, 22, 23], 2: [0]})
    bounds, validation, test = parts(
        events, kind="global-time", validation="1970-01-01 10:00", test="1970-01-01 20:00", n=2
    )
    assert bounds == [3, 0, 1]
    assert validation == [(0, 3, 1), (0, 4, 1)]  # the third of the part is one too many; user 1 was unknown at 11
    assert test == [(0, 6, 1), (0, 7, 1), (1, 1, 1), (1, 2, 1)]


def test_global_time_by_shares():
    bounds, validation, test = parts(counted(10), kind="global-time", validation=0.2, test=0.3, n=10)
    assert bounds == [5]
    assert [end for _, end, _ in validation] == [5, 6]
    assert [end for _, end, _ in test] == [7, 8, 9]


def test_global_time_without_a_number_asks_for_all():
    bounds, validation, test = parts(counted(10), kind="global-time", validation=0.2, test=0.3)
    assert bounds == parts(counted(10), kind="global-time", validation=0.2, test=0.3, n=10)[0]
    assert len(validation) + len(test) == 5
    assert Split(kind="global-time", n=None).name == "global-time-0.1-0.1"


def test_global_time_before_a_date_by_share():
    """8 of 10 events lie before the test, and a quarter of them are two, not the last two of all."""
    bounds, validation, test = parts(counted(10), kind="global-time", validation=0.25, test="1970-01-01 08:00", n=10)
    assert bounds == [6]
    assert [end for _, end, _ in validation] == [6, 7]
    assert [end for _, end, _ in test] == [8, 9]
    default = Split(kind="global-time", test="1970-01-01 08:00").model_dump(exclude_none=True)
    assert split(counted(10), default).validation.collect().height == 1


def test_dates_with_an_offset_are_moments():
    """20:00 two hours east of Greenwich is 18:00 there."""
    offset, utc = (
        Split(kind="global-time", validation=f"1970-01-01T{hours}", test="1970-01-02")
        for hours in ("20:00+02:00", "18:00")
    )
    assert offset == utc
    assert Data(since="2024-03-01T00:00+02:00").since == "2024-02-29 22:00:00"


def test_after_break_asks_for_the_first_event_after_a_gap():
    hours = [0, 1, 20, 21, 40, 41, 60, 61, 80, 80.5]
    bounds, validation, test = parts(log({0: hours}), kind="after-break", gap_hours=12, validation=0.2, test=0.4)
    assert bounds == [4]
    assert validation == [(0, 4, 1)]
    assert test == [(0, 6, 1), (0, 8, 1)]


def test_a_gap_just_below_is_no_break():
    assert parts(log({0: [0, 11.99, 24]}), kind="after-break", gap_hours=12.0, validation=0.3, test=0.5)[2] == [
        (0, 2, 1)
    ]


def test_next_basket_asks_for_all_up_to_the_next_break():
    hours = [0, 1, 20, 21, 40, 41, 60, 61, 62, 80]
    bounds, validation, test = parts(
        log({0: hours, 1: [0]}), kind="next-basket", gap_hours=12, validation=0.2, test=0.4
    )
    assert bounds == [4, 0]
    assert validation == [(0, 4, 2)]
    assert test == [(0, 6, 3), (0, 9, 1)]


def test_times_are_needed():
    with pytest.raises(UserError, match=r"split: got after-break, which asks for times.*leave-one-out"):
        split(counted(5).drop("timestamp"), Split(kind="after-break").model_dump(exclude_none=True))


def test_dates_the_wrong_way_round():
    settings = Split(kind="global-time", validation="1970-01-03", test="1970-01-02").model_dump(exclude_none=True)
    with pytest.raises(UserError, match="does not begin before the test"):
        split(counted(5), settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "last", "gap_hours": 3}, "got gap_hours with kind last, expected n"),
        ({"n": 3}, "got n with kind leave-one-out, expected no further key"),
        ({"kind": "after-break", "test": "2024-01-01"}, "got a date with kind after-break"),
        ({"kind": "next-basket", "test": 0.7, "validation": 0.3}, "expected less than 1 together"),
        ({"kind": "last", "n": None}, "got null for n with kind last, expected a value"),
        ({"kind": "after-break", "gap_hours": None, "test": None}, "got null for gap_hours, test with kind"),
        ({"kind": "global-time", "test": 2}, "got 2, expected a share between 0 and 1, or a date"),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Split(**values)


@pytest.mark.parametrize("kind", ["leave-one-out", "last", "global-time", "after-break", "next-basket"])
def test_the_name_tells_splits_apart(kind: str):
    assert Split(kind=kind).name.startswith(kind)
    assert len({Split(kind=kind).name for kind in ("last", "leave-one-out", "next-basket")}) == 3
    assert Split(kind="last", n=3).name == "last-3"


@given(st.integers(0, 10_000), st.sampled_from(["leave-one-out", "last", "global-time", "after-break", "next-basket"]))
def test_parts_follow_each_other(seed: int, kind: str):
    """No validation target is trained on, no test target is a validation query's."""
    random = np.random.default_rng(seed)
    hours = {user: sorted(random.uniform(0, 300, random.integers(1, 40)).tolist()) for user in range(5)}
    settings = Split(kind=kind, **({"n": 3} if kind in ("last", "global-time") else {}))
    bounds, validation, test = parts(log(hours), **settings.model_dump(exclude_none=True))
    firsts = {user: min([end for owner, end, _ in test if owner == user], default=10**6) for user in hours}
    for user, end, size in [*validation, *test]:
        assert max(1, bounds[user]) <= end
        assert end + size <= len(hours[user])
    for user, end, _ in validation:
        assert end < firsts[user]
