"""What the memory of a compressed model is worth: the same model and targets, with its memories taken away, exchanged,
and with the boundary between memory and clear events elsewhere.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from persrec.evaluation import intervals
from persrec.evaluation.evaluate import Evaluation, EvaluationSettings, index_of, ranks
from persrec.models import memory as memories
from persrec.models.interfaces import Memory
from persrec.models.model import Model
from persrec.prepared import Prepared, Queries
from persrec.targets import targets_of

MOST: Final = 4096  # queries; of more, those of users chosen at random are tested


class Exchange:
    """For each reader the memory of another one of its batch or, where nobody there has folded as few events, of one
    that was read before; batches come from the fewest closed segments on."""

    def __init__(self) -> None:
        self.known: tuple[Memory, Tensor] | None = None  # of the last two users
        self.readers = self.without = 0

    def __call__(self, memory: Memory, users: Tensor) -> Memory:
        every, owners = memory, users
        if self.known is not None:
            every, owners = memories.join(memory, self.known[0]), torch.cat([users, self.known[1]])
        found = memories.take(memories.of_others(every, owners), slice(len(users)))
        self.readers += int((memory.count > 0).sum())
        self.without += int(((memory.count > 0) & ~found.valid.any(dim=1)).sum())
        first: dict[int, int] = {}
        for row, owner in enumerate(owners.tolist()):  # in falling order of events folded
            first.setdefault(owner, row)
        last = torch.tensor(list(first.values())[:2], device=users.device)
        self.known = memories.take(every, last), owners[last]
        return found

    @property
    def got_none(self) -> float:
        """Share of the queries with a memory to which nobody could give one: for these it was emptied."""
        return self.without / max(self.readers, 1)


def memory_tests(
    model: Model,
    data: Prepared,
    settings: EvaluationSettings,
    found: Evaluation,
    metric: str,
    *,
    on_queries: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:
    """Rows with the metric of each test, and its ratio to what the model `found` with its memories as they are.

    Both are of the same queries: all of them or, where there are more than MOST, those of some users.
    An open block of R to R+S-1 events is what serving sees; a model that was trained with moving boundaries should
    not mind where it stands.
    """
    segment, recent = model.rule
    assert recent is not None
    chosen = of_some_users(data.test)
    targets, before = targets_of(data, data.test.take(chosen)), found.values(metric)[chosen]
    users = targets.queries.user
    tests: dict[str, dict[str, Any]] = {
        "emptied": {"recall": lambda memory, users: memories.emptied(memory)},
        "of another user": {"recall": Exchange()},
    }
    for clear in sorted({recent, recent + segment // 2, recent + segment - 1}):
        tests[f"{clear} clear events"] = {"open_block": clear}
    index = index_of(model, data, settings)
    rows: list[dict[str, Any]] = []
    for name, changes in tests.items():
        rank = ranks(model, data, settings, targets, index, on_queries=on_queries, **changes)
        values = replace(found, targets=targets, rank=rank).values(metric)
        rows.append(
            {
                "memory": name,
                "queries": len(chosen),
                metric: intervals.mean(values, users)._asdict(),
                "ratio": intervals.ratio([values], [before], users)._asdict(),
            }
        )
        if isinstance(changes.get("recall"), Exchange):
            rows[-1]["got_none"] = changes["recall"].got_none
    return rows


def of_some_users(queries: Queries) -> npt.NDArray[np.int64]:
    """Rows of at most MOST queries, all or none of a user's, but of one user at least."""
    if len(queries.user) <= MOST:
        return np.arange(len(queries.user))
    users, counts = np.unique(queries.user, return_counts=True)
    order = np.random.default_rng(0).permutation(len(users))
    fitting = max(1, int((counts[order].cumsum() <= MOST).sum()))
    return np.flatnonzero(np.isin(queries.user, users[order[:fitting]]))
