"""One user's record as bytes: whole numbers as varints, then strengths, bits and rows of the memory, then a checksum.

Times and positions count backwards from the last event's, in the largest unit of time that fits all of them; rows of
a memory that agree in position, time and weight are one run. Seen items are gaps from one to the next, or a bit for
each item up to the last, whichever is shorter. Shapes: M rows, G runs, W open events, F inputs of each, J items.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from persrec.models.encodings import row_bytes
from persrec.serving import filters, varints
from persrec.serving.filters import Filter
from persrec.serving.past import NOTHING, Past, of_items

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Numbers = TypeVar("Numbers", Ints, Codes)
Keeps = Literal["none", "items", "filter", "counts"]

CHECKSUM: Final = 4  # bytes
PARTS: Final = ("memory", "open", "seen", "other")


class Layout(NamedTuple):
    """What a record holds: a function of the run and of how its store was made."""

    planes: int  # stored for each row of a memory
    width: int
    encoding: str
    timed: bool  # whether events keep their times
    keeps: Keeps  # of the events that are no longer open
    rate: float = 0.0  # filter: share of other items that are taken for seen
    inputs: int = 0  # F, what of an open event is kept beside item and time

    @property
    def row_bytes(self) -> int:
        """Of one row of a memory, all planes."""
        return self.planes * row_bytes(self.width, self.encoding)


def no_rows(layout: Layout) -> "MemoryRows":
    """The memory of a user of whom nothing is folded."""
    none = np.zeros(0, dtype=np.int64)
    return MemoryRows(np.zeros((0, layout.row_bytes), np.uint8), none, none, np.zeros(0, np.float32))


class MemoryRows(NamedTuple):
    """The rows of a memory, oldest first."""

    states: Codes  # (M, row_bytes)
    position: Ints  # (M,) never falls
    time: Ints  # (M,) never falls; zeros in a layout without times
    weight: Floats  # (M,)


@dataclass
class Record:
    """What is kept of one user."""

    rows: MemoryRows
    count: int = 0  # events that are no longer open
    items: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # (W,) of the open events
    times: Ints | None = None  # (W,) ms; None in a layout without times
    inputs: Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # (W, F) buckets, see `event_inputs`
    last: int | None = None  # time of the last event; None in a log without times
    folded: int = 0  # time of the last event that is no longer open; 0 where there is none, or events keep no times
    ties: int = 0  # open events at the time of the last one, where events keep no times
    past: Past = NOTHING  # of the events that are no longer open
    filter: Filter | None = None  # in its place, in a layout that keeps one

    @property
    def events(self) -> int:
        """All that the user has had."""
        return self.count + len(self.items)


def pack(record: Record, layout: Layout) -> bytes:
    """The record as bytes; raises ValueError for positions or times that fall."""
    seen = _seen(record, layout)
    numbers = np.concatenate([part for _, part in _numbers(record, layout, seen)])
    coded = varints.encode(_unsigned(numbers))
    strengths = record.past.strength[record.past.frequency > 1] if layout.keeps == "counts" else np.zeros(0, np.float32)
    size = varints.encode(np.array([len(coded)], np.uint64))
    body = size + coded + strengths.tobytes() + seen.bits + record.rows.states.tobytes()
    return body + zlib.crc32(body).to_bytes(CHECKSUM, "little")


def sizes(record: Record, layout: Layout) -> dict[str, int]:
    """Bytes of the record by what they are for."""
    found, seen = dict.fromkeys(PARTS, 0), _seen(record, layout)
    for part, numbers in _numbers(record, layout, seen):
        found[part] += int(varints.lengths(_unsigned(numbers)).sum())
    found["memory"] += record.rows.states.nbytes
    found["seen"] += len(seen.bits)
    if layout.keeps == "counts":
        found["seen"] += 4 * int((record.past.frequency > 1).sum())
    found["other"] += len(pack(record, layout)) - sum(found.values())
    return found


def _numbers(record: Record, layout: Layout, seen: "_Seen") -> Iterator[tuple[str, Ints]]:
    """The whole numbers of a record in their order, and the part that they belong to."""
    rows, past, end = record.rows, record.past, record.last or 0
    counts = layout.keeps == "counts"
    starts = _runs(rows)
    unit = _unit(record, layout)
    yield "other", np.array([record.count, len(record.items), len(starts), 2 * seen.items + seen.dense, unit])
    yield "other", np.array([0 if record.last is None else record.last + 1])
    if layout.timed:
        yield "other", np.array([(end - record.folded) // unit if record.count else 0])
    else:
        yield "other", np.array([record.ties])
    yield "memory", _backwards(starts, len(rows.position))
    yield "memory", _backwards(rows.position[starts], record.count - 1)
    if layout.timed:
        yield "memory", _backwards(rows.time[starts], record.folded) // unit
    yield "memory", _weights(rows.weight[starts])
    yield "open", record.items
    if layout.timed and record.times is not None:
        yield "open", _backwards(record.times, end) // unit
    yield "open", record.inputs.reshape(-1)
    yield "seen", seen.numbers
    if counts:
        yield "seen", past.frequency
        yield "seen", record.count - 1 - past.position
        if layout.timed:
            yield "seen", (end - past.time) // unit


def unpack(data: bytes, layout: Layout) -> Record:
    """What `pack` wrote; raises ValueError for anything else."""
    body, stated = data[:-CHECKSUM], data[-CHECKSUM:]
    if len(data) <= CHECKSUM or zlib.crc32(body).to_bytes(CHECKSUM, "little") != stated:
        raise ValueError("the checksum is not that of the bytes")
    length, start = varints.first(body)
    end = start + length
    taken = _Taken(varints.decode(body[start:end]).view(np.int64))
    count, opened, runs, kept, unit, last = taken(6).tolist()
    items, dense = divmod(kept, 2)
    record = Record(no_rows(layout), count=count, last=last - 1 if last else None)
    moment = last - 1 if last else 0
    (own,) = taken(1).tolist()
    if layout.timed:
        record.folded = moment - own * unit if count else 0
    else:
        record.ties = own
    lengths = taken(runs)
    position = _forwards(taken(runs), count - 1)
    time = _forwards(taken(runs) * unit, record.folded) if layout.timed else np.zeros(runs, np.int64)
    weight = _unweighted(taken(runs))
    record.items = taken(opened)
    record.times = _forwards(taken(opened) * unit, moment) if layout.timed else None
    record.inputs = taken(opened * layout.inputs).reshape(opened, layout.inputs)
    rest = _Taken(np.frombuffer(body[end:], np.uint8))
    item = taken(1 if dense else items) if layout.keeps in ("items", "counts") else NOTHING.item
    if layout.keeps == "counts":
        counts, places = taken(items), count - 1 - taken(items)
        times = moment - taken(items) * unit if layout.timed else np.zeros(items, np.int64)
        strength = np.ones(items, np.float32)
        strength[counts > 1] = rest(4 * int((counts > 1).sum())).view(np.float32)
    item = np.flatnonzero(np.unpackbits(rest(int(item[0])))) if dense else np.cumsum(item)
    record.past = Past(item, counts, places, times, strength) if layout.keeps == "counts" else of_items(item)
    if layout.keeps == "filter":
        record.filter = Filter(layout.rate, items, rest(filters.size(layout.rate, items)))
    states = rest.left().reshape(int(lengths.sum()), layout.row_bytes)
    record.rows = MemoryRows(states, *(np.repeat(each, lengths) for each in (position, time, weight)))
    return record


class _Taken(Generic[Numbers]):
    """Numbers that are taken off the front, so many at a time."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers: Numbers = numbers
        self.place = 0

    def __call__(self, count: int) -> Numbers:
        self.place += count
        if self.place > len(self.numbers):
            raise ValueError("there are fewer numbers than the record says")
        return self.numbers[self.place - count : self.place]

    def left(self) -> Numbers:
        """All that have not been taken."""
        return self(len(self.numbers) - self.place)


class _Seen(NamedTuple):
    """What excludes items: whole numbers and bits."""

    items: int = 0
    numbers: Ints = NOTHING.item  # gaps, or the bytes of `bits`
    bits: bytes = b""
    dense: bool = False  # a bit for each item


def _seen(record: Record, layout: Layout) -> _Seen:
    if record.filter is not None:
        return _Seen(record.filter.held, bits=record.filter.bits.tobytes())
    if layout.keeps not in ("items", "counts"):
        return _Seen()
    items = record.past.item
    gaps = np.diff(items, prepend=0)
    size = np.array([int(items[-1]) // 8 + 1 if len(items) else 0])
    if varints.lengths(_unsigned(gaps)).sum() <= size[0] + varints.lengths(_unsigned(size))[0]:
        return _Seen(len(items), gaps)
    bits = np.zeros(8 * size[0], dtype=np.uint8)
    bits[items] = 1
    return _Seen(len(items), size, np.packbits(bits).tobytes(), dense=True)


def _runs(rows: MemoryRows) -> Ints:
    """Where a row differs from the one before in position, time or weight."""
    change = np.ones(len(rows.position), dtype=bool)
    for each in rows[1:]:
        change[1:] &= each[1:] == each[:-1]
    change[1:] = ~change[1:]
    return np.flatnonzero(change)


def _unit(record: Record, layout: Layout) -> int:
    """The largest number of ms of which all distances of times from the last one are multiples; at least 1."""
    if not layout.timed or record.last is None:
        return 1
    times = [record.rows.time, record.past.time if layout.keeps == "counts" else NOTHING.time]
    times += [] if record.times is None else [record.times]
    times += [np.array([record.folded])] if record.count else []
    return int(np.gcd.reduce(record.last - np.concatenate(times))) or 1


def _backwards(numbers: Ints, end: int) -> Ints:
    """Distances from each number to the next, the last one's to `end`."""
    found = np.empty_like(numbers)  # a tenth of the time that np.diff takes for so few
    if len(numbers):
        np.subtract(numbers[1:], numbers[:-1], out=found[:-1])
        found[-1] = end - numbers[-1]
    return found


def _forwards(distances: Ints, end: int) -> Ints:
    return end - np.cumsum(distances[::-1])[::-1]


def _unsigned(numbers: Ints) -> npt.NDArray[np.uint64]:
    if len(numbers) and numbers.min() < 0:
        raise ValueError("positions and times of a record must not fall")
    return numbers.astype(np.uint64)


def _weights(weights: Floats) -> Ints:
    """float32 as whole numbers: the bits that differ from the last weight, the high ones lowest, so that few are set
    in the upper bytes."""
    bits = weights.astype(np.float32).view(np.uint32)
    return (bits ^ np.append(np.uint32(0), bits[:-1])).byteswap().astype(np.int64)


def _unweighted(numbers: Ints) -> Floats:
    return np.bitwise_xor.accumulate(numbers.astype(np.uint32).byteswap()).view(np.float32)
