"""Validation while a model is trained: batches of queries, and the rank of their targets.

Shapes: B users, V items, T pairs of query and target.
"""

import math

import numpy as np
import torch
from torch import Tensor

from persrec.batches import Batch, Budget, Windows, collate, evaluation_windows
from persrec.constants import PAD
from persrec.models.model import Model
from persrec.prepared import Prepared, Queries
from persrec.targets import targets_of

METRIC = "val_ndcg@10"


def rank(model: Model, histories: Batch, targets: Tensor, seen: Tensor, *, odds: float | None = None) -> Tensor:
    """Rank (T,) of each target, (2, T) pairs of query and item, among all items but (2, n) pairs of seen ones.

    With `odds` these are not excluded but have so many of their odds, as by `retrieval.rescoring.discounted`. Ties
    count half, and a target is never excluded for itself.
    """
    query, item = targets
    reading = model.read_out(histories)
    scores = reading.query @ model.vectors().T  # (B, V+1)
    if reading.bonus is not None:
        scores.index_put_((reading.bonus.row, reading.bonus.item), reading.bonus.value, accumulate=True)
    if odds is not None:
        scores[seen[0], seen[1]] = scores[seen[0], seen[1]] + model.fixed_temperature * math.log(odds)
    wanted = scores[query, item]
    if odds is None:
        scores[seen[0], seen[1]] = float("-inf")
    scores[:, PAD] = float("-inf")
    rows = torch.arange(len(query), device=query.device)
    among = scores if torch.equal(query, rows) else scores[query]  # a row for each target
    among[rows, item] = float("-inf")
    over = among.sub_(wanted[:, None])
    if bool(over.sum().isnan()):  # scores that are not numbers count against the model
        over.nan_to_num_(nan=1.0)
    sides = over.sign_().sum(dim=1).double()  # 1 above the target, 0 where equal, -1 below
    return 1 + (over.shape[1] + sides) / 2


class Validation(torch.utils.data.Dataset):
    """Batches of validation queries, with their targets and the items that are excluded or discounted as seen."""

    def __init__(
        self,
        data: Prepared,
        queries: Queries,
        budget: Budget,
        *,
        length: int | None,
        time: str,
        exclude_seen: bool,
        seen_odds: float | None = None,
        repeats: bool = False,
    ) -> None:
        self.data, self.time, self.repeats = data, time, repeats
        self.asks_seen = exclude_seen or seen_odds is not None
        self.windows = evaluation_windows(queries.user, queries.end, length=length)
        self.batches = budget.cut(self.windows)
        self.targets = targets_of(data, queries)
        self._first = np.searchsorted(self.targets.query, np.arange(len(queries.user) + 1))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Batch, Tensor, Tensor]:
        rows = self.batches[index]
        windows = self.windows.take(rows)
        batch = collate(self.data, windows, time=self.time, repeats=self.repeats, last=True)
        return batch, self._targets(rows), self._seen(windows)

    def of_rank(self, rank: int, ranks: int) -> range:
        """Which batches are one device's of several: each `ranks`-th one, or all where there are fewer."""
        return range(rank, len(self), ranks) if len(self) >= ranks else range(len(self))

    def _targets(self, rows: np.ndarray) -> Tensor:
        """Pairs (2, T) of query in the batch and target."""
        items = [self.targets.item[self._first[row] : self._first[row + 1]] for row in rows]
        return _pairs(items)

    def _seen(self, windows: Windows) -> Tensor:
        """Pairs (2, n) of query in the batch and item seen before it, over the whole history, where that matters."""
        if not self.asks_seen:
            return torch.zeros(2, 0, dtype=torch.int64)
        first = self.data.offsets[windows.user]
        return _pairs([self.data.items[begin : begin + end] for begin, end in zip(first, windows.end, strict=True)])


def _pairs(items: list[np.ndarray]) -> Tensor:
    """Pairs (2, n) of row and item."""
    rows = np.repeat(np.arange(len(items)), [len(some) for some in items])
    return torch.from_numpy(np.stack([rows, np.concatenate(items).astype(np.int64)]))


def validation_queries(data: Prepared, *, users: int | None, seed: int) -> Queries:
    """The validation queries of all users, or of a fixed random part of them."""
    every = np.unique(data.validation.user)
    if users is None or users >= len(every):
        return data.validation
    chosen = np.random.default_rng(seed).choice(every, users, replace=False)
    return data.validation.take(np.isin(data.validation.user, chosen))
