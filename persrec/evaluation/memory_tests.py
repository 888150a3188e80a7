"""What old events are worth to a model: the same model and targets, with the memories of a compressed one taken away,
exchanged, and their boundary elsewhere; with the old events of a full one left out.
"""

from collections.abc import Callable, Iterator, Mapping
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
    """Rows with the metric of each test of a compressed model's memory, and its ratio to what the model `found` with
    its memories as they are.

    Both are of the same queries: all of them or, where there are more than MOST, those of some users.
    An open block of R to R+S-1 events is what serving sees; a model that was trained with moving boundaries should
    not mind where it stands.
    """
    segment, recent = model.rule
    assert recent is not None
    other = Exchange()
    tests: dict[str, dict[str, Any]] = {
        "emptied": {"recall": lambda memory, users: memories.emptied(memory)},
        "of another user": {"recall": other},
    }
    for clear in sorted({recent, recent + segment // 2, recent + segment - 1}):
        tests[f"{clear} clear events"] = {"open_block": clear}
    rows = [
        {"memory": name, **row}
        for name, row in _tested(model, data, settings, found, metric, tests, on_queries=on_queries)
    ]
    rows[1]["got_none"] = other.got_none
    return rows


def history_tests(
    model: Model,
    data: Prepared,
    settings: EvaluationSettings,
    found: Evaluation,
    metric: str,
    *,
    segment: int,
    on_queries: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:
    """Rows with the metric of a full model that reads the last R, or R+S-1, events before each query alone, and its
    ratio to what it `found` on whole histories; the fewest and the most that a compressed model sees as they are.

    A full model may be better than a recent one for having trained on more rows, and not for what it reads: then it
    loses nothing here. Seen items and the repeat head know the whole history as before.
    """
    lengths = sorted({settings.recent, settings.recent + segment - 1})
    tests = {f"last {length} events": {"length": length} for length in lengths}
    return [
        {"history": name, **row}
        for name, row in _tested(model, data, settings, found, metric, tests, on_queries=on_queries)
    ]


def _tested(
    model: Model,
    data: Prepared,
    settings: EvaluationSettings,
    found: Evaluation,
    metric: str,
    tests: Mapping[str, Mapping[str, Any]],
    *,
    on_queries: Callable[[int], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each test by its name, with the metric under the options of `ranks` that it stands for."""
    chosen = of_some_users(data.test)
    targets, before = targets_of(data, data.test.take(chosen)), found.values(metric)[chosen]
    users, index = targets.queries.user, index_of(model, data, settings)
    for name, options in tests.items():
        rank = ranks(model, data, settings, targets, index, on_queries=on_queries, **options)
        values = replace(found, targets=targets, rank=rank).values(metric)
        means = intervals.mean(values, users), intervals.ratio([values], [before], users)
        yield name, {"queries": len(chosen), metric: means[0]._asdict(), "ratio": means[1]._asdict()}


def of_some_users(queries: Queries) -> npt.NDArray[np.int64]:
    """Rows of at most MOST queries, all or none of a user's, but of one user at least."""
    if len(queries.user) <= MOST:
        return np.arange(len(queries.user))
    users, counts = np.unique(queries.user, return_counts=True)
    order = np.random.default_rng(0).permutation(len(users))
    fitting = max(1, int((counts[order].cumsum() <= MOST).sum()))
    return np.flatnonzero(np.isin(queries.user, users[order[:fitting]]))
