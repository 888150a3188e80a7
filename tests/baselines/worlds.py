"""Prepared logs in memory whose answers are known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from persrec.prepared import Prepared, Queries

DAY = 86_400_000
HALF = 5  # items of each half of the world of two halves


def prepared_of(
    histories: Sequence[Sequence[int]],
    train_end: Sequence[int] | None = None,
    *,
    times: Sequence[Sequence[int]] | None = None,
    items: int = 0,
) -> Prepared:
    """Histories as a prepared log; trained on whole where no bounds are given, without times likewise."""
    lengths = np.array([len(history) for history in histories])
    flat = np.array([item for history in histories for item in history], np.int32)
    nothing = Queries(*(np.empty(0, np.int64) for _ in Queries._fields))
    return Prepared(
        folder=Path("nowhere"),
        split="of a test",
        facts={},
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=flat,
        times=None if times is None else np.array([moment for row in times for moment in row], np.int64),
        ratings=None,
        train_end=np.array(lengths if train_end is None else train_end, dtype=np.int64),
        validation=nothing,
        test=nothing,
        events_per_item=np.bincount(flat, minlength=items + 1),
    )


def asked(*pairs: tuple[int, int]) -> Queries:
    """Queries of pairs (user, end), one target each."""
    user, end = np.array(pairs, np.int64).reshape(-1, 2).T
    return Queries(user, end, np.ones(len(user), np.int64))


def two_halves() -> Prepared:
    """Users walk in circles through items 1..5 or 6..10, from different places on; items 11 and 12 have no training.

    Users 0..9 in turn of either half, 12 events a day apart, the first 9 of them trained on; the future of user 2 holds
    item 11. User 10 has never had anything but item 12, which it alone has, after training.
    """
    histories = [[HALF * (user % 2) + (user + step) % HALF + 1 for step in range(12)] for user in range(10)]
    histories[2][10] = 11
    histories[1] += [10, 10]  # so that items differ in popularity
    bounds = [9] * 10 + [0]
    bounds[1] = 14
    histories.append([12, 12])
    times = [[DAY * (10 * user + step) for step in range(len(history))] for user, history in enumerate(histories)]
    return prepared_of(histories, bounds, times=times)
