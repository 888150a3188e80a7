"""Users and items that are asked for in the test and that training never saw."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

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
            f"in training); {self.cold_targets:,} of {self.targets:,} targets are of cold items "
            f"({self.cold_items:,} items)"
        )


class Part(NamedTuple):
    """Some of the users, one after the other, with their events in numbers; `bounds` has a row per user."""

    events: pl.DataFrame  # ordered; users from some number on, without gaps
    bounds: pl.DataFrame  # train_end: the events [0, train_end) of each user are trained on
    queries: pl.DataFrame  # user, end, size


def cold(parts: Iterable[Part], *, items: int) -> Cold:
    """What of the queries lies outside training, in a log with items 1..`items`; no user stands in two parts."""
    known, asked_for = np.zeros(items + 1, dtype=bool), np.zeros(items + 1, dtype=np.int64)
    queries = users = cold_users = 0
    for part in parts:
        owners, item = (part.events[name].to_numpy() for name in (USER, ITEM))
        trained = part.bounds["train_end"].to_numpy()
        first_user = int(owners[0])
        starts = np.searchsorted(owners, np.arange(first_user, first_user + len(trained)))
        lengths = np.diff(starts, append=len(owners))
        inside = np.repeat(np.tile([True, False], len(trained)), np.column_stack([trained, lengths - trained]).ravel())
        known[item[inside]] = True
        user, end, size = (part.queries[name].to_numpy() for name in ("user", "end", "size"))
        first = np.repeat(starts[user - first_user] + end - np.cumsum(size) + size, size)
        asked_for += np.bincount(item[first + np.arange(len(first))], minlength=items + 1)
        asked = np.unique(user) - first_user
        queries, users = queries + len(user), users + len(asked)
        cold_users += int((trained[asked] == 0).sum())
    return Cold(
        queries=queries,
        users=users,
        cold_users=cold_users,
        targets=int(asked_for.sum()),
        cold_targets=int(asked_for[~known].sum()),
        cold_items=int((asked_for[~known] > 0).sum()),
    )
