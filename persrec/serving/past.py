"""The items of events that are no longer open: what excludes them, and what a repeat head asks of them.

Shapes: J different items of a user, B users, P pairs of a user and an item.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from persrec.consumption import HALF_LIFE

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Past(NamedTuple):
    """Different items, ascending, and what is known of the events with each."""

    item: Ints  # (J,) 1..V
    frequency: Ints  # (J,) events with the item
    position: Ints  # (J,) of the last one in the user's history
    time: Ints  # (J,) of the last one, ms
    strength: Floats  # (J,) the frequency at the last one, where an event counts half after HALF_LIFE more

    def after(self, items: Ints, first: int, times: Ints | None) -> "Past":
        """With further events, the first of which is number `first` of the history."""
        return joined([self], [items], np.array([first]), None if times is None else [times])[1]


def of_items(items: Ints) -> Past:
    """Of items of which no more is known than that the user had them."""
    zeros = np.zeros_like(items)
    return Past(items, zeros + 1, zeros, zeros, np.ones(len(items), dtype=np.float32))


NOTHING = of_items(np.zeros(0, dtype=np.int64))


def joined(
    pasts: Sequence[Past], items: Sequence[Ints], first: Ints, times: Sequence[Ints] | None
) -> tuple[Ints, Past]:
    """Users' pasts and the events after them as pairs: the user (P,), ascending, and the past of its items (P,).

    User b's events `items[b]` are from number `first[b]` of the history on.
    """
    if not pasts:
        return np.zeros(0, dtype=np.int64), NOTHING
    known = np.array([len(past.item) for past in pasts], dtype=np.int64)
    new = np.array([len(own) for own in items], dtype=np.int64)
    fields = [np.concatenate(column) for column in zip(*pasts, strict=True)]
    within = np.arange(new.sum()) - np.repeat(np.cumsum(new) - new, new)
    own = np.concatenate(items)
    later = np.zeros_like(within) if times is None else np.concatenate(times)
    ones = np.ones(len(own))
    events = (own, ones, within + np.repeat(first, new), later, ones)
    user = np.concatenate([np.repeat(np.arange(len(known)), known), np.repeat(np.arange(len(new)), new)])
    return _settled(user, *(np.concatenate(pair) for pair in zip(fields, events, strict=True)))


def _settled(
    user: Ints, item: Ints, count: Ints, position: Ints, time: Ints, strength: npt.NDArray[np.float64]
) -> tuple[Ints, Past]:
    """One pair for all entries of the same user and item, at the last of them."""
    order = np.lexsort((position, item, user))
    user, item, position = user[order], item[order].astype(np.int64), position[order].astype(np.int64)
    if not len(order):
        return user, NOTHING
    starts = np.flatnonzero(np.diff(user, prepend=-1).astype(bool) | np.diff(item, prepend=-1).astype(bool))
    last = np.append(starts[1:], len(order)) - 1
    ago = np.repeat(position[last], np.diff(np.append(starts, len(order)))) - position
    faded = strength[order].astype(np.float64) * 0.5 ** (ago / HALF_LIFE)
    return user[last], Past(
        item[last],
        np.add.reduceat(count[order].astype(np.int64), starts),
        position[last],
        time[order][last].astype(np.int64),
        np.add.reduceat(faded, starts).astype(np.float32),
    )
