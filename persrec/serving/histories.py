"""Histories in the item indices of a run: of users of its log, or of a file or frame of events.

Shapes: B users, E events.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec import datasets
from persrec.datasets import table
from persrec.errors import UserError
from persrec.event_inputs import buckets_of
from persrec.interactions import filters, sequences
from persrec.interactions.schema import DWELL, EVENT, ITEM, RATING, TIME, USER, WEIGHT, shown
from persrec.prepared import Prepared
from persrec.recipe.file import LOG_SOURCES
from persrec.recipe.recipe import Recipe
from persrec.recipe.sections import MADE

Say = Callable[[str], None]
Ints = npt.NDArray[np.int64]
OneOrMore = Iterable[Any] | int | np.generic  # ids
CARRIED = ("ratings", "weights", "dwells", "events")  # fields of what events carry


class Events(NamedTuple):
    """Events of one user, in order of time; W of them, with F inputs each."""

    items: Ints  # (W,)
    times: Ints | None  # (W,) ms
    inputs: Ints  # (W, F) what the model reads beside the item; see `event_inputs`

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Events":
        """Those that are chosen (W,)."""
        return Events(self.items[chosen], None if self.times is None else self.times[chosen], self.inputs[chosen])


class Histories(NamedTuple):
    """Users' histories; user u has events offsets[u] to offsets[u + 1]."""

    ids: pl.Series  # (B,) the users' own ids
    offsets: Ints  # (B+1,)
    items: npt.NDArray[np.int32]  # (E,) 1..V
    times: Ints | None  # (E,) ms
    ratings: npt.NDArray[np.float32] | None = None  # (E,) and the others, where the model reads them
    weights: npt.NDArray[np.float32] | None = None
    dwells: npt.NDArray[np.float32] | None = None
    events: npt.NDArray[np.int16] | None = None
    inputs: tuple[str, ...] = ()  # what of an event the model reads beside the item

    def of(self, user: int) -> Events:
        """Those of one user."""
        rows = np.arange(self.offsets[user], self.offsets[user + 1])
        times = None if self.times is None else self.times[rows]
        return Events(self.items[rows].astype(np.int64), times, buckets_of(self, rows))

    def take(self, users: Ints) -> "Histories":
        """Those of some users."""
        starts, ends = self.offsets[users], self.offsets[users + 1]
        offsets = np.concatenate([[0], np.cumsum(ends - starts)])
        place = np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])
        fields = {name: getattr(self, name) for name in ("times", *CARRIED)}
        carried: dict[str, Any] = {name: None if field is None else field[place] for name, field in fields.items()}
        return Histories(self.ids.gather(users), offsets, self.items[place], **carried, inputs=self.inputs)

    def named(self, users: Sequence[Any], where: str, advice: str) -> "Histories":
        """Those of the users of these ids; raises UserError for ids that are not among them."""
        return self.take(places(self.ids, users, "users", where, advice))


def of_log(data: Prepared, inputs: tuple[str, ...] = ()) -> Histories:
    """Histories of all users of a prepared log, all events included."""
    carried = data.times, data.ratings, data.weights, data.dwells, data.events
    return Histories(pl.Series(USER, data.user_ids()), data.offsets, data.items, *carried, inputs)


def of_events(source: Any, recipe: Recipe, item_ids: pl.Series, say: Say) -> Histories:
    """Histories from a file or frame of events; events of unknown items are counted and left out.

    Users who have no other ones are left out too.
    """
    return divided(source, recipe, item_ids, say)[0]


def divided(source: Any, recipe: Recipe, item_ids: pl.Series, say: Say) -> tuple[Histories, dict[int, Any]]:
    """Histories as in `of_events`, and the users who are left out, by their places among all users."""
    given = opened(source, recipe, "histories", say)
    events = distinct(sifted(given, recipe, say), recipe)
    known = numbered(events, item_ids, say).filter(pl.col(ITEM).is_not_null())
    users = given.select(USER).unique().sort(USER).collect()[USER]  # also those of whom the filters leave nothing
    places = (~users.is_in(known[USER].unique().implode())).arg_true().to_list()
    return grouped(known, recipe.model.inputs), {place: users[place] for place in places}


def say_left_out(strange: Mapping[int, Any], known: int, say: Say) -> None:
    """Name users who are not answered, as no item of theirs is known; raises UserError where nobody else is there."""
    if not strange:
        return
    named = f"{len(strange):,} of {known + len(strange):,} users have no event of an item that this run knows"
    text = f"histories: {named}, or none that its filters keep: {examples(strange.values())}"
    if not known:
        raise UserError(f"{text}; expected somebody who has; check the item ids, or answer by --unknown popular")
    say(f"{text}; they are left out, and --unknown popular answers them by popularity")


def grouped(events: pl.DataFrame, inputs: tuple[str, ...] = ()) -> Histories:
    """Events in item indices, ordered by user, as histories."""
    lists = sequences.grouped(events.lazy()).collect()
    offsets = np.concatenate([[0], lists["items"].list.len().to_numpy().astype(np.int64).cumsum()])
    items = lists["items"].explode().to_numpy().astype(np.int32)
    there = [name for name in CARRIED if name in lists.columns]
    carried: dict[str, Any] = {name: lists[name].explode().to_numpy() for name in there}
    times = lists["times"].explode().to_numpy() if "times" in lists.columns else None
    return Histories(lists[USER], offsets, items, times, **carried, inputs=inputs)


def opened(source: Any, recipe: Recipe, what: str, say: Say) -> pl.LazyFrame:
    """The events of a file or frame in our schema; raises UserError for what cannot be read or what the model lacks."""
    if not isinstance(source, str | Path):
        events = table.read_frame(source, **_options(recipe), say=say)
    elif Path(source).exists():
        events = _file(Path(source), recipe, say)
    else:
        raise UserError(f"{what}: there is no file {source}; expected a log of their events")
    if recipe.time != "none" and TIME not in events.collect_schema().names():
        raise UserError(
            f"{what}: no timestamp column, but this model was trained with `time: {recipe.time}`; add the times of the "
            "events"
        )
    names = events.collect_schema().names()
    for name in recipe.model.inputs:
        if name not in names:
            raise UserError(f"{what}: no {name} column, but this model reads {name} (model.inputs); add one")
    return events


def sifted(events: pl.LazyFrame, recipe: Recipe, say: Say) -> pl.DataFrame:
    """What the recipe's filters leave of events, ordered by user and time; raises NoEvents where that is nothing."""
    data, names = recipe.data, events.collect_schema().names()
    held = {key: getattr(data, key) for key, name in filters.CARRIED.items() if name in names}
    section = {**filters.DEFAULTS, **held}
    kept = filters.by_value(events, section, say)
    if EVENT in recipe.model.inputs:
        kept = sequences.coded(kept, data.events or ())
    return sequences.ordered(kept).collect()


def distinct(events: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """Ordered events without exact duplicates, where the recipe drops these, and without what the model does not read.

    As in a log, what an event carries tells it from others also where the model does not read it.
    """
    if recipe.data.deduplicate and events.height > 1:  # a unique of Polars costs time, and .4 KB that stay
        events = filters.drop_duplicates(events.lazy()).collect()
    return events.drop({EVENT, RATING, WEIGHT, DWELL} - set(recipe.model.inputs), strict=False)


def carried(recipe: Recipe) -> set[str]:
    """The columns beside user, item and time that are asked for: what the model reads, and what filters look at."""
    looked_at = {name for key, name in filters.CARRIED.items() if getattr(recipe.data, key) is not None}
    return {*recipe.model.inputs, *looked_at}


def _options(recipe: Recipe) -> dict[str, Any]:
    """How the tables of a run are read."""
    data = recipe.data
    keep = [name for name in (WEIGHT, DWELL) if name in {*carried(recipe), *data.keep}]
    common = {"columns": columns_of(recipe), "unit": data.unit, "bad_rows": data.bad_rows}
    return common | {"events": bool(data.events), "keep": keep}


def _file(path: Path, recipe: Recipe, say: Say) -> pl.LazyFrame:
    """A log in the form of the one that the run was fitted on, or else in the one that its ending says."""
    own, ending = recipe.data.source, LOG_SOURCES.get(path.suffix, "table")
    if own in (*MADE, "table", ending):
        return _read(ending, path, recipe, say)
    said: list[str] = []
    try:
        found = datasets.read_section({**recipe.data.model_dump(), "path": str(path)}, say=said.append)
    except UserError as as_its_run:
        try:
            return _read(ending, path, recipe, say)
        except UserError as by_ending:
            raise UserError(
                f"{as_its_run}\n(so read as {own}, as the run's log was; as {ending}: {by_ending})"
            ) from None
    for sentence in said:
        say(sentence)
    return found


def _read(kind: str, path: Path, recipe: Recipe, say: Say) -> pl.LazyFrame:
    if kind == "table":
        return table.read(path, separator=recipe.data.separator, **_options(recipe), say=say)
    return datasets.read(kind, path, bad_rows=recipe.data.bad_rows, say=say)


def columns_of(recipe: Recipe) -> dict[str, str]:
    """The names of a table's columns, which hold for later tables too."""
    return recipe.data.columns if recipe.data.source == "table" else {}


def numbered(events: pl.DataFrame, item_ids: pl.Series, say: Say) -> pl.DataFrame:
    """The events with their items' indices, null where the run has no such item; how many these are is said."""
    known = pl.DataFrame({ITEM: item_ids, "index": np.arange(1, len(item_ids) + 1, dtype=np.int32)})
    if events[ITEM].dtype != item_ids.dtype:  # "07" is not 7
        known, events = (frame.with_columns(pl.col(ITEM).cast(pl.String)) for frame in (known, events))
    joined = events.join(known, on=ITEM, how="left", maintain_order="left").drop(ITEM).rename({"index": ITEM})
    unknown = int(joined[ITEM].null_count())
    if unknown:
        say(f"{unknown:,} of {len(joined):,} events are of items that the run does not know; they are left out")
    return joined


def ids_of(given: OneOrMore) -> list[Any]:
    """One id, or those of a list, array or series, as values of Python; "12" is one id.

    Raises:
        UserError: it is a frame.
    """
    if table.is_frame(given):
        names = table.as_polars(given).collect_schema().names()
        raise UserError(f"got a frame with the columns {shown(names)}, expected ids, as one of its columns has them")
    several = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
    return [one.item() if isinstance(one, np.generic) else one for one in several]


def plain_id(user: Any) -> str:
    """An id as text; a whole float, as pandas has them, is a whole number."""
    return str(int(user)) if isinstance(user, float) and user.is_integer() else str(user)


def places(known: pl.Series, wanted: Sequence[Any], what: str, where: str, advice: str) -> Ints:
    """Where the ids stand among those that are known; ids from a command line are strings whatever those are.

    Raises UserError that names what is unknown: `where` says where it was looked for.
    """
    place = pl.DataFrame({USER: known.cast(pl.String), "row": np.arange(len(known))})
    asked = pl.DataFrame({USER: pl.Series([plain_id(one) for one in wanted], dtype=pl.String)})
    rows = asked.join(place, on=USER, how="left", maintain_order="left")["row"]
    missing = [one for one, row in zip(wanted, rows, strict=True) if row is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(wanted)} {what} are not in {where}: {examples(missing)}; expected ids "
            f"such as {known[0]!r}; {advice}"
        )
    return rows.to_numpy().astype(np.int64)


def examples(ids: Iterable[Any]) -> str:
    """A few ids for a message."""
    return ", ".join(repr(one) for one in list(ids)[:5])
