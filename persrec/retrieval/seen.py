"""The items that each user of a batch has seen, as one sorted array that is searched for all of them at once."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Membership(Protocol):
    """What a search asks of the items that users have seen."""

    counts: np.ndarray  # (U,) int64: at most so many candidates of each user can be hidden

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether user `users[b]` has seen `items[b, j]`. (B,), (B, J) -> (B, J) bool"""


class Seen:
    """Sets of item indices (1..V), one per user.

    items [3 1 3 | | 2] of three users -> counts [2 0 1]
    contains([0, 2], [[1, 2], [1, 2]]) -> [[True, False], [False, True]]
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, count: int) -> None:
        """Pairs of user row and item, in any order, with repeats; `count` users, of which some may have no pair."""
        known = items > 0  # PAD is no item
        self._stride = int(items.max(initial=0)) + 1
        keys = users[known].astype(np.int64) * self._stride + items[known]
        keys.sort(kind="stable")  # which costs next to nothing where they are in order already, as most are
        self._keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
        self.counts = np.bincount(self._keys // self._stride, minlength=count)  # (U,) different items

    @classmethod
    def from_lists(cls, lists: Sequence[np.ndarray]) -> "Seen":
        """One array of items per user."""
        lengths = [len(items) for items in lists]
        flat = (
            np.concatenate([np.asarray(items, dtype=np.int64) for items in lists]) if lists else np.empty(0, np.int64)
        )
        return cls(np.repeat(np.arange(len(lists)), lengths), flat, len(lists))

    @classmethod
    def from_ranges(cls, items: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> "Seen":
        """`items[starts[u]:ends[u]]` for each user u, as prepared sequences lie."""
        lengths = ends - starts
        users = np.repeat(np.arange(len(starts)), lengths)
        within = np.arange(len(users)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(users, items[np.repeat(starts, lengths) + within], len(starts))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """User rows and items (P,) each, each pair once, ascending by user and item."""
        return self._keys // self._stride, self._keys % self._stride

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether user `users[b]` has seen `items[b, j]`. (B,), (B, J) -> (B, J) bool"""
        if not len(self._keys):
            return np.zeros(items.shape, dtype=bool)
        keys = users[:, None] * self._stride + items
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return (self._keys[place] == keys) & (items < self._stride)
