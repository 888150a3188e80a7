"""New events in an open block: order, late ones, duplicates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec.serving.histories import Events
from persrec.serving.packing import Layout, Record
from persrec.serving.updates import Update, fresh, take

TIMED = Layout(1, 4, "int8", True, "none", inputs=1)
UNTIMED = TIMED._replace(timed=False)


def events_of(items: list[int], times: list[int] | None, inputs: list[int] | None = None) -> Events:
    """Events with one input each, which is the item if nothing is said."""
    own, carried = np.array(items, dtype=np.int64), np.array(items if inputs is None else inputs, dtype=np.int64)
    return Events(own, None if times is None else np.array(times, dtype=np.int64), carried[:, None])


def open_of(*events: tuple[int, int], layout: Layout = TIMED, folded: int = 0) -> Record:
    """An open block of (item, time), after 6 folded events of which the last was at `folded`, if that is set."""
    items, times = (list(column) for column in zip(*events, strict=True))
    record = fresh(events_of(items, times), layout)
    if folded:
        record.count, record.folded = 6, folded
    return record


def items_of(record: Record) -> list[int]:
    """Items in their order, each with its own input."""
    items: list[int] = record.items.tolist()
    assert record.inputs.tolist() == [[item] for item in items]
    return items


def shown(record: Record) -> list[tuple[int, int]]:
    assert record.times is not None
    return list(zip(items_of(record), record.times.tolist(), strict=True))


def test_late_events_are_inserted_where_they_belong() -> None:
    record = open_of((1, 10), (2, 20), (3, 30))
    found = take(record, events_of([7, 8, 9], [5, 20, 40]), once=True)
    assert shown(record) == [(7, 5), (1, 10), (2, 20), (8, 20), (3, 30), (9, 40)]
    assert found == Update(applied=3, late_inserted=2)
    assert record.last == 40


def test_events_before_the_last_folded_one_are_skipped() -> None:
    record = open_of((1, 10), (2, 20), folded=8)
    found = take(record, events_of([7, 8, 9], [7, 8, 9]), once=True)
    assert shown(record) == [(9, 9), (1, 10), (2, 20)]
    assert found == Update(applied=1, late_inserted=1, late_skipped=2)


def test_an_event_at_the_time_of_all_others_is_not_late() -> None:
    """A basket may be larger than what stays open."""
    record = open_of((1, 10), (2, 10), folded=10)
    assert take(record, events_of([3], [10]), once=True) == Update(applied=1)
    assert shown(record) == [(1, 10), (2, 10), (3, 10)]


@pytest.mark.parametrize(("once", "left"), [(True, 2), (False, 4)])
def test_duplicates_of_open_events_are_dropped_if_the_recipe_says_so(once: bool, left: int) -> None:
    record = open_of((1, 10), (2, 20))
    found = take(record, events_of([1, 2], [10, 20]), once=once)
    assert len(record.items) == left
    assert (found.duplicates, found.applied) == ((2, 0) if once else (0, 2))


@pytest.mark.parametrize("layout", [TIMED, UNTIMED])
def test_events_that_differ_in_what_they_carry_are_no_duplicates(layout: Layout) -> None:
    """A view and a purchase of one item at one moment."""
    record = fresh(events_of([5, 5], [10, 20], [1, 1]), layout)
    found = take(record, events_of([5, 5, 5], [20, 20, 20], [1, 2, 2]), once=True)
    assert record.items.tolist() == [5, 5, 5, 5]
    assert record.inputs.tolist() == [[1], [1], [2], [2]]  # both came together, so that they differ in something else
    assert found == Update(applied=2, duplicates=1)
    assert take(record, events_of([5, 5, 5], [20, 20, 20], [1, 2, 2]), once=True) == Update(duplicates=3)


def test_without_times_what_is_older_than_the_last_event_is_skipped() -> None:
    record = open_of((1, 10), (2, 20), (3, 20), layout=UNTIMED)
    assert record.times is None
    found = take(record, events_of([9, 1, 2, 3, 1, 4, 5, 1], [15, 10, 20, 20, 20, 30, 30, 31]), once=True)
    assert items_of(record) == [1, 2, 3, 1, 4, 5, 1]
    assert found == Update(applied=4, late_skipped=2, duplicates=2)
    assert (record.last, record.ties) == (31, 1)


def test_a_log_without_times_only_appends() -> None:
    record = fresh(events_of([1, 2], None), UNTIMED)
    assert take(record, events_of([2, 1], None), once=True) == Update(applied=2)
    assert items_of(record) == [1, 2, 2, 1]
    assert record.last is None


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), max_size=30), st.integers(0, 30))
def test_in_whatever_parts_events_come_the_block_is_in_order(events: list[tuple[int, int]], cut: int) -> None:
    record = fresh(events_of([], []), TIMED)
    for part in (events[:cut], events[cut:]):
        ordered = sorted(dict.fromkeys(part), key=lambda event: event[1])
        take(record, events_of([item for item, _ in ordered], [time for _, time in ordered]), once=True)
    assert shown(record) == sorted(dict.fromkeys(events), key=lambda event: event[1])
    assert record.last == max((time for _, time in events), default=None)


def test_counts_add_up() -> None:
    assert Update(applied=1, folded=2) + Update(applied=3, already=4) == Update(applied=4, folded=2, already=4)
