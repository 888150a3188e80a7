"""Evaluation: full ranking of the test targets, over all queries and by group.

Shapes: B users, Q queries, T targets, D width, V items.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from persrec import metrics
from persrec.baselines import Baseline, ranking
from persrec.baselines.events import distinct, trained
from persrec.baselines.vectors import weighted_vectors
from persrec.batches import Batch, Budget, Sequences, Windows, collate, evaluation_windows, rows_of_reads
from persrec.constants import PAD
from persrec.evaluation import intervals
from persrec.models.compressor import Recall
from persrec.models.encodings import memory_bytes
from persrec.models.interfaces import Memory
from persrec.models.model import Model
from persrec.prepared import Prepared, Queries
from persrec.recipe.recipe import Recipe
from persrec.retrieval.indexes import INDEXES, Index, Quality, measure
from persrec.retrieval.rescoring import Additions, check_finite, discounted, rescored_ranks, rescored_top_k
from persrec.retrieval.search import rank_targets, top_k
from persrec.retrieval.seen import Seen
from persrec.targets import Targets, targets_of

LIST = 10  # items of a list that is looked at as a whole
WIDTH = 32  # of the vectors by which lists are diverse
TOGETHER = 3  # queries of a user, on average, from which on they are read in one pass
MEASURED = 1000  # queries by which an index is measured


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Protocol and chunking; the meaning of each field is the recipe's key of the same name."""

    split: str
    part: str = "test"  # which of its targets
    k: tuple[int, ...]
    exclude_seen: bool
    seen_odds: float | None = None
    users_per_chunk: int
    length_buckets: tuple[int, ...]
    recent: int  # R, for the group of targets that were last consumed before the clear events
    time: str
    length: int | None
    retrieval: str = "flat"  # kind of index, and its options
    retrieval_options: Mapping[str, int] = field(default_factory=dict)

    def index(self, vectors: npt.NDArray[np.float32]) -> Index:
        """What searches item vectors (V+1, D)."""
        return INDEXES[self.retrieval](vectors, **self.retrieval_options)

    def without_a_model(self) -> "EvaluationSettings":
        """The protocol of what reads whole histories and ranks exactly, such as baselines and lists made elsewhere."""
        return replace(self, length=None, retrieval="flat", retrieval_options={})


def protocol(recipe: Recipe) -> EvaluationSettings:
    """How a recipe evaluates."""
    return EvaluationSettings(
        split=recipe.split.name,
        time=recipe.time,
        length=recipe.length,
        recent=recipe.memory.recent,
        retrieval=recipe.retrieval.kind,
        retrieval_options=recipe.retrieval.options,
        **recipe.evaluation.model_dump(),
    )


@dataclass(frozen=True)
class Evaluation:
    """Ranks of the targets and what follows from them."""

    targets: Targets
    rank: npt.NDArray[np.float64]  # (T,) inf beyond the largest k
    lists: npt.NDArray[np.int64]  # (Q, 10) the best items, PAD where there are fewer
    seen_in_lists: float  # share of them that the user had before
    bytes_per_user: float  # of the memories' numbers, as they are encoded
    settings: EvaluationSettings
    search: Quality | None = None  # of an index that is not exact

    @property
    def user(self) -> npt.NDArray[np.int64]:
        """(Q,) row of each query's user in the prepared log."""
        return self.targets.queries.user

    def values(self, metric: str) -> npt.NDArray[np.float64]:
        """A metric such as `ndcg@10` of each query (Q,)."""
        return metrics.per_user(self.rank, self.targets.counts, (int(metric.partition("@")[2]),))[metric]

    def table(self) -> pa.Table:
        """One row per target, in the order of the queries: what runs are compared by."""
        targets = self.targets
        columns = {
            "user": self.user[targets.query],
            "end": targets.queries.end[targets.query],
            "item": targets.item,
            "age": targets.age,
            "item_events": targets.item_events,
            "rank": self.rank,
        }
        if targets.gap is not None:
            columns["gap"] = targets.gap[targets.query]
        return pa.table(columns)

    def summary(self) -> dict[str, Any]:
        """Everything as plain numbers, for metrics.json."""
        every = np.ones(len(self.rank), dtype=bool)
        groups = self.targets.groups(lengths=self.settings.length_buckets, recent=self.settings.recent)
        return {
            "protocol": self._protocol(),
            "metrics": self._metrics(every),
            "groups": {
                what: [{"group": name, **self._counts(part), "metrics": self._metrics(part)} for name, part in parts]
                for what, parts in groups.items()
            },
            "bytes_per_user": self.bytes_per_user,
        }

    def _protocol(self) -> dict[str, Any]:
        targets, settings = self.targets, self.settings
        return {
            "split": settings.split,
            "part": settings.part,
            **self._counts(np.ones(len(self.rank), dtype=bool)),
            "users": len(np.unique(self.user)),
            "ranked": "the whole catalogue",
            "exclude_seen": settings.exclude_seen,
            "seen_odds": settings.seen_odds,
            "targets_seen_before": int((targets.age > 0).sum()),
            "cold_targets": int((targets.item_events == 0).sum()),
            "seen_in_top_10": self.seen_in_lists,
            "time": settings.time,
            "length": settings.length,
            "ties": "count half",
            "retrieval": {"kind": settings.retrieval, **settings.retrieval_options, **self._search()},
        }

    def _search(self) -> dict[str, float]:
        """Recall of the index against exact search, its speed and size."""
        return {} if self.search is None else self.search._asdict()

    def _counts(self, part: npt.NDArray[np.bool_]) -> dict[str, int]:
        return {"queries": len(np.unique(self.targets.query[part])), "targets": int(part.sum())}

    def _metrics(self, part: npt.NDArray[np.bool_]) -> dict[str, dict[str, float]]:
        """Every metric where only these targets are asked for, with intervals over users."""
        rows, counts = np.unique(self.targets.query[part], return_counts=True)
        values = metrics.per_user(self.rank[part], counts, self.settings.k)
        found = intervals.means(np.stack(list(values.values())), self.user[rows])
        return {name: value._asdict() for name, value in zip(values, found, strict=True)}


class Read(NamedTuple):
    """What is known of some windows after their last event."""

    queries: npt.NDArray[np.float32]  # (B, Q), Q = D, or with a text head D + E
    additions: Additions | None  # of a model with a repeat head
    bytes_per_user: float  # of the memories' numbers, as they are encoded


def evaluate(
    model: Model,
    data: Prepared,
    settings: EvaluationSettings,
    *,
    on_queries: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Rank the test targets of the log, each query with everything before it as history.

    `on_queries` is told after each batch how many queries have been read. Raises UserError for a k above the catalogue.
    """
    targets = targets_of(data, data.test)
    found = _read(model, data, data.test, settings, on_queries=on_queries)
    index = index_of(model, data, settings)
    rank, lists = _ranks(index, found, targets, data, settings), _lists(index, found, data.test, data, settings)
    exact = settings.retrieval == "flat"
    search = None if exact else measure(index, found.queries[:MEASURED], min(LIST, data.items_count))
    return Evaluation(targets, rank, lists, seen_share(data, lists), found.bytes_per_user, settings, search)


def ranks(
    model: Model,
    data: Prepared,
    settings: EvaluationSettings,
    targets: Targets,
    index: Index,
    *,
    recall: Recall | None = None,
    open_block: int | None = None,
    length: int | None = None,
    on_queries: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float64]:
    """Ranks (T,) of targets of the test alone, for a look at what old events do.

    `index` is that of the model's items; `recall` takes the place of the memories that are read; `open_block` moves the
    boundary, for users who have one, so that so many events are clear; of each history the last `length` events are
    read, if the settings do not say fewer.
    """
    queries = targets.queries
    if length is not None:
        settings = replace(settings, length=min(length, settings.length or length))
    found = _read(model, data, queries, settings, recall=recall, open_block=open_block, on_queries=on_queries)
    return _ranks(index, found, targets, data, settings)


def evaluate_baseline(
    baseline: Baseline,
    data: Prepared,
    settings: EvaluationSettings,
    *,
    on_queries: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """The same of a fitted baseline, whose seen items have no odds; it keeps nothing per user beside the log."""
    targets = targets_of(data, data.test)
    found = ranking.rank(
        baseline,
        data,
        targets,
        k=min(LIST, data.items_count),
        deepest=max(settings.k),
        exclude_seen=settings.exclude_seen,
        time=settings.time,
        on_queries=on_queries,
    )
    settings = settings.without_a_model()
    return Evaluation(targets, found.rank, found.lists, seen_share(data, found.lists), 0.0, settings)


def list_metrics(found: Evaluation, data: Prepared) -> dict[str, float]:
    """What the lists of ten are like as wholes, means over queries; see `persrec.metrics`.

    Diversity is by item vectors that are the same for all models: those of a truncated SVD of the training events.
    """
    lists, catalogue = found.lists, data.items_count
    users = int((data.train_end > 0).sum())
    users_per_item = np.asarray(distinct(data, trained(data), data.users).sum(axis=0)).ravel()
    per_query = {
        "novelty": metrics.novelty(lists, users_per_item, users),
        "average_popularity": metrics.average_popularity(lists, data.training_events_per_item),
        "diversity": metrics.diversity(lists, weighted_vectors(data, WIDTH)),
    }
    whole = {"coverage": metrics.coverage(lists, catalogue), "gini": metrics.gini(lists, catalogue)}
    return whole | {name: _mean_of_known(values) for name, values in per_query.items()}


def _mean_of_known(values: npt.NDArray[np.float64]) -> float:
    """The mean of what is a number; NaN where nothing is, as where everybody has had every item."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def seen_share(data: Prepared, lists: npt.NDArray[np.int64]) -> float:
    """Share of the items of the lists (Q, 10) that the user of the test query had before."""
    first = data.offsets[data.test.user]
    seen = Seen.from_ranges(data.items, first, first + data.test.end)
    known = seen.contains(np.arange(len(lists)), lists) & (lists > 0)
    return float(known.sum() / max((lists > 0).sum(), 1))


def lists_of(model: Model, data: Prepared, queries: Queries, settings: EvaluationSettings) -> npt.NDArray[np.int64]:
    """The list (Q, 10) of each query, PAD where there are fewer items."""
    found = _read(model, data, queries, settings)
    return _lists(index_of(model, data, settings), found, queries, data, settings)


def _lists(
    index: Index, read: Read, queries: Queries, data: Prepared, settings: EvaluationSettings
) -> npt.NDArray[np.int64]:
    """The list (Q, 10) of what is known of each query."""
    k, chunk = min(LIST, data.items_count), settings.users_per_chunk
    if read.additions is not None:
        return rescored_top_k(index, read.queries, read.additions, k, users_per_chunk=chunk)[0]
    seen = _seen(data, queries.user, queries.end, settings)
    return top_k(index, read.queries, seen, k, users_per_chunk=chunk)[0]


def _ranks(
    index: Index, read: Read, targets: Targets, data: Prepared, settings: EvaluationSettings
) -> npt.NDArray[np.float64]:
    """The rank (T,) of each target by itself: the others of its set stand where they stand."""
    deepest, chunk = max(settings.k), settings.users_per_chunk
    if read.additions is not None:
        asked = targets.query, targets.item
        return rescored_ranks(index, read.queries, read.additions, *asked, deepest, users_per_chunk=chunk)
    found = np.empty(len(targets.item))
    options: dict[str, Any] = {"exclude_seen": settings.exclude_seen, "users_per_chunk": chunk}
    for start in range(0, len(found), chunk):
        part = slice(start, start + chunk)
        rows = targets.query[part]
        seen = _seen(data, targets.queries.user[rows], targets.queries.end[rows], settings)
        found[part] = rank_targets(index, read.queries[rows], targets.item[part], seen, deepest, **options)
    return found


def _read(
    model: Model,
    data: Prepared,
    queries: Queries,
    settings: EvaluationSettings,
    *,
    recall: Recall | None = None,
    open_block: int | None = None,
    on_queries: Callable[[int], None] = lambda count: None,
) -> Read:
    """What is known of queries; raises UserError that names a user of whom the model says no number."""
    windows = _windows(model, queries, settings.length, open_block)
    found = read_users(model, data, windows, settings.time, recall=recall, on_queries=on_queries)
    check_finite(found.queries, found.additions, lambda row: data.user_ids()[int(queries.user[row])].as_py())
    return _discounted(found, queries, model, data, settings)


def _discounted(read: Read, queries: Queries, model: Model, data: Prepared, settings: EvaluationSettings) -> Read:
    """What is known of queries, seen items discounted where the settings say so."""
    if settings.seen_odds is None:
        return read
    first = data.offsets[queries.user]
    seen = Seen.from_ranges(data.items, first, first + queries.end)
    odds, temperature = settings.seen_odds, model.fixed_temperature
    return read._replace(additions=discounted(read.additions, seen, odds=odds, temperature=temperature))


def _seen(
    data: Prepared, user: npt.NDArray[np.int64], end: npt.NDArray[np.int64], settings: EvaluationSettings
) -> Seen:
    """What users (B,) had before their events `end` (B,), where that is excluded."""
    first = data.offsets[user]
    return Seen.from_ranges(data.items, first, first + (end if settings.exclude_seen else 0))


def _windows(model: Model, queries: Queries, length: int | None, open_block: int | None) -> Windows:
    """The history of each query; with `open_block` shifted, as in training, until so many events are open."""
    windows = evaluation_windows(queries.user, queries.end, length=length)
    segment, recent = model.rule
    if open_block is None or recent is None:
        return windows
    shift = (open_block - windows.columns) % segment
    return windows._replace(shift=np.where(windows.columns >= segment + recent, shift, 0))


def index_of(model: Model, data: Prepared, settings: EvaluationSettings) -> Index:
    """What finds the items of a log, without those that were added since."""
    return settings.index(item_vectors(model)[: data.items_count + 1])


def item_vectors(model: Model) -> npt.NDArray[np.float32]:
    """What queries are matched against: (V+1, Q), row 0 being PAD."""
    with torch.no_grad():
        return model.vectors().float().cpu().numpy()


def read_users(
    model: Model,
    data: Sequences,
    windows: Windows,
    time: str,
    *,
    at: npt.NDArray[np.int64] | None = None,
    recall: Recall | None = None,
    on_queries: Callable[[int], None] = lambda count: None,
) -> Read:
    """Read the users of the windows on their memories, asked at `at` (B,) ms where `time` is next; see `collate`."""
    if model.repeat is None and recall is None and at is None and _in_one_pass(windows):
        return _read_together(model, data, windows, time, on_queries)
    queries, stored = np.zeros((len(windows.user), model.query_width), np.float32), 0.0
    repeats = model.repeat is not None
    pairs: list[Additions] = []

    def batch_of(rows: npt.NDArray[np.int64]) -> Batch:
        asked = None if at is None else at[rows]
        return collate(data, windows.take(rows), time=time, at=asked, repeats=repeats, last=True)

    for rows, batch in _batches(model, windows, batch_of):
        reading = model.read_out(batch, recall=recall)
        queries[rows] = reading.query.float().cpu().numpy()
        stored += _stored(model, reading.memory)
        if reading.bonus is not None:
            row, item, value = (field.cpu().numpy() for field in reading.bonus)
            pairs.append(Additions(rows[row], item, value))
        on_queries(len(rows))
    return Read(queries, _sorted(pairs) if repeats else None, stored / max(len(queries), 1))


def _stored(model: Model, memory: Memory) -> int:
    """Bytes of the numbers of the memories of a batch."""
    return memory_bytes(memory, model.compressor.encoding, model.compressor.stored)


def _in_one_pass(windows: Windows) -> bool:
    """Whether it pays to read all windows of a user in one pass, which is possible where all are whole histories."""
    whole = not (windows.start.any() or windows.shift.any())
    return whole and len(windows.user) >= TOGETHER * len(np.unique(windows.user))


def _read_together(
    model: Model, data: Sequences, windows: Windows, time: str, on_queries: Callable[[int], None]
) -> Read:
    """Every user once, with a row for each window, which ends at it."""
    queries, stored = np.zeros((len(windows.user), model.query_width), np.float32), 0.0
    if not len(queries):
        return Read(queries, None, stored)
    order = np.lexsort((windows.end, windows.user))
    last = np.append(np.flatnonzero(np.diff(windows.user[order])), len(order) - 1)
    first = np.append(0, last[:-1] + 1)
    longest = windows.take(order[last])  # of each user

    def batch_of(rows: npt.NDArray[np.int64]) -> Batch:
        batch = collate(data, longest.take(rows), time=time)
        asked = torch.full_like(batch.history.target, PAD)
        for row, user in enumerate(rows):
            mine = order[first[user] : last[user] + 1]
            asked[row, torch.from_numpy(windows.end[mine] - 1)] = torch.from_numpy(mine + 1)
        return batch._replace(history=batch.history._replace(target=asked))

    for rows, batch in _batches(model, longest, batch_of):
        asked, found, memory = model.read_rows(batch)
        queries[asked.cpu().numpy() - 1] = found.float().cpu().numpy()
        per_user = _stored(model, memory) / len(rows)
        count = int((last[rows] - first[rows] + 1).sum())
        stored += per_user * count
        on_queries(count)
    return Read(queries, None, stored / max(len(queries), 1))


def _batches(
    model: Model, windows: Windows, batch_of: Callable[[npt.NDArray[np.int64]], Batch]
) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
    """Which windows make a batch, and the batch, while the model does not train: from the fewest closed segments on, so
    that whoever is read has met others who have no more."""
    device = next(model.parameters()).device
    budget = Budget(model.rule.segment, model.rule.recent, rows_of_reads(device), None)
    training = model.training
    model.eval()
    try:
        for rows in reversed(budget.cut(windows)):
            yield rows, batch_of(rows).to(device)
    finally:
        model.train(training)


def _sorted(pairs: list[Additions]) -> Additions:
    if not pairs:
        return Additions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    query, item, value = (np.concatenate(fields) for fields in zip(*pairs, strict=True))
    order = np.argsort(query, kind="stable")
    return Additions(query[order], item[order], value[order])
