"""Whole numbers as bytes, few for small ones: seven bits a byte, the eighth says whether more follow (LEB128)."""

from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

LIMITS: Final = np.array([1 << bits for bits in range(7, 64, 7)], dtype=np.uint64)  # numbers below have k bytes
SEVEN: Final = np.uint64(127)


def lengths(numbers: Words) -> Ints:
    """Bytes of each number."""
    return np.searchsorted(LIMITS, numbers, side="right") + 1


def encode(numbers: Words) -> bytes:
    """The numbers one after the other: 1, 300 -> 01 AC 02."""
    sizes = lengths(numbers)
    within = _within(sizes)
    parts = (np.repeat(numbers, sizes) >> (np.uint64(7) * within.astype(np.uint64))) & SEVEN
    more = within + 1 < np.repeat(sizes, sizes)
    return (parts.astype(np.uint8) | more.astype(np.uint8) << 7).tobytes()


def decode(data: bytes) -> Words:
    """The numbers that `encode` wrote; raises ValueError where the last one is cut off."""
    codes = np.frombuffer(data, dtype=np.uint8)
    if not len(codes):
        return np.zeros(0, dtype=np.uint64)
    ends = np.flatnonzero(codes < 128)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("the last number is cut off")
    starts = np.append(0, ends[:-1] + 1)
    found = (codes[starts] & 127).astype(np.uint64)
    longer = np.flatnonzero(starts < ends)
    place = 0
    while len(longer):  # fewer and fewer: most numbers have one byte
        place += 1
        part = (codes[starts[longer] + place] & 127).astype(np.uint64)
        found[longer] |= part << np.uint64(7 * place)
        longer = longer[starts[longer] + place < ends[longer]]
    return found


def first(data: bytes) -> tuple[int, int]:
    """The first of the numbers, and its bytes; raises ValueError where it is cut off."""
    number = 0
    for place, code in enumerate(data):
        number |= (code & 127) << 7 * place
        if code < 128:
            return number, place + 1
    raise ValueError("the first number is cut off")


def _within(sizes: Ints) -> Ints:
    """0, 1, ... for each number's bytes."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
