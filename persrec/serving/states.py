"""Records through the model: closed segments are folded into their memories, open blocks are read on them.

Shapes: B users, P planes, M remembered rows, S events of a segment, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from persrec.batches import Batch, collate, evaluation_windows, rows_of_reads
from persrec.consumption import Consumed
from persrec.errors import UserError
from persrec.models.compressor import fold_all, read
from persrec.models.encodings import pack, unpack
from persrec.models.interfaces import Memory
from persrec.models.model import Model
from persrec.recipe.recipe import Recipe
from persrec.retrieval.rescoring import Additions
from persrec.serving.packing import Keeps, Layout, MemoryRows, Record
from persrec.serving.past import joined

Ints = npt.NDArray[np.int64]


class Keeping(NamedTuple):
    """How the users of a run are kept."""

    layout: Layout
    time: str  # the recipe's
    raw: bool  # events are kept as they are, and folded at each read
    newest: int | None  # raw: so many of them; None: all


def keeping_of(model: Model, recipe: Recipe, *, raw: bool, seen_rate: float | None) -> Keeping:
    """How a run's users are kept: `raw`, or where nothing is folded, or `length` moves all segments with each event.

    With `seen_rate`, seen items are kept as a filter that takes this share of others for seen.
    """
    folds = model.rule.recent is not None and recipe.length is None and not raw
    evaluation = recipe.evaluation
    keeps: Keeps = "items" if evaluation.exclude_seen or evaluation.seen_odds is not None else "none"
    if model.repeat is not None:
        keeps = "counts"
    if seen_rate is not None:
        if keeps != "items" or not evaluation.exclude_seen:
            raise UserError("seen_rate: only a run that excludes seen items (evaluation.exclude_seen) can filter them")
        if not 0 < seen_rate < 1:
            raise UserError(f"seen_rate: got {seen_rate}, expected a share between 0 and 1, as 0.01")
        keeps = "filter"
    planes, width = model.compressor.stored if folds else 0, model.backbone.width
    layout = Layout(
        planes,
        width,
        model.compressor.encoding,
        timed=recipe.time != "none",
        keeps=keeps,
        rate=seen_rate or 0.0,
        inputs=len(recipe.model.inputs),
    )
    return Keeping(layout, recipe.time, not folds, recipe.length)


class Asked(NamedTuple):
    """What is known of users after their last event."""

    queries: npt.NDArray[np.float32]  # (B, Q), Q = D, or with a text head D + E
    additions: Additions | None  # of a model with a repeat head
    slots: npt.NDArray[np.float32] | None = None  # (B, K, Q) of the newest tokens, as queries


@torch.no_grad()
def fold(model: Model, keeping: Keeping, records: Sequence[Record]) -> int:
    """Close all segments that are complete, in place, and say how many there were."""
    if keeping.raw:
        return _drop(keeping, records)
    opened = np.array([len(record.items) for record in records], dtype=np.int64)
    closed = model.rule.closed(torch.from_numpy(opened)).numpy()
    rows = _rows(records)
    todo = np.flatnonzero(closed)
    order = todo[np.lexsort((-rows[todo], -closed[todo]))]
    for part in _batches(order, rows + opened, rows_of_reads(_device(model))):
        _fold(model, keeping, [records[index] for index in part], closed[part])
    return int(closed.sum())


def _drop(keeping: Keeping, records: Sequence[Record]) -> int:
    """Nothing is folded; of raw events the newest are kept."""
    for record in records:
        excess = 0 if keeping.newest is None else len(record.items) - keeping.newest
        if excess > 0:
            _leave(record, excess, keeping.layout)
    return 0


def _fold(model: Model, keeping: Keeping, records: list[Record], closed: Ints) -> None:
    """Users in descending order of segments to close."""
    segment = model.rule.segment
    if model.compressor.rows:
        batch, encode = _opened(records, keeping, None, device=_device(model)), model.encode()
        memory = memory_of(model, keeping.layout, records)
        done = torch.from_numpy(closed).to(batch.events.device)
        memory = fold_all(model.backbone, model.compressor, encode, batch, done, segment, memory)
        for record, kept in zip(records, rows_of_memory(memory, keeping.layout), strict=True):
            record.rows = kept
    for record, count in zip(records, closed.tolist(), strict=True):
        _leave(record, count * segment, keeping.layout)


def _leave(record: Record, count: int, layout: Layout) -> None:
    """The first events of the open block are open no longer."""
    items, times = record.items[:count], None if record.times is None else record.times[:count]
    if record.filter is not None:
        record.filter = record.filter.after(items)
    elif layout.keeps != "none":
        record.past = record.past.after(items, record.count, times)
    if times is not None and record.times is not None:
        record.folded, record.times = int(times[-1]), record.times[count:]
    record.items, record.inputs = record.items[count:], record.inputs[count:]
    record.ties = min(record.ties, len(record.items))
    record.count += count


@torch.no_grad()
def ask(
    model: Model, keeping: Keeping, records: Sequence[Record], at: int | None, *, with_slots: bool = False
) -> Asked:
    """Queries after the last event of each, asked at `at` ms where the time signal is `next`; no record is empty.

    `with_slots` gives also what the newest tokens hold, the query again where there is none.
    """
    opened = np.array([len(record.items) for record in records], dtype=np.int64)
    rows = _rows(records)
    hidden = torch.zeros(len(records), model.query_width, device=_device(model))
    for part in _batches(np.lexsort((-opened, -rows)), rows + opened, rows_of_reads(_device(model))):
        hidden[torch.from_numpy(part)] = _read(model, keeping, [records[index] for index in part], at)
    queries = model.query(hidden).float().cpu().numpy()
    additions = None if model.repeat is None else _additions(model, keeping, records, hidden, at)
    return Asked(queries, additions, _slots(model, keeping, records, queries) if with_slots else None)


def _slots(
    model: Model, keeping: Keeping, records: Sequence[Record], queries: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The newest K rows of each memory, in the last plane that is stored, as queries (B, K, Q).

    What the texts of the last events ask for is the same in all of them.
    """
    memory, count = memory_of(model, keeping.layout, records), model.compressor.rows
    found = np.repeat(queries[:, None], count, axis=1)
    if memory.rows:
        newest = model.query(memory.states[:, -1, -count:]).float().cpu().numpy()
        there = memory.valid[:, -count:].cpu().numpy()
        width = model.backbone.width
        found[there, :width] = newest[there, :width]
    return found


def _read(model: Model, keeping: Keeping, records: list[Record], at: int | None) -> Tensor:
    """Hidden rows (B, Q) after the last event of each."""
    batch = _opened(records, keeping, at, device=_device(model))
    if keeping.raw:
        return model(batch, score=None).scored[-1]
    none_closed = torch.zeros_like(batch.events)
    memory = memory_of(model, keeping.layout, records)
    hidden, _ = read(model.backbone, model.encode(), batch, none_closed, model.rule, memory, last=True)
    return model.asking(hidden[:, 0], batch)


def _additions(model: Model, keeping: Keeping, records: Sequence[Record], hidden: Tensor, at: int | None) -> Additions:
    """What the repeat head adds for the items that each user has had."""
    count = np.array([record.count for record in records], dtype=np.int64)
    times = [record.times for record in records if record.times is not None] if keeping.layout.timed else None
    user, had = joined([record.past for record in records], [record.items for record in records], count, times)
    events = np.array([record.events for record in records], dtype=np.int64)
    elapsed = np.zeros_like(had.time)
    if times is not None:
        asked = np.array([own[-1] if at is None or keeping.time != "next" else at for own in times], dtype=np.int64)
        elapsed = asked[user] - had.time
    fields = (user, had.item, had.frequency, had.strength, events[user] - 1 - had.position, elapsed)
    consumed = Consumed(*(torch.from_numpy(each).to(hidden.device) for each in fields))
    value = model.bonus(hidden, consumed).value * model.temperature
    return Additions(user, had.item, value.float().cpu().numpy())


def _opened(records: Sequence[Record], keeping: Keeping, at: int | None, *, device: torch.device) -> Batch:
    """The open blocks of some users, at their positions in the whole histories."""
    lengths = np.array([len(record.items) for record in records], dtype=np.int64)
    times = [record.times for record in records if record.times is not None]
    blocks = _Blocks(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([record.items for record in records]),
        np.concatenate(times) if times else None,
    )
    windows = evaluation_windows(np.arange(len(records)), lengths, length=None)
    asked = None if at is None else np.full(len(records), at, dtype=np.int64)
    batch = collate(blocks, windows, time=keeping.time, at=asked)
    first = torch.tensor([record.count for record in records], dtype=torch.int64)
    history = batch.history._replace(position=batch.history.position + first[:, None])
    if keeping.layout.inputs:
        carried = np.zeros((*history.valid.shape, keeping.layout.inputs), dtype=np.int64)
        carried[history.valid.numpy()] = np.concatenate([record.inputs for record in records])
        history = history._replace(inputs=torch.from_numpy(carried))
    return batch._replace(history=history).to(device)


class _Blocks(NamedTuple):
    """Open blocks one after the other; see `persrec.batches.Sequences`."""

    offsets: Ints
    items: Ints
    times: Ints | None


def memory_of(model: Model, layout: Layout, records: Sequence[Record]) -> Memory:
    """The memories (B, P, M, D) of some users, right-aligned, with the tokens in a plane that is not stored."""
    empty = model.compressor.start(len(records))
    counts = _rows(records)
    most = int(counts.max(initial=0))
    if not most:
        return replace(empty, count=torch.tensor([record.count for record in records], device=empty.count.device))
    valid = torch.from_numpy(np.arange(most) >= (most - counts)[:, None]).to(empty.valid.device)  # (B, M)
    flat = np.concatenate([record.rows.states for record in records])
    stored = unpack(flat.reshape(len(flat) * layout.planes, -1), layout.width, layout.encoding)
    stored = stored.to(empty.states).reshape(len(flat), layout.planes, layout.width)
    planes = empty.states.shape[1]
    states = empty.states.new_zeros(len(records), most, planes, layout.width)
    states[valid] = torch.cat([_tokens(model, counts), stored], dim=1) if planes > layout.planes else stored

    def placed(name: str, like: Tensor) -> Tensor:
        field = like.new_zeros(len(records), most)
        field[valid] = torch.from_numpy(np.concatenate([getattr(record.rows, name) for record in records])).to(like)
        return field

    return replace(
        empty,
        states=states.transpose(1, 2),
        time=placed("time", empty.time),
        position=placed("position", empty.position),
        valid=valid,
        weight=placed("weight", empty.weight),
        count=torch.tensor([record.count for record in records], device=empty.count.device),
    )


def _tokens(model: Model, counts: Ints) -> Tensor:
    """The token behind each row of memories of so many rows: (n, 1, D)."""
    tokens = model.compressor.get_parameter("tokens")  # type: ignore[attr-defined]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return tokens[torch.from_numpy(within % len(tokens)).to(tokens.device)][:, None]


def rows_of_memory(memory: Memory, layout: Layout) -> list[MemoryRows]:
    """What is stored of each user's memory."""
    planes = memory.states.shape[1]
    stored = memory.states[:, planes - layout.planes :].transpose(1, 2)[memory.valid]  # (n, P', D)
    flat = pack(stored.flatten(0, 1), layout.encoding).reshape(len(stored), -1)
    fields = [each[memory.valid].cpu().numpy() for each in (memory.position, memory.time, memory.weight)]
    ends = np.cumsum(memory.valid.sum(dim=1).cpu().numpy())[:-1]
    return [MemoryRows(*parts) for parts in zip(*(np.split(each, ends) for each in (flat, *fields)), strict=True)]


def _rows(records: Sequence[Record]) -> Ints:
    return np.array([len(record.rows.weight) for record in records], dtype=np.int64)


def _batches(order: Ints, sizes: Ints, budget: int) -> Iterator[Ints]:
    """Parts of `order` whose users times the largest of their sizes, memory and events, stay within the budget, or of
    one user."""
    begin, largest = 0, 0
    for index, size in enumerate(sizes[order].tolist()):
        largest = max(largest, size)
        if index > begin and (index + 1 - begin) * largest > budget:
            yield order[begin:index]
            begin, largest = index, size
    if len(order):
        yield order[begin:]


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device
