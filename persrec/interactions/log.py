"""A log in numbers: read, filtered, numbered, ordered, grouped; in parts where it is larger than one.

Parts are first runs of rows of the file, then groups of users who come after each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec import datasets
from persrec.constants import PAD
from persrec.interactions import filters, parts, sequences, vocabulary
from persrec.interactions.facts import Facts, facts_of
from persrec.interactions.parts import Column, Parts, Spool
from persrec.interactions.schema import EVENT, ITEM, TIME, USER, Say, log

GROUP: Final = "group"  # of users who are prepared together

Ints = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]  # (E,) each: items 1..V, and times, ratings and what else is kept


class Numbered(NamedTuple):
    """Sorted ids, and the place among them of each number that `Numbering` gave."""

    ids: pl.Series
    place: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Log:
    """An ordered log in numbers, its vocabularies, and what is known about it.

    User u has events offsets[u] to offsets[u + 1]; the columns of a log of several parts are mapped from disk.
    """

    offsets: Ints  # (U+1,)
    columns: Columns
    users: pl.DataFrame  # user_id
    items: pl.DataFrame  # item_id, events
    facts: Facts


def load(section: Mapping[str, Any], *, frame: Any = None, folder: Path | None = None, say: Say = log) -> Log:
    """The log of a data section: read, filtered by value, numbered, ordered, without duplicates, by count, k-core.

    Where it is larger than a part (`parts.ROWS`), it is put aside under `folder`, or in the system's temporary place.
    """
    raw = datasets.read_section(section, frame=frame, say=say)
    read, users, items = _read(raw, section, folder, say)
    del raw
    events = _by_user(read, users, items)
    height = events.height
    events = events.each(lambda part: _distinct(part, section))
    distinct = events.height
    events = filters.by_count(events, section, say)
    counted = events.height
    events = filters.k_core(
        events, min_user_events=section["min_user_events"], min_item_events=section["min_item_events"]
    )
    dropped = {"duplicates": height - distinct, "filtered": counted - events.height}
    return _compacted(events, users.ids, items.ids, section["keep"], dropped)


def _read(
    raw: pl.LazyFrame, section: Mapping[str, Any], folder: Path | None, say: Say
) -> tuple[Spool, Numbered, Numbered]:
    """The events that stay by their values, in the order of the file, with numbers for users and items."""
    users, items, spool = vocabulary.Numbering(USER), vocabulary.Numbering(ITEM), Spool(folder)
    sieves = filters.sieves_of(section, raw.collect_schema().names())
    for number, part in enumerate(Parts(raw)):
        numbered = part.with_columns(users.numbers(part).alias(USER), items.numbers(part).alias(ITEM))
        kept = filters.sifted(numbered, sieves)
        if EVENT in kept.columns:
            kept = sequences.coded(kept.lazy(), section["events"]).collect()
        spool.append(kept, number)
    for sieve in sieves:
        sieve.settle(say)
    return spool, Numbered(*users.ordered()), Numbered(*items.ordered())


def _by_user(read: Spool, users: Numbered, items: Numbered) -> Spool:
    """The events by groups of users who come after each other, in the order of the file, with places for numbers."""
    events = np.zeros(len(users.ids), dtype=np.int64)
    found = filters.counts_of(read, USER)
    events[users.place[: len(found)]] = found
    group = (np.cumsum(events) - events) // parts.ROWS  # of each user
    made = Spool(read.folder)
    for part in read:
        user = users.place[part[USER].to_numpy()]
        placed = part.with_columns(pl.Series(USER, user), pl.Series(ITEM, items.place[part[ITEM].to_numpy()]))
        if not group[-1]:
            made.append(placed)
            continue
        groups = placed.with_columns(pl.Series(GROUP, group[user])).partition_by(GROUP, as_dict=True, include_key=False)
        for (number,), own in groups.items():
            made.append(own, number)
    read.close()
    return made


def _distinct(part: pl.DataFrame, section: Mapping[str, Any]) -> pl.DataFrame:
    """All events of some users, in order and without duplicates."""
    events = sequences.ordered(part.lazy()).collect().lazy()
    return (filters.drop_duplicates(events) if section["deduplicate"] else events).collect()


def _compacted(
    events: Spool, users: pl.Series, items: pl.Series, keep: Sequence[str], dropped: Mapping[str, int]
) -> Log:
    """The log with numbers that have no gaps."""
    lengths, counts = filters.counts_of(events, USER), filters.counts_of(events, ITEM)
    new = {USER: vocabulary.compact(lengths, first=0), ITEM: vocabulary.compact(counts, first=PAD + 1)}
    names = {ours: name for ours, name in sequences.LISTS.items() if ours != EVENT or EVENT in keep}
    columns = {name: Column(events.folder) for name in names.values()}

    def numbered() -> Iterator[pl.DataFrame]:
        for part in events:
            done = part.with_columns(pl.Series(name, place[part[name].to_numpy()]) for name, place in new.items())
            for ours in (name for name in names if name in done.columns):
                columns[names[ours]].append(done[ours].to_numpy())
            yield done

    facts = facts_of(numbered(), **dropped)
    events.close()
    return Log(
        offsets=np.concatenate([[0], np.cumsum(lengths[lengths > 0])]),
        columns={name: column.array() for name, column in columns.items() if column.filled},
        users=users.head(len(lengths)).filter(pl.Series(lengths > 0)).to_frame(),
        items=pl.DataFrame({ITEM: items.head(len(counts)), "events": counts}).filter(pl.col("events") > 0),
        facts=facts,
    )


def histories(offsets: Ints, columns: Columns) -> Iterator[pl.DataFrame]:
    """The log as frames of users who come after each other."""
    group = offsets[:-1] // parts.ROWS  # of each user
    first = np.flatnonzero(np.diff(group, prepend=-1))
    for begin, end in zip(first, [*first[1:], len(group)], strict=True):
        user = np.repeat(np.arange(begin, end, dtype=np.int32), np.diff(offsets[begin : end + 1]))
        part = slice(offsets[begin], offsets[end])
        there = {ours: columns[name][part] for ours, name in ((ITEM, "items"), (TIME, "times")) if name in columns}
        yield pl.DataFrame({USER: user, **there})
