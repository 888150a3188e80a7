"""Users and items that are asked for in the test and that training never saw."""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from persrec.interactions.schema import ITEM, USER


@dataclass(frozen=True)
class Cold:
    """Counts of a split; a query is a user at a moment, its targets are the events that follow."""

    queries: int
    users: int  # who are asked
    cold_users: int  # of them, those without any event in training
    targets: int
    cold_targets: int  # whose item is not in training
    cold_items: int  # these items, each once

    def as_dict(self) -> dict[str, int]:
        """Plain numbers."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.queries:,} test queries; {self.cold_users:,} of the {self.users:,} users asked are cold (no event "
            f"in training); {self.cold_targets:,} of {self.targets:,} targets are of cold items ({self.cold_items:,})"
        )


def cold(events: pl.LazyFrame, bounds: pl.DataFrame, queries: pl.DataFrame) -> Cold:
    """What of the queries (user, end, size) lies outside training, the events [0, train_end) of each user.

    `events` is the ordered log in numbers (users 0.., items 1.., no gaps), `bounds` has a row per user.
    """
    users, items = (column.to_numpy() for column in events.select(USER, ITEM).collect())
    trained = bounds["train_end"].to_numpy()
    starts = np.searchsorted(users, np.arange(len(trained)))
    lengths = np.diff(starts, append=len(users))
    inside = np.repeat(np.tile([True, False], len(trained)), np.column_stack([trained, lengths - trained]).ravel())
    known = np.zeros(items.max() + 1, dtype=bool)
    known[items[inside]] = True
    user, end, size = (queries[name].to_numpy() for name in ("user", "end", "size"))
    first = np.repeat(starts[user] + end - np.cumsum(size) + size, size)
    targets = items[first + np.arange(len(first))]
    asked = np.unique(user)
    return Cold(
        queries=len(user),
        users=len(asked),
        cold_users=int((trained[asked] == 0).sum()),
        targets=len(targets),
        cold_targets=int((~known[targets]).sum()),
        cold_items=len(np.unique(targets[~known[targets]])),
    )
