"""New events of a user put into the record: in order, late ones where they belong, duplicates dropped."""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from persrec.serving.filters import none
from persrec.serving.histories import Events
from persrec.serving.packing import Layout, Record, no_rows

Ints = npt.NDArray[np.int64]
Alike = tuple[int, tuple[int, ...]]  # an item and what the event carries


@dataclass
class Update:
    """What became of the events of an update."""

    applied: int = 0  # events that entered, the late ones that were inserted among them
    folded: int = 0  # segments that were closed
    late_inserted: int = 0  # older than the last event, younger than the last folded one
    late_skipped: int = 0  # older than what is folded, or in a run without a time signal than the last event
    duplicates: int = 0  # of an open event: same user, item, time and inputs
    filtered: int = 0  # that the filters of the recipe's data leave out
    unknown_items: int = 0  # events of items that the run does not know
    new_users: int = 0
    already: int = 0  # rows of the file that an earlier update had committed

    def __add__(self, other: "Update") -> "Update":
        return Update(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def fresh(events: Events, layout: Layout) -> Record:
    """The record of a user with these events, all of them open."""
    items, times, inputs = events
    excluded = none(layout.rate) if layout.keeps == "filter" else None
    record = Record(no_rows(layout), items=items, inputs=inputs, filter=excluded)
    if times is not None and len(times):
        record.last = int(times[-1])
        if layout.timed:
            record.times = times.astype(np.int64)
        else:
            record.ties = int((times == times[-1]).sum())
    elif layout.timed:
        record.times = np.zeros(0, dtype=np.int64)
    return record


def take(record: Record, events: Events, *, once: bool) -> Update:
    """Put events into the open block; with `once` those that are there already are dropped.

    These are alike in all that a record knows of events: of two ratings of one bucket at one moment the second is one
    where it comes later. What comes together is not compared: it is without duplicates. Late events may enter before
    the first open one. Where the time signal is `next`, the last folded event was then folded as if asked at the time
    of the event after it; `rebuild` makes that exact.
    """
    items, inputs = np.append(record.items, events.items), np.concatenate([record.inputs, events.inputs])
    if events.times is None:
        record.items, record.inputs = items, inputs
        return Update(applied=len(events.items))
    alike = list(zip(items.tolist(), map(tuple, inputs.tolist()), strict=True))
    enter = _after_the_last if record.times is None else _in_order
    order, found = enter(record, alike, events.times.tolist(), once=once)
    record.items, record.inputs = items[order], inputs[order]
    return found


def _in_order(record: Record, alike: list[Alike], times: list[int], *, once: bool) -> tuple[list[int], Update]:
    """Which events, the open ones and then the new ones, stand one after the other now; and what became of the new."""
    assert record.times is not None
    found, when = Update(), record.times.tolist()
    order, there = list(range(len(when))), Counter(zip(alike, when, strict=False))  # those that are open
    for index, time in enumerate(times, start=len(when)):
        if once and there[alike[index], time]:
            there[alike[index], time] -= 1
            found.duplicates += 1
            continue
        late = record.last is not None and time < record.last
        if late and record.count and time <= record.folded:
            found.late_skipped += 1
            continue
        place = bisect_right(when, time) if late else len(when)
        when.insert(place, time)
        order.insert(place, index)
        record.last = time if record.last is None else max(time, record.last)
        found.applied += 1
        found.late_inserted += late
    record.times = np.array(when, dtype=np.int64)
    return order, found


def _after_the_last(record: Record, alike: list[Alike], times: list[int], *, once: bool) -> tuple[list[int], Update]:
    """As `_in_order`, where open events keep no times, so that only those of the last moment are known apart."""
    found, order = Update(), list(range(len(record.items)))
    last, there = record.last, Counter(alike[len(order) - record.ties : len(order)])
    for index, time in enumerate(times, start=len(record.items)):
        if record.last is not None and time < record.last:
            found.late_skipped += 1
        elif once and time == last and there[alike[index]]:
            there[alike[index]] -= 1
            found.duplicates += 1
        else:
            record.ties = record.ties + 1 if time == record.last else 1
            record.last = time
            order.append(index)
            found.applied += 1
    return order, found
