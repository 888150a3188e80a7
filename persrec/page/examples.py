"""Three users, shown: what they had, what is recommended to them, and whether it was right.

Shapes: Q queries, V items.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.errors import UserError
from persrec.evaluation.comparison import Side
from persrec.evaluation.evaluate import lists_of, protocol
from persrec.interactions.schema import ITEM, Say
from persrec.items import table
from persrec.items.catalogue import catalogue
from persrec.models.model import Model
from persrec.prepared import Prepared, Queries
from persrec.recipe.recipe import Recipe
from persrec.recipe.sections import Items

TITLE: Final = "title"
COUNT = 3
UNREAD, MEMORY, CLEAR = "unread", "memory", "clear"  # how events are read
SHOWN: Final = {UNREAD: 0, MEMORY: 4, CLEAR: 8}  # newest events of each

Ints = npt.NDArray[np.integer[Any]]


class Stretch(NamedTuple):
    """Events of a history, one after the other, that a model reads in the same way."""

    how: str  # UNREAD, MEMORY or CLEAR
    events: int
    newest: list[int]  # items, the latest last


class Place(NamedTuple):
    """An item of a list."""

    item: int
    hit: bool
    had: bool  # before the query


class Example(NamedTuple):
    """One query of a user."""

    user: str
    events: int  # before the query
    history: list[Stretch]  # of these events, the oldest first
    targets: list[int]
    best: list[Place]
    ranks: dict[str, list[float]]  # of the targets, by side; inf beyond what was kept


def choose(queries: Queries, least: int) -> Queries:
    """Three queries of different users, drawn by chance from those with `least` events before them (if there are any):
    not by whether they were answered well."""
    random = np.random.default_rng(0)
    long = np.flatnonzero(queries.end >= least)
    order = random.permutation(long if len(long) else len(queries.end))
    _, first = np.unique(queries.user[order], return_index=True)
    return queries.take(order[np.sort(first)[:COUNT]])


def examples(model: Model, data: Prepared, cell: Recipe, queries: Queries, sides: Sequence[Side]) -> list[Example]:
    """The queries as the model answers them, beside the ranks that the first run of each side gave the targets."""
    lists = lists_of(model, data, queries, protocol(cell))
    ids = data.user_ids()
    found = []
    for user, end, items in zip(queries.user, queries.end, lists, strict=True):
        first = int(data.offsets[user])
        history = data.items[first : first + int(end)]
        ranks: dict[str, list[float]] = {}
        targets: list[int] = []
        for side in sides:
            targets, ranks[side.name] = _ranks(side, int(user), int(end))
        listed = [Place(int(item), int(item) in targets, bool((history == item).any())) for item in items if item]
        name = str(ids[int(user)].as_py())
        found.append(Example(name, len(history), stretches(history, cell), targets, listed, ranks))
    return found


def stretches(history: Ints, cell: Recipe) -> list[Stretch]:
    """How a model of a recipe reads a history; stretches without events are left out.

    Before the last `length` events nothing is read. Of the closed segments `compressed` reads those in memory, `recent`
    none; `full` has none.
    """
    length = len(history) if cell.length is None else min(cell.length, len(history))
    segment, recent, cap = cell.memory.segment, cell.memory.recent, cell.memory.cap
    closed = 0 if cell.history == "full" else max(0, (length - recent) // segment)
    kept = 0 if cell.history == "recent" else closed if cap is None else min(cap, closed)
    clear = length - closed * segment
    counts = {UNREAD: len(history) - kept * segment - clear, MEMORY: kept * segment, CLEAR: clear}
    found, start = [], 0
    for how, count in counts.items():
        newest = history[start : start + count][max(0, count - SHOWN[how]) :]
        found.append(Stretch(how, count, [int(item) for item in newest]))
        start += count
    return [stretch for stretch in found if stretch.events]


def titles(path: str | Path) -> dict[str, str]:
    """Titles by item id, of an items table with item_id and title; see `persrec.items.table`.

    Raises UserError where it is absent, cannot be read, has no such columns, or names an item twice.
    """
    if not Path(path).is_file():
        raise UserError(f"--titles {path}: there is no such file; expected an items table with item_id and title")
    try:
        frame = table.read(Items(path=str(path)))
    except UserError as error:
        raise UserError(f"--titles: {error}; expected an items table with item_id and title") from error
    if TITLE not in frame.columns:
        got = ", ".join(frame.columns)
        raise UserError(f"--titles {path}: got the columns {got}, expected item_id and title; rename them")
    twice = frame.filter(frame[ITEM].is_duplicated())[ITEM]
    if len(twice):
        raise UserError(f"--titles {path}: item_id {twice[0]!r} stands there more than once; expected one title each")
    return dict(frame.drop_nulls([ITEM, TITLE]).select(ITEM, TITLE).iter_rows())


def own_titles(recipe: Mapping[str, Any], data: Prepared, say: Say) -> dict[str, str]:
    """Titles by item id, of the items table of a run's recipe; none where it names none with titles, or the file is
    gone. One that cannot be read any more is said."""
    section = Items.model_validate(recipe.get("items", {}))
    if section.path is None or not (section.path == table.SYNTHETIC or Path(section.path).is_file()):
        return {}
    try:
        frame = table.read(section)
        if TITLE not in frame.columns:
            return {}
        ids = pl.Series(ITEM, data.item_ids()).cast(pl.String)
        found = catalogue(frame, ids, f"{{{TITLE}}}", where=section.path).texts
    except UserError as error:
        say(f"{error}. Items go by their ids.")
        return {}
    return {name: title for name, title in zip(ids, found, strict=True) if title}


def names(data: Prepared, known: Mapping[str, str]) -> list[str]:
    """What to call each item, (V+1,) with PAD: its title, or its id where none is known."""
    ids = [str(value) for value in data.item_ids().to_pylist()]
    return ["", *(known.get(name, name) for name in ids)]


def _ranks(side: Side, user: int, end: int) -> tuple[list[int], list[float]]:
    """The targets of a query and their ranks in the first run of a side."""
    asked = side.tables[min(side.tables)]
    rows = (asked.column("user").to_numpy() == user) & (asked.column("end").to_numpy() == end)
    return asked.column("item").to_numpy()[rows].tolist(), asked.column("rank").to_numpy()[rows].tolist()
