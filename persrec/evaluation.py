"""Evaluation: full ranking of the test targets, over all users and by length of their history.

Shapes: B users, T targets, D width, V items.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from persrec import intervals, metrics
from persrec.batches import Batch, Budget, Windows, collate, evaluation_windows
from persrec.models.model import Model
from persrec.prepared import Prepared
from persrec.retrieval import ExactIndex, rank_targets, seen_targets
from persrec.seen import Seen

READ_EVENTS = 1 << 15  # padded events of a batch that is only read


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Protocol and chunking; the meaning of each field is the recipe's key of the same name."""

    k: tuple[int, ...]
    exclude_seen: bool
    users_per_chunk: int
    length_buckets: tuple[int, ...]
    time: str
    length: int | None


@dataclass(frozen=True)
class Evaluation:
    """Ranks of the targets and what follows from them."""

    user: npt.NDArray[np.int64]  # (T,) row in the prepared log
    target: npt.NDArray[np.int64]  # (T,) item
    rank: npt.NDArray[np.float64]  # (T,) inf beyond the largest k
    events: npt.NDArray[np.int64]  # (T,) events before the target
    bytes_per_user: float  # of the memories, float32
    targets_seen_before: int
    settings: EvaluationSettings

    def values(self, metric: str) -> npt.NDArray[np.float64]:
        """A metric such as `ndcg@10` of each target."""
        name, _, k = metric.partition("@")
        return metrics.METRICS[name](self.rank, int(k))

    def summary(self) -> dict[str, Any]:
        """Everything as plain numbers, for metrics.json."""
        return {
            "protocol": {
                "targets": len(self.rank),
                "ranked": "the whole catalogue",
                "exclude_seen": self.settings.exclude_seen,
                "targets_seen_before": self.targets_seen_before,
                "time": self.settings.time,
                "length": self.settings.length,
                "ties": "count half",
            },
            "metrics": self._metrics(np.ones(len(self.rank), dtype=bool)),
            "by_history_length": [
                {"events": name, "targets": int(chosen.sum()), "metrics": self._metrics(chosen)}
                for name, chosen in self._buckets()
            ],
            "bytes_per_user": self.bytes_per_user,
        }

    def _metrics(self, chosen: npt.NDArray[np.bool_]) -> dict[str, dict[str, float]]:
        return {
            f"{name}@{k}": intervals.mean(metric(self.rank[chosen], k), self.user[chosen])._asdict()
            for name, metric in metrics.METRICS.items()
            for k in self.settings.k
        }

    def _buckets(self) -> list[tuple[str, npt.NDArray[np.bool_]]]:
        """Targets by number of events before them; empty buckets are left out."""
        edges = [0, *self.settings.length_buckets, np.inf]
        found = []
        for low, high in pairwise(edges):
            chosen = (self.events >= low) & (self.events < high)
            if chosen.any():
                found.append((f"{low}+" if high == np.inf else f"{low}-{high - 1}", chosen))
        return found


def evaluate(
    model: Model,
    data: Prepared,
    settings: EvaluationSettings,
    *,
    on_users: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Rank the test target of every user that has one, with everything before it as history.

    `on_users` is told after each batch how many users have been read. Raises UserError for a k above the catalogue.
    """
    users = np.flatnonzero((data.test_end > data.validation_end) & (data.validation_end > 0))
    queries, memory_bytes = read_users(model, data, users, settings, on_users=on_users)
    first = data.offsets[users]
    target = data.items[first + data.validation_end[users]].astype(np.int64)
    seen = Seen.from_ranges(data.items, first, first + data.validation_end[users])
    rank = rank_targets(
        ExactIndex(item_vectors(model)),
        queries,
        target,
        seen,
        max(settings.k),
        exclude_seen=settings.exclude_seen,
        users_per_chunk=settings.users_per_chunk,
    )
    return Evaluation(
        user=users,
        target=target,
        rank=rank,
        events=data.validation_end[users],
        bytes_per_user=memory_bytes,
        targets_seen_before=int(seen_targets(target, seen).sum()),
        settings=settings,
    )


def item_vectors(model: Model) -> npt.NDArray[np.float32]:
    """What queries are matched against: (V+1, D), row 0 being PAD."""
    with torch.no_grad():
        return model.vectors().float().cpu().numpy()


def read_users(
    model: Model,
    data: Prepared,
    users: npt.NDArray[np.int64],
    settings: EvaluationSettings,
    *,
    on_users: Callable[[int], None] = lambda count: None,
) -> tuple[npt.NDArray[np.float32], float]:
    """Queries (B, D) of users after the last event before their test target, and the mean bytes of their memories."""
    windows = evaluation_windows(data.validation_end, users, length=settings.length)
    place = np.empty(len(data.train_end), dtype=np.int64)
    place[users] = np.arange(len(users))
    queries, stored = np.zeros((len(users), model.backbone.width), np.float32), 0.0
    for batch, found, size in read_windows(model, windows, lambda part: collate(data, part, time=settings.time)):
        queries[place[batch.user.numpy()]] = found
        stored += size
        on_users(len(found))
    return queries, stored / max(len(users), 1)


def read_windows(
    model: Model, windows: Windows, batch_of: Callable[[Windows], Batch]
) -> Iterator[tuple[Batch, npt.NDArray[np.float32], float]]:
    """Batches of the windows, the queries (B, D) of their users, and the bytes that their memories hold together."""
    budget = Budget(model.rule.segment, model.rule.recent, READ_EVENTS, None)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        for part in budget.cut(windows):
            batch = batch_of(part)
            queries, memory = model.read_out(batch.to(device))
            planes, _, width = memory.states.shape[1:]
            kept = int(memory.valid.sum()) * (planes - 1) * width  # plane 0, the tokens themselves, is not stored
            yield batch, queries.float().cpu().numpy(), float(kept * 4)
    finally:
        model.train(training)
