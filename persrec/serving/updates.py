"""New events of a user put into the record: in order, late ones where they belong, duplicates dropped."""

from bisect import bisect_right
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from persrec.serving.filters import none
from persrec.serving.histories import Events
from persrec.serving.packing import Layout, Record, no_rows

Ints = npt.NDArray[np.int64]


@dataclass
class Update:
    """What became of the events of an update."""

    applied: int = 0  # events that entered, the late ones that were inserted among them
    folded: int = 0  # segments that were closed
    late_inserted: int = 0  # older than the last event, younger than the last folded one
    late_skipped: int = 0  # older than what is folded, or in a run without a time signal than the last event
    duplicates: int = 0  # of an open event: same user, item and time
    unknown_items: int = 0  # events of items that training never saw
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
    """Put events into the open block; with `once` duplicates are dropped.

    Late events may enter before the first open one. Where the time signal is `next`, the last folded event was then
    folded as if asked at the time of the event after it; `rebuild` makes that exact.
    """
    if events.times is None:
        record.items = np.append(record.items, events.items)
        record.inputs = np.concatenate([record.inputs, events.inputs])
        return Update(applied=len(events.items))
    if record.times is None:
        return _after_the_last(record, events, once=once)
    found = Update()
    own, when, carried = record.items.tolist(), record.times.tolist(), list(record.inputs)
    there = set(zip(own, when, strict=True))
    for item, time, inputs in zip(events.items.tolist(), events.times.tolist(), events.inputs, strict=True):
        if once and (item, time) in there:
            found.duplicates += 1
            continue
        late = record.last is not None and time < record.last
        if late and record.count and time <= record.folded:
            found.late_skipped += 1
            continue
        place = bisect_right(when, time) if late else len(when)
        own.insert(place, item)
        when.insert(place, time)
        carried.insert(place, inputs)
        there.add((item, time))
        record.last = time if record.last is None else max(time, record.last)
        found.applied += 1
        found.late_inserted += late
    record.items, record.times = np.array(own, dtype=np.int64), np.array(when, dtype=np.int64)
    record.inputs = np.array(carried, dtype=np.int64).reshape(len(own), events.inputs.shape[1])
    return found


def _after_the_last(record: Record, events: Events, *, once: bool) -> Update:
    """Where open events keep no times, only those of the last moment are known apart."""
    assert events.times is not None
    found, taken = Update(), np.zeros(len(events.items), dtype=bool)
    own = record.items.tolist()
    for index, (item, time) in enumerate(zip(events.items.tolist(), events.times.tolist(), strict=True)):
        if record.last is not None and time < record.last:
            found.late_skipped += 1
        elif once and time == record.last and item in own[len(own) - record.ties :]:
            found.duplicates += 1
        else:
            record.ties = record.ties + 1 if time == record.last else 1
            record.last = time
            own.append(item)
            taken[index] = True
            found.applied += 1
    record.items = np.array(own, dtype=np.int64)
    record.inputs = np.concatenate([record.inputs, events.inputs[taken]])
    return found
