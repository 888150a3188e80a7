"""Seen items as bits instead of ids, at a stated rate of items that are taken for seen.

As it must grow, a filter at 1% has about two bytes an item, at 10% one and a half. Sorted ids have one as long as a
user has seen one item in 128, and two as long as it is one in 16,384: a filter is for catalogues larger than that.

Shapes: J items, B users, C candidates of a user.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]

FIRST: Final = 32  # items of the first part; each part holds twice as many as the one before
SPARE: Final = 8  # candidates of a user beyond those that are surely needed, as some are hidden by mistake


class Part(NamedTuple):
    """One Bloom filter among those of a user."""

    first: int  # byte at which it begins
    bits: int
    hashes: int
    items: int  # that are in it
    capacity: int


class Filter(NamedTuple):
    """A set that grows: Bloom filters of which each is twice as large and half as often wrong as the one before.

    All together call at most a share `rate` of other items seen. (Almeida et al. 2007, Scalable Bloom Filters.)
    """

    rate: float
    held: int  # items that are in it
    bits: Bits  # of all parts, one after the other

    def after(self, items: Ints) -> "Filter":
        """With further items."""
        grown = self
        for start in range(0, len(items), FIRST):  # few at a time, so that a repeat is found in what went in before
            new = np.unique(items[start : start + FIRST])
            grown = grown._with(new[~grown.contains(new)])
        return grown

    def _with(self, items: Ints) -> "Filter":
        """With items that are not in it."""
        grown = self
        while len(items):
            *_, last = list(_parts(grown.rate, grown.held + 1))
            now = items[: last.capacity - last.items + 1]
            bits = np.zeros(size(grown.rate, grown.held + 1), np.uint8)
            bits[: len(grown.bits)] = grown.bits
            place = _places(now, last).ravel()
            np.bitwise_or.at(bits, place >> 3, (1 << (place & 7)).astype(np.uint8))
            grown, items = Filter(grown.rate, grown.held + len(now), bits), items[len(now) :]
        return grown

    def contains(self, items: Ints) -> npt.NDArray[np.bool_]:
        """Whether each item (J,) is in it, or is taken for one that is."""
        found = np.zeros(len(items), dtype=bool)
        for part in _parts(self.rate, self.held):
            place = _places(items, part)  # (J, hashes)
            found |= ((self.bits[place >> 3] >> (place & 7)) & 1).all(axis=1)
        return found


def none(rate: float) -> Filter:
    """The filter of nothing."""
    return Filter(rate, 0, np.zeros(0, np.uint8))


def size(rate: float, count: int) -> int:
    """Bytes of a filter of so many items."""
    return sum(part.bits // 8 for part in _parts(rate, count))


def _parts(rate: float, count: int) -> Iterator[Part]:
    """The parts of a filter of so many items; a part begins where the one before is full."""
    first, capacity, hashes = 0, FIRST, math.ceil(1 - math.log2(rate))  # 2 ** -hashes is at most half the rate
    while count > 0:
        bits = 8 * math.ceil(capacity * hashes / math.log(2) / 8)
        yield Part(first, bits, hashes, min(count, capacity), capacity)
        first, count, capacity, hashes = first + bits // 8, count - capacity, 2 * capacity, hashes + 1


def _mistaken(k: int, rate: float) -> int:
    """Candidates, among those that are needed for k others, that may be taken for seen."""
    return SPARE + math.ceil(2 * (k + SPARE) * rate / (1 - rate))


def _places(items: Ints, part: Part) -> Ints:
    """The bits (J, hashes) that stand for items, counted over all parts."""
    which = np.arange(part.hashes, dtype=np.uint64)
    place = _mixed(items.astype(np.uint64)[:, None] * np.uint64(64) + which) % np.uint64(part.bits)
    return 8 * part.first + place.astype(np.int64)


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers whose every bit depends on every bit (the finaliser of SplitMix64, Steele et al. 2014)."""
    numbers = (numbers + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


class Filtered:
    """Seen items of users of whom only a filter and the open events are there."""

    def __init__(self, filters: Sequence[Filter], opened: Sequence[Ints], k: int) -> None:
        """`counts` are how many candidates may be hidden before `k` are left, with twice the mistakes to expect."""
        self._filters, self._opened = filters, opened
        needed = [
            one.held + len(own) + math.ceil(4 * one.rate * one.held) + _mistaken(k, one.rate)
            for one, own in zip(filters, opened, strict=True)
        ]
        self.counts = np.array(needed, dtype=np.int64)

    def contains(self, users: Ints, items: Ints) -> npt.NDArray[np.bool_]:
        """Whether user `users[b]` has seen `items[b, j]`, or seems to have. (B,), (B, C) -> (B, C) bool"""
        rows = [
            self._filters[user].contains(own) | np.isin(own, self._opened[user])
            for user, own in zip(users.tolist(), items, strict=True)
        ]
        return np.stack(rows) if rows else np.zeros(items.shape, dtype=bool)
