"""What an event carries beside its item, as numbers that a model reads: rating, weight, dwell time, type. NUMPY ONLY.

Every input is a bucket: 0 where it is not known, ratings in halves from 0 to 10, dwell times by doublings of a unit,
weights by doublings from 2**-16 to 2**16 with a bucket for 0 ([0.5, 1), [1, 2) and [2, 4) are three of them), types in
the order in which the recipe's `data.events` lists them.

Shapes: E events of a log, B users, T columns, F inputs.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Input = Literal["rating", "weight", "dwell", "event"]
FIELDS: Final[dict[str, str]] = {  # of prepared data
    "rating": "ratings",
    "weight": "weights",
    "dwell": "dwells",
    "event": "events",
}
HIGHEST = 10  # rating that has a bucket of its own
RATINGS, WEIGHTS, DWELLS = 2 * HIGHEST + 2, 34, 34  # buckets, with the one for what is not known
LEAST, MOST = -16, 15  # doublings of a weight of 1

Ints = npt.NDArray[np.int64]


def size(name: str, types: int) -> int:
    """Buckets of an input; `types` are the types of events that count."""
    return {"rating": RATINGS, "weight": WEIGHTS, "dwell": DWELLS, "event": types + 1}[name]


def bucket(name: str, values: np.ndarray) -> Ints:
    """The bucket of each value; NaN is not known."""
    if name == "event":
        return values.astype(np.int64)
    known = np.isfinite(values)
    plain = np.where(known, values, 0).astype(np.float64)
    if name == "rating":
        found = np.clip(np.round(2 * plain), 0, RATINGS - 2)
    elif name == "weight":
        doublings = np.clip(np.frexp(plain)[1] - 1, LEAST, MOST)
        found = np.where(plain > 0, doublings - LEAST + 1, 0)
    else:
        found = np.minimum(np.floor(np.log2(1 + np.maximum(plain, 0))), DWELLS - 2)
    return np.where(known, found + 1, 0).astype(np.int64)


def inputs_of(data: Any, row: Ints, valid: npt.NDArray[np.bool_]) -> Ints | None:
    """The inputs (B, T, F) of events `row` (B, T) of a log, or None where its `inputs` name none."""
    return np.where(valid[..., None], buckets_of(data, row), 0) if getattr(data, "inputs", ()) else None


def buckets_of(data: Any, row: Ints) -> Ints:
    """The inputs (..., F) of events `row` (...) of a log: as many as its `inputs` name."""
    found = np.zeros((*row.shape, len(data.inputs)), dtype=np.int64)
    for place, name in enumerate(data.inputs):
        found[..., place] = bucket(name, getattr(data, FIELDS[name])[row])
    return found


def target_weights(
    data: Any, weight_by: str | dict[str, float], types: Sequence[str], row: Ints
) -> npt.NDArray[np.float32]:
    """What events `row` of a log count as targets: their rating or weight, log(1 + dwell time), or by their type."""
    if isinstance(weight_by, str):
        values = getattr(data, FIELDS[weight_by])[row]
        return np.log1p(values).astype(np.float32) if weight_by == "dwell" else np.asarray(values, dtype=np.float32)
    by_code = np.array([1.0, *(weight_by.get(kind, 1.0) for kind in types)], dtype=np.float32)
    return by_code[data.events[row]]
