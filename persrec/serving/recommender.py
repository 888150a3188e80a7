"""The Recommender: a finished run that answers with items, in the user's own ids.

Shapes: B users, V items.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec import datasets
from persrec import recipe as recipes
from persrec import run as runs
from persrec.batches import evaluation_windows
from persrec.constants import PAD
from persrec.datasets import table
from persrec.errors import UserError
from persrec.evaluation import Read, item_vectors, read_users
from persrec.indexes import INDEXES, Index
from persrec.interactions import filters, sequences
from persrec.interactions.schema import ITEM, TIME, USER
from persrec.models.build import build
from persrec.models.model import Model
from persrec.prepared import Prepared
from persrec.recipe_file import LOG_SOURCES
from persrec.rescoring import rescored_top_k
from persrec.retrieval import top_k
from persrec.seen import Seen

Say = Callable[[str], None]


class Histories(NamedTuple):
    """Users' histories in the item indices of a run; user u has events offsets[u] to offsets[u + 1]."""

    ids: pl.Series  # (B,) the users' own ids
    offsets: npt.NDArray[np.int64]  # (B+1,)
    items: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64] | None  # ms


class Recommender:
    """Recommends items to the users of the log that a run was fitted on, and to anybody whose history is given."""

    def __init__(self, *, model: Model, recipe: recipes.Recipe, item_ids: pl.Series, data: dict[str, Any]) -> None:
        """`data` says where the prepared log is (`folder`) and which one it is (`hash`)."""
        self.model, self.recipe, self.item_ids = model.eval(), recipe, item_ids
        self.data = data
        self._index: Index | None = None

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """The recommender of a run folder; raises UserError where that is incomplete, altered or of another version."""
        run = runs.load(folder)
        recipe = recipes.parse(run.recipe, f"of run {folder}")
        item_ids = pl.Series(ITEM, run.item_ids())
        model = build(recipe, items=len(item_ids))
        model.load_state_dict(run.weights())
        return cls(model=model, recipe=recipe, item_ids=item_ids, data=run.data)

    def prepared(self) -> Prepared:
        """The prepared log of the run; see `persrec.run.open_log`."""
        return runs.open_log(self.data, self.recipe.split.name)

    def recommend(
        self,
        users: Sequence[Any] | str | int | None = None,
        k: int = 10,
        *,
        histories: Any = None,
        at: int | None = None,
        say: Say = lambda sentence: None,
    ) -> pl.DataFrame:
        """The k best items of each user: `user_id, item_id, score, rank`, best first.

        `users` are ids of the run's log; `histories` instead, a file or a pandas or Polars frame of events, may hold
        users that training never saw (neither: all users of the log). `at` is when they are asked, in ms since 1970,
        and defaults to each user's last event; only `time: next` uses it. Raises UserError for unknown users, users
        without a known item, and k above the catalogue.
        """
        if users is not None and histories is not None:
            raise UserError("recommend: got both users and histories, expected one of them")
        if isinstance(users, str | int):
            users = [users]
        found = self._of_log(users) if histories is None else self._of_events(histories, say)
        self._say_when(found, at, say)
        read = self._read(found, at)
        seen = Seen.from_ranges(found.items, found.offsets[:-1], found.offsets[1:])
        if self._index is None:
            retrieval = self.recipe.retrieval
            self._index = INDEXES[retrieval.kind](item_vectors(self.model), **retrieval.options)
        evaluation = self.recipe.evaluation
        chunk = evaluation.users_per_chunk
        if read.additions is not None:
            items, scores = rescored_top_k(self._index, read.queries, read.additions, k, users_per_chunk=chunk)
        else:
            exclude = evaluation.exclude_seen
            items, scores = top_k(self._index, read.queries, seen, k, exclude_seen=exclude, users_per_chunk=chunk)
        return self._frame(found.ids, items, scores)

    def _read(self, found: Histories, at: int | None) -> Read:
        """The users in the order of `found`."""
        count = len(found.ids)
        windows = evaluation_windows(np.arange(count), np.diff(found.offsets), length=self.recipe.length)
        moment = None if at is None else np.full(count, at, dtype=np.int64)
        return read_users(self.model, found, windows, self.recipe.time, at=moment)

    def _say_when(self, found: Histories, at: int | None, say: Say) -> None:
        """What `at` means for this model, and its faults."""
        if self.recipe.time != "next":
            if at is not None:
                say(f"this model was trained with `time: {self.recipe.time}`; `at` changes nothing")
            return
        if at is None:
            say("`at` was not given: every user is asked at the time of their own last event")
            return
        last = found.times[found.offsets[1:] - 1] if found.times is not None else np.zeros(0)
        late = np.flatnonzero(last > at)
        if len(late):
            raise UserError(
                f"at: got {at}, but user {found.ids[int(late[0])]!r} has an event at {int(last[late[0]])} ms "
                f"({len(late)} of {len(found.ids)} users have later events); expected a time after every last event"
            )

    def _of_log(self, users: Sequence[Any] | None) -> Histories:
        """Histories of users of the run's log, all events included."""
        data = self.prepared()
        known = pl.Series(USER, data.user_ids())
        rows = np.arange(data.users) if users is None else _rows_of(known, users)
        starts, ends = data.offsets[rows], data.offsets[rows + 1]
        offsets = np.concatenate([[0], np.cumsum(ends - starts)])
        place = np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])
        times = None if data.times is None else data.times[place]
        return Histories(known.gather(rows), offsets, data.items[place], times)

    def _of_events(self, histories: Any, say: Say) -> Histories:
        """Histories from a file or frame of events; events of unknown items are counted and left out."""
        data = self.recipe.data
        options: dict[str, Any] = {"columns": _if_table(data), "unit": data.unit, "say": say}
        if not isinstance(histories, str | Path):
            events = table.read_frame(histories, **options)
        elif Path(histories).is_file():
            source = LOG_SOURCES.get(Path(histories).suffix, "table")
            if source == "table":
                events = table.read(Path(histories), separator=data.separator, **options)
            else:
                events = datasets.read(source, histories, say=say)
        else:
            raise UserError(f"histories: there is no file {histories}; expected a log of their events")
        if self.recipe.time != "none" and TIME not in events.collect_schema().names():
            raise UserError(
                f"histories: no timestamp column, but this model was trained with `time: {self.recipe.time}`; add the "
                "times of the events"
            )
        events = sequences.ordered(events)
        frame = self._known((filters.drop_duplicates(events) if data.deduplicate else events).collect(), say)
        lists = sequences.grouped(frame.lazy()).collect()
        offsets = np.concatenate([[0], lists["items"].list.len().to_numpy().astype(np.int64).cumsum()])
        items = lists["items"].explode().to_numpy().astype(np.int32)
        times = lists["times"].explode().to_numpy() if "times" in lists.columns else None
        return Histories(lists[USER], offsets, items, times)

    def _known(self, events: pl.DataFrame, say: Say) -> pl.DataFrame:
        """Events of items that training knew, their ids replaced by indices."""
        known = pl.DataFrame({ITEM: self.item_ids, "index": np.arange(1, len(self.item_ids) + 1, dtype=np.int32)})
        events = events.with_columns(events[ITEM].cast(self.item_ids.dtype, strict=False))
        joined = events.join(known, on=ITEM, how="left", maintain_order="left")
        unknown = int(joined["index"].null_count())
        if unknown:
            say(f"{unknown:,} of {len(joined):,} events are of items that training never saw; they are left out")
        left = joined.filter(pl.col("index").is_not_null()).drop(ITEM).rename({"index": ITEM})
        users = events[USER].unique(maintain_order=True)
        gone = users.filter(~users.is_in(left[USER].unique().implode()))
        if len(gone):
            raise UserError(
                f"histories: user {gone[0]!r} has no event of an item that this run knows ({len(gone)} such users); "
                "expected at least one; leave these users out"
            )
        return left

    def _frame(self, ids: pl.Series, items: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> pl.DataFrame:
        users, k = items.shape
        frame = pl.DataFrame(
            {
                USER: ids.gather(np.repeat(np.arange(users), k)),
                ITEM: self.item_ids.gather(np.maximum(items.ravel() - 1, 0)),
                "score": scores.ravel(),
                "rank": np.tile(np.arange(1, k + 1), users),
            }
        )
        return frame.filter(pl.Series(items.ravel() != PAD))


def _if_table(data: Any) -> dict[str, str]:
    """A table's column names hold for a file of histories too."""
    return data.columns if data.source == "table" else {}


def _rows_of(known: pl.Series, users: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Rows of users in the log; ids from a command line are strings whatever the log's are."""
    names = [str(int(user)) if isinstance(user, float) and user.is_integer() else str(user) for user in users]
    place = pl.DataFrame({USER: known.cast(pl.String), "row": np.arange(len(known))})
    wanted = pl.DataFrame({USER: pl.Series(names, dtype=pl.String)})
    rows = wanted.join(place, on=USER, how="left", maintain_order="left")["row"]
    missing = [user for user, row in zip(users, rows, strict=True) if row is None]
    if missing:
        examples = ", ".join(repr(user) for user in missing[:5])
        raise UserError(
            f"recommend: {len(missing)} of {len(users)} users are not in the run's log: {examples}; expected ids such "
            f"as {known[0]!r}; for new users give their histories"
        )
    return rows.to_numpy().astype(np.int64)
