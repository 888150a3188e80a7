"""Small logs in memory, as prepared data would hold them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Log:
    """What batches read of prepared data; user u has events offsets[u] to offsets[u + 1] - 1."""

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    train_end: np.ndarray


def log_of(histories: Sequence[Sequence[int]], *, timed: bool = True) -> Log:
    """Histories as a log: event e of the whole log is at 1000 * e ms, leave-one-out."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    held = (lengths >= 3).astype(np.int64)
    return Log(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=items,
        times=1000 * np.arange(len(items), dtype=np.int64) if timed else None,
        train_end=lengths - 2 * held,
    )


def numbered(*lengths: int) -> Log:
    """Users of these lengths; user u's event i is item 1000 * (u + 1) + i, so that an item says where it came from."""
    return log_of([[1000 * (user + 1) + event for event in range(count)] for user, count in enumerate(lengths)])
