"""Random records of users, for tests."""

import numpy as np

from persrec.serving.filters import none
from persrec.serving.packing import Layout, MemoryRows, Record
from persrec.serving.past import NOTHING, of_items

LAYOUTS = [
    Layout(planes, 6, encoding, timed, keeps, 0.05 if keeps == "filter" else 0.0, inputs)
    for planes, encoding, inputs in ((1, "float32", 0), (2, "float16", 1), (1, "int8", 3), (3, "int4", 0))
    for timed in (True, False)
    for keeps in ("none", "items", "filter", "counts")
]


def record_of(layout: Layout, seed: int) -> Record:
    """A record as a model might leave it, some of its parts empty."""
    random = np.random.default_rng(seed)
    folded, opened, rows = (int(random.integers(0, most)) for most in (50, 30, 9))
    unit = int(random.choice([1, 1000, 86_400_000]))
    times = np.sort(random.integers(0, 10**6, folded + opened)) * unit
    items = random.integers(1, 500, folded + opened)
    record = Record(_rows(layout, random, rows if folded else 0, times[:folded]), count=folded)
    record.items, record.last = items[folded:], int(times[-1]) if len(times) else None
    if layout.timed:
        record.times, record.folded = times[folded:], int(times[folded - 1]) if folded else 0
    else:
        record.ties = min(opened, 2)
    record.inputs = random.integers(0, 35, (opened, layout.inputs))
    record.past = NOTHING
    if layout.keeps == "items":
        record.past = of_items(np.unique(items[:folded]))
    elif layout.keeps == "counts":
        record.past = NOTHING.after(items[:folded], 0, times[:folded] if layout.timed else None)
    elif layout.keeps == "filter":
        record.filter = none(layout.rate).after(items[:folded])
    return record


def _rows(layout: Layout, random: np.random.Generator, rows: int, times: np.ndarray) -> MemoryRows:
    states = random.integers(0, 256, (rows, layout.row_bytes)).astype(np.uint8)
    place = np.sort(random.integers(0, max(len(times), 1), rows))
    weight = random.choice(np.array([1.0, 10.0, 2.5, 0.1], np.float32), rows)
    return MemoryRows(states, place, times[place] if layout.timed and rows else np.zeros(rows, np.int64), weight)


def same(one: Record, other: Record) -> bool:
    """Whether two records hold the same numbers."""
    plain = all(getattr(one, name) == getattr(other, name) for name in ("count", "last", "folded", "ties"))
    arrays = [
        *zip(one.rows, other.rows, strict=True),
        *zip(one.past, other.past, strict=True),
        (one.items, other.items),
        (one.inputs, other.inputs),
    ]
    if one.times is None or other.times is None:
        plain &= one.times is other.times
    else:
        arrays.append((one.times, other.times))
    if one.filter is not None and other.filter is not None:
        plain &= one.filter[:2] == other.filter[:2]
        arrays.append((one.filter.bits, other.filter.bits))
    plain &= (one.filter is None) == (other.filter is None)
    return plain and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)
