"""A retrained model takes over the store of the one before: memories are mapped, not made anew.

The two models fold the histories of some users; a ridge learns what the new one makes of a segment from what the old
one has made of it, block by block: the K rows that a fold writes, all stored planes. Its loss is measured on users that
it was not fitted on. Shapes: n blocks, A and B numbers of an old and of a new block.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from persrec.errors import UserError
from persrec.models.encodings import pack, unpack
from persrec.models.model import Model
from persrec.serving.entries import user_of
from persrec.serving.histories import Histories
from persrec.serving.packing import Layout, MemoryRows, Record
from persrec.serving.past import Past
from persrec.serving.states import Keeping, fold
from persrec.serving.updates import fresh
from persrec.serving.users import CHUNK, Users

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Done = Callable[[int, int], None] | None

PENALTIES = 10.0 ** np.arange(-3, 4)
HELD_OUT = 0.2  # share of the users by which the loss is measured
SAME = ("history", "kind", "segment", "recent", "time", "length", "inputs", "repeat", "raw", "seen_rate")


class Side(NamedTuple):
    """One of the two models, and how users are kept with it."""

    model: Model
    keeping: Keeping
    item_ids: pl.Series
    about: Mapping[str, Any]  # what a store of it depends on


class Linear(Protocol):
    """What scikit-learn's regressions have."""

    def predict(self, X: Floats) -> Floats: ...


class Adapter(NamedTuple):
    """From blocks of the old model (n, A) to blocks of the new one (n, B)."""

    linear: Linear
    explained: float  # share of the variance of held-out blocks
    cosine: float  # mean, between mapped rows and those that the new model makes
    users: int  # that it was fitted on
    left_out: int = 0  # users of the old store of whose open events the new model knows no item


def side_of(users: Users) -> Side:
    """The model of a store."""
    return Side(users.model, users.keeping, users.item_ids, users.store.about())


def fit(old: Side, new: Side, log: Histories, users: int, *, seed: int = 0) -> Adapter:
    """Learn the map from the histories of some users of a log, which is in the indices of the new model.

    Only of users all of whose items the old model knows. Raises UserError where the two models do not fold the same
    segments, or nobody has anything folded.
    """
    _check_alike(old, new)
    random = np.random.default_rng(seed)
    items = _renamed(new.item_ids, old.item_ids)[log.items]
    strange = np.add.reduceat(items == 0, log.offsets[:-1]) if len(items) else np.zeros(0)
    some = np.sort(random.permutation(np.flatnonzero(strange == 0))[:users])
    before = _blocks(old, log._replace(items=items.astype(np.int32)).take(some))
    after = _blocks(new, log.take(some))
    if [len(one) for one in before] != [len(one) for one in after]:
        raise UserError(
            "adopt: the two models keep other numbers of blocks of the same users, as with another memory.cap or "
            "memory.merge; make the new store by `persrec compress`"
        )
    held = random.random(len(some)) < HELD_OUT
    x, y, kept = np.concatenate(before), np.concatenate(after), np.repeat(held, [len(one) for one in before])
    if not len(x) or kept.all() or not kept.any():
        raise UserError(
            f"adopt: of {len(some)} users {sum(len(one) > 0 for one in before)} have anything folded, which is too few "
            "to learn from; give a log with longer histories, or `rebuild`"
        )
    from sklearn.linear_model import RidgeCV

    linear = RidgeCV(alphas=PENALTIES).fit(x[~kept], y[~kept])
    mapped, wanted = linear.predict(x[kept]), y[kept]
    left = ((mapped - wanted) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum()
    width = new.keeping.layout.width
    rows, right = mapped.reshape(-1, width), wanted.reshape(-1, width)
    cosine = (rows * right).sum(axis=1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(right, axis=1) + 1e-12)
    return Adapter(linear, float(1 - left), float(cosine.mean()), int((~held).sum()))


def adopt(old: Users, new: Users, adapter: Adapter, done: Done = None) -> int:
    """Write the users of the old store into the new one, and with the last of them how far each source was read.

    What was open and seen stays as it was, less the events of items that the new model does not know. Users of whose
    open events it knows none cannot be asked for; they are left out, and it is said how many they are.
    """
    renamed = _renamed(old.item_ids, new.item_ids)
    everybody, count, left_out = len(old.store.every()), 0, 0
    with old.store.moment() as (cursors, entries):
        old.added.check()
        while part := list(islice(entries, CHUNK)):
            before = {user_of(key): old.record(user_of(key), data) for key, data in part}
            moved = {user: _moved(record, renamed) for user, record in before.items()}
            moved = {user: record for user, record in moved.items() if len(record.items)}
            for record, rows in zip(moved.values(), _mapped(list(moved.values()), adapter, old, new), strict=True):
                record.rows = rows
            new.write(moved)
            count, left_out = count + len(part), left_out + len(part) - len(moved)
            if done is not None:
                done(count, everybody)
        new.write({}, cursors)
    return left_out


def _check_alike(old: Side, new: Side) -> None:
    before, after = old.about, new.about
    differing = [
        f"{name}: {before.get(name)!r} then, {after.get(name)!r} now"
        for name in SAME
        if before.get(name) != after.get(name)
    ]
    if differing:
        raise UserError(
            f"adopt: the two models do not fold the same segments of the same events ({'; '.join(differing)}); make "
            "the new store by `persrec compress`"
        )
    if old.keeping.raw or not old.keeping.layout.planes:
        raise UserError("adopt: the store keeps events and no memories; make the new one by `persrec compress`")
    if old.keeping.layout.keeps == "none" and new.keeping.layout.keeps != "none":
        raise UserError(
            "adopt: the old store knows of no seen items, for which evaluation.exclude_seen and seen_odds had no use "
            "there, and have here; make the new store by `persrec compress`"
        )
    if old.keeping.layout.keeps == "filter":
        raise UserError("adopt: a filter of seen items cannot be read; make the new store by `persrec compress`")


def _blocks(side: Side, log: Histories) -> list[Floats]:
    """Of each user's memory the blocks (n, A), made of the histories."""
    layout, found = side.keeping.layout, []
    for start in range(0, len(log.ids), 1024):
        part = log.take(np.arange(start, min(start + 1024, len(log.ids))))
        records = [fresh(part.of(row), layout) for row in range(len(part.ids))]
        fold(side.model, side.keeping, records)
        found += [_numbers(record.rows.states, layout).reshape(-1, _block(side)) for record in records]
    return found


def _block(side: Side | Users) -> int:
    """Numbers of a block."""
    return side.model.compressor.rows * side.keeping.layout.planes * side.keeping.layout.width


def _numbers(states: npt.NDArray[np.uint8], layout: Layout) -> Floats:
    """Stored rows (M, row_bytes) as numbers (M * planes, D)."""
    own = states.shape[1] // layout.planes
    return unpack(states.reshape(len(states) * layout.planes, own), layout.width, layout.encoding).numpy()


def _mapped(records: list[Record], adapter: Adapter, old: Users, new: Users) -> list[MemoryRows]:
    """The rows of the records as the new model would have them."""
    before, after = old.keeping.layout, new.keeping.layout
    counts = [len(record.rows.states) // old.model.compressor.rows for record in records]  # blocks of each
    if not sum(counts):
        return [record.rows for record in records]
    x = _numbers(np.concatenate([record.rows.states for record in records]), before).reshape(-1, _block(old))
    y = torch.from_numpy(adapter.linear.predict(x).astype(np.float32)).reshape(-1, after.width)
    states = pack(y, after.encoding).reshape(len(x) * new.model.compressor.rows, -1)
    ends = np.cumsum(counts)[:-1] * new.model.compressor.rows
    per_block = old.model.compressor.rows, new.model.compressor.rows
    return [_placed(record.rows, own, *per_block) for record, own in zip(records, np.split(states, ends), strict=True)]


def _placed(rows: MemoryRows, states: npt.NDArray[np.uint8], before: int, after: int) -> MemoryRows:
    """New rows where the old ones of their blocks stood, the weight of a block shared among them."""
    first = np.repeat(np.arange(0, len(rows.position), before), after)
    return MemoryRows(states, rows.position[first], rows.time[first], rows.weight[first] * np.float32(before / after))


def _renamed(old: pl.Series, new: pl.Series) -> Ints:
    """(V+1,) the new index of each old item; 0 where the new model does not know it."""
    known = pl.DataFrame({"item": new.cast(pl.String), "index": np.arange(1, len(new) + 1)})
    found = pl.DataFrame({"item": old.cast(pl.String)}).join(known, on="item", how="left", maintain_order="left")
    return np.concatenate([[0], found["index"].fill_null(0).to_numpy()]).astype(np.int64)


def _moved(record: Record, renamed: Ints) -> Record:
    """The record with the new indices of its items."""
    items = renamed[record.items]
    past = record.past._replace(item=renamed[record.past.item])
    known, order = items > 0, np.argsort(past.item, kind="stable")
    order = order[past.item[order] > 0]
    times = None if record.times is None else record.times[known]
    left = Past(past.item[order], past.frequency[order], past.position[order], past.time[order], past.strength[order])
    ties = int((items[len(items) - record.ties :] > 0).sum())
    return replace(record, items=items[known], times=times, inputs=record.inputs[known], past=left, ties=ties)
