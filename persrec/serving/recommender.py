"""The Recommender: a finished run that answers with items, in the user's own ids, and keeps users up to date.

Shapes: B users, V items, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec import run as runs
from persrec.batches import evaluation_windows
from persrec.errors import UserError
from persrec.evaluation.evaluate import item_vectors, read_users
from persrec.interactions.schema import ITEM, USER
from persrec.models.build import restored
from persrec.models.model import Model
from persrec.moments import milliseconds
from persrec.prepared import Prepared
from persrec.recipe import recipe as recipes
from persrec.retrieval.indexes import INDEXES, Index
from persrec.retrieval.seen import Membership, Seen
from persrec.serving import adoption, lists, writing
from persrec.serving import histories as logs
from persrec.serving.adoption import Adapter
from persrec.serving.answers import ROW, Known, best, discounting, nearest, popular, scores, together
from persrec.serving.features import features
from persrec.serving.filters import Filtered
from persrec.serving.histories import Histories, OneOrMore, Say, ids_of
from persrec.serving.packing import Record
from persrec.serving.states import ask, keeping_of
from persrec.serving.store import Store
from persrec.serving.updates import Update
from persrec.serving.users import Users, about, opened, parts, stats

POPULAR = "popular"  # how users are answered whom nobody knows, where that is asked for
NEW = "for new users give their histories, or ask for `unknown` popular"
WHOLE = "give by `log` a log of all that the store has taken in of them"


def _silent(sentence: str) -> None:
    """Say nothing."""


class Recommender:
    """Recommends items to the users of a store or of the log that a run was fitted on, and to anybody whose history
    is given; with a store it also takes in new events. A Recommender that has written keeps others from writing to its
    store until it is closed."""

    def __init__(
        self,
        *,
        model: Model,
        recipe: recipes.Recipe,
        item_ids: pl.Series,
        data: dict[str, Any],
        store: str | Path | None = None,
    ) -> None:
        """`data` says where the prepared log is (`folder`) and which one it is (`hash`)."""
        self.model, self.recipe, self.item_ids = model.eval(), recipe, item_ids
        self.data, self.store = data, None if store is None else Path(store)
        self._prepared: Prepared | None = None
        self._index: Index | None = None
        self._users: Users | None = None

    @classmethod
    def load(cls, folder: str | Path, store: str | Path | None = None) -> Self:
        """The recommender of a run folder; raises UserError where that is incomplete, altered or of another version.

        With a `store`, a folder, users are those that it holds.
        """
        if not isinstance(folder, str | Path):
            raise UserError(f"Recommender.load: got {type(folder).__name__}, expected the folder of a run")
        run = runs.load(folder)
        recipe = recipes.parse(run.recipe, f"of run {folder}")
        item_ids = pl.Series(ITEM, run.item_ids())
        model = restored(recipe, run.weights(), items=len(item_ids))
        model.compressor.maker = model.maker()  # type: ignore[attr-defined]
        return cls(model=model, recipe=recipe, item_ids=item_ids, data=run.data, store=store)

    def prepared(self) -> Prepared:
        """The prepared log of the run, checked and opened once; see `persrec.run.open_log`."""
        if self._prepared is None:
            self._prepared = runs.open_log(self.data, self.recipe.split.name)
        return self._prepared

    def recommend(
        self,
        users: OneOrMore | None = None,
        k: int = 10,
        *,
        histories: Any = None,
        at: Any = None,
        allow: OneOrMore | None = None,
        block: OneOrMore | None = None,
        unknown: str | None = None,
        slots: bool = False,
        say: Say = _silent,
    ) -> pl.DataFrame:
        """The k best items of each user: `user_id, item_id, score, rank`, best first.

        `users` are ids of the store, or without one of the run's log; `histories` instead, a file or a pandas or Polars
        frame of events, may hold users that training never saw (neither: everybody). `at` is when they are asked (ms
        since 1970, ISO 8601 or a datetime), and defaults to each user's last event; only `time: next` uses it.

        Only items of the list `allow` are recommended, and none of `block`; among them the best are found, so users get
        k items where there are as many. With `unknown` popular, ids of `users` that nobody has get the items with the
        most events in the log, which are their scores, and so do users of `histories` without a known item, who are
        left out otherwise. With `slots` the newest tokens of a stored memory are queries as
        well, and the best score of an item counts, so that a list may serve several interests; only for models trained
        with `memory.future_set`. Raises UserError for unknown users otherwise, histories without any known item,
        lists that leave no item, and k above the catalogue.
        """
        if slots:
            self._check_slots(histories)
        items = lists.chosen(self.item_ids, allow, block, say)
        at = None if at is None else milliseconds(at)
        named, given, strange = self._asked(users, histories, unknown, say)
        done, frames = 0, []
        for one in self._known(named, given, at, say, k=k, slots=slots):
            found = best(one, k, self._catalogue(), self.recipe, self.item_ids, items)
            frames.append(found.with_columns(pl.col(ROW) + done))
            done += len(one.ids)
        answers = together(frames)
        _say_who_gets_nothing(answers, done, say)
        if not strange:
            return answers.drop(ROW)
        order = np.append(np.setdiff1d(np.arange(done + len(strange)), list(strange)), list(strange))
        others = popular(self._ids_like_the_logs(list(strange.values())), k, self._events(), self.item_ids, items)
        both = together([answers, others.with_columns(pl.col(ROW) + done)])
        return both.with_columns(pl.Series(ROW, order[both[ROW].to_numpy()])).sort(ROW, "rank").drop(ROW)

    def similar(self, items: OneOrMore, k: int = 10) -> pl.DataFrame:
        """The k items most like each item, by the cosine of their vectors: `item_id, similar, score, rank`, best first.

        An item is not like itself. Raises UserError for unknown items, items without a text where items are texts
        alone, and k above the catalogue.
        """
        advice = "a model knows the items that it was fitted on"
        item = 1 + logs.places(self.item_ids, ids_of(items), "items", "the run's catalogue", advice)
        vectors = self._catalogue().vectors
        blank = self.item_ids.gather(item[~vectors[item].any(axis=1)] - 1)
        if len(blank):
            raise UserError(
                f"similar: {len(blank)} of {len(item)} items have no text, and so nothing by which others are like "
                f"them: {logs.examples(blank)}; leave them out"
            )
        return nearest(item, k, vectors, self.item_ids)

    def score(
        self,
        users: OneOrMore | None,
        candidates: OneOrMore | Mapping[Any, OneOrMore] | Any,
        *,
        histories: Any = None,
        at: Any = None,
        say: Say = _silent,
    ) -> pl.DataFrame:
        """Scores of candidates, the same ones for all users or by user: `user_id, item_id, score`, as they stand.

        By user they are a mapping, or a file or frame with a row for each pair of `user_id` and `item_id`, whose order
        the scores keep. Scores are those of `recommend`, seen items or not. With `histories`, candidates by user are of
        their users; who has none is left out. Raises UserError that names unknown users and items.
        """
        at = None if at is None else milliseconds(at)
        pairs = lists.by_user(candidates)
        by_user = None if pairs is None else pairs.by_user
        if by_user is not None and users is not None:
            raise UserError("score: got both users and candidates by user, expected None for the users")
        if by_user is not None and histories is None:
            users = list(by_user)
        named, given, _ = self._asked(users, histories, None, say)
        if by_user is not None and given is not None:
            advice = "give events of theirs with items that the run knows, or leave them out"
            given = given.named(ids_of(by_user), "the histories", advice)
        listed = None if by_user is None else [ids_of(items) for items in by_user.values()]
        same = ids_of(candidates) if by_user is None else []
        catalogue = pl.Series(self.item_ids)
        done, found = 0, []
        for known in self._known(named, given, at, say):
            own = [same] * len(known.ids) if listed is None else listed[done : done + len(known.ids)]
            counts = np.array([len(items) for items in own], dtype=np.int64)
            flat = [item for items in own for item in items]
            advice = "leave them out: a model knows the items that it was fitted on"
            item = 1 + logs.places(catalogue, flat, "candidates", "the run's catalogue", advice)
            user = np.repeat(np.arange(len(counts)), counts)
            frame = {USER: known.ids.gather(user), ITEM: catalogue.gather(item - 1)}
            found.append(pl.DataFrame({**frame, "score": scores(known, user, item, self._catalogue().vectors)}))
            done += len(counts)
        answers = together(found)
        return answers if pairs is None or pairs.rows is None else answers[np.argsort(pairs.rows)]

    def memory(self, users: OneOrMore | None = None, *, at: Any = None) -> pl.DataFrame:
        """What is kept of users, as features for another model.

        `user_id`; `events`, all that they have had, and `folded`, of these; `last`, ms; `query`, the numbers that are
        matched against item vectors; `rows`, a list of the memory's rows, oldest first, each the numbers of all stored
        planes, one after the other.
        """
        at = None if at is None else milliseconds(at)
        found = []
        for names, records in self._records(_listed(users)):
            self._say_when(self._open().series(names), _last(records), at, _silent)
            queries = ask(self.model, self._open().keeping, records, at).queries
            found.append(features(self._open().series(names), records, queries, self._open().keeping.layout))
        return together(found)

    def compress(
        self,
        log: Any = None,
        *,
        raw: bool = False,
        seen_rate: float | None = None,
        say: Say = _silent,
        done: writing.Done = None,
    ) -> Update:
        """Make the store of the run's log, or of a file or frame of events; goes on where it was interrupted.

        `raw` keeps the events and no memory: exact, but they are folded again at each read. With `seen_rate` seen
        items are kept as a filter, which takes such a share of other items for seen. `done` is told how many users of
        how many are done. Raises UserError for a store of something else.
        """
        found = self._log(log, say)
        source = self.data["hash"] if log is None else writing.source_of(log, logs.columns_of(self.recipe))
        if self.store is not None and not Store.there(self.store):
            self.close()
            user_type = found.ids.dtype
            options: dict[str, Any] = {"raw": raw, "seen_rate": seen_rate}
            self._users = writing.make(self.store, self.model, self.recipe, self.item_ids, user_type, **options)
        users = self._open(write=True)
        kept = users.keeping
        if (raw and not kept.raw) or (seen_rate or kept.layout.rate) != kept.layout.rate:
            raise UserError(
                f"store {self.store}: was made without raw={raw}, seen_rate={seen_rate}; leave these out to go on with "
                "it, or choose another folder"
            )
        return writing.compress(users, found, source, done=done)

    def update(self, events: Any, *, rows: int = writing.ROWS, say: Say = _silent, done: writing.Done = None) -> Update:
        """Put new events, a file or frame, into the store, and fold what is complete.

        Of a file, `rows` events at a time are committed together with how far it has been read: a file that was
        interrupted is gone on with, one that is done is not applied again. What became of the events is counted; a
        frame without rows has none.
        """
        return writing.update(self._open(write=True), events, rows=rows, say=say, done=done)

    def forget(self, user: Any) -> None:
        """Remove all that the store has of a user; `store compact` also takes the free pages out of the file."""
        users = self._open(write=True)
        (name,) = users.ids([user])
        users.known([name])
        users.write({name: None})

    def forget_event(
        self, user: Any, item: Any, timestamp: int | None = None, *, log: Any = None, say: Say = _silent
    ) -> None:
        """Make a user's record anew from a log without one event (`timestamp` in ms, where the log has times).

        `log`, by default the run's, must hold all that the store has taken in of the user.
        """
        users = self._open(write=True)
        (name,) = users.ids([user])
        advice = "a model knows the items that it was fitted on"
        index = 1 + int(logs.places(self.item_ids, [item], "items", "the run's catalogue", advice)[0])
        writing.forget_event(users, name, index, timestamp, self._named(log, [user], say, WHOLE))

    def rebuild(self, users: OneOrMore, log: Any = None, *, say: Say = _silent) -> None:
        """Make the records of users anew from a log, by default the run's."""
        writing.rebuild(self._open(write=True), self._named(log, ids_of(users), say, WHOLE))

    def adopt(
        self, old: "Recommender", log: Any = None, *, users: int = 2000, say: Say = _silent, done: writing.Done = None
    ) -> Adapter:
        """Make this store of that of an earlier model by mapping its memories, and say how well that works.

        The map is learned from the histories of `users` users of a log, by default the run's; see `serving.adoption`.
        Raises UserError where the models do not fold the same segments, and where this store is there already.
        """
        if not isinstance(old, Recommender):
            raise UserError(f"adopt: got {type(old).__name__}, expected the Recommender of the old model and its store")
        before = old._open()
        if self.store is None or Store.there(self.store):
            raise UserError(
                f"adopt: got store {self.store}, expected the folder of a store that is not there yet; choose another, "
                "or delete one that an interrupted `adopt` has left"
            )
        writing.check_complete(before.store)
        options: dict[str, Any] = {"raw": before.keeping.raw, "seen_rate": before.keeping.layout.rate or None}
        keeping = keeping_of(self.model, self.recipe, **options)
        own = adoption.Side(self.model, keeping, self.item_ids, about(self.model, self.recipe, self.item_ids, keeping))
        adapter = adoption.fit(adoption.side_of(before), own, self._log(log, say), users)
        options["adopted"] = True
        self._users = writing.make(self.store, self.model, self.recipe, self.item_ids, before.dtype, **options)
        left_out = adoption.adopt(before, self._users, adapter, done)
        if left_out:
            say(
                f"adopt: {left_out:,} users are left out, as the new model knows no item of their open events; "
                "`rebuild` makes them from a log"
            )
        return adapter._replace(left_out=left_out)

    def stats(self) -> dict[str, Any]:
        """Users and bytes of the store."""
        return stats(self._open().store)

    def close(self) -> None:
        """Let go of the store."""
        if self._users is not None:
            self._users.store.close()
        self._users = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _log(self, log: Any, say: Say) -> Histories:
        """The histories of a file or frame of events, or of the run's log."""
        if log is None:
            return logs.of_log(self.prepared(), self.recipe.model.inputs)
        return logs.of_events(log, self.recipe, self.item_ids, say)

    def _named(self, log: Any, users: Sequence[Any], say: Say, advice: str) -> Histories:
        """Those of some users."""
        where = "the run's log" if log is None else "the log"
        return self._log(log, say).named(users, where, advice)

    def _open(self, *, write: bool = False) -> Users:
        """The users of the store; raises UserError where there is none."""
        if self.store is None:
            raise UserError("this needs a store: Recommender.load(RUN, store=FOLDER), or --store FOLDER")
        if self._users is not None and write and not self._users.store.writable:
            self.close()
        if self._users is None:
            self._users = opened(self.store, self.model, self.recipe, self.item_ids, write=write)
        return self._users

    def _asked(
        self, users: OneOrMore | None, histories: Any, unknown: str | None, say: Say
    ) -> tuple[list[Any] | None, Histories | None, dict[int, Any]]:
        """Users who are known, or their histories, and by their places those who are not, where these are answered."""
        listed = _listed(users)
        if listed is not None and histories is not None:
            raise UserError("users: got both users and histories, expected one of them; leave the other out")
        if unknown not in (None, POPULAR) or (unknown is not None and listed is None and histories is None):
            raise UserError(
                f"unknown: got {unknown!r}, expected {POPULAR!r} beside users named by their ids or histories, or "
                "None, which refuses ids that nobody has and leaves out histories without a known item"
            )
        if histories is not None:
            found, strange = logs.divided(histories, self.recipe, self.item_ids, say)
            if unknown is None:
                logs.say_left_out(strange, len(found.ids), say)
            return None, found, {} if unknown is None else strange
        if unknown is None or listed is None:
            return listed, None, {}
        named, strange = self._strangers(listed)
        return named, None, strange

    def _strangers(self, listed: Sequence[Any]) -> tuple[list[Any], dict[int, str]]:
        """Users who are known, and by their places those who are not."""
        if self.store is None:
            ids = set(pl.Series(self.prepared().user_ids()).cast(pl.String))
            there = [logs.plain_id(one) in ids for one in listed]
        else:
            there = [record is not None for record in self._open().find(self._open().ids(listed))]
        strange = {place: logs.plain_id(one) for place, one in enumerate(listed) if not there[place]}
        return [one for place, one in enumerate(listed) if there[place]], strange

    def _ids_like_the_logs(self, names: Sequence[Any]) -> pl.Series:
        """Ids of users as the log's or the store's are, where they can be."""
        kind = self._open().dtype if self.store is not None else pl.Series(self.prepared().user_ids()).dtype
        ids = pl.Series(USER, names, strict=False)
        alike = ids.cast(kind, strict=False)
        return alike if alike.cast(pl.String).eq_missing(ids.cast(pl.String)).all() else ids  # "07" is not 7

    def _events(self) -> npt.NDArray[np.int64]:
        """(V,) events of each item in the log; 0 for those that were added since."""
        events = np.zeros(len(self.item_ids), dtype=np.int64)
        known = self.prepared().events_per_item[1:]
        events[: len(known)] = known
        return events

    def _check_slots(self, histories: Any) -> None:
        """Raise UserError where tokens are no queries."""
        memory, evaluation = self.recipe.memory, self.recipe.evaluation
        kept = f"history {self.recipe.history}, memory.kind {memory.kind}"
        if self.recipe.history != "compressed" or memory.kind not in ("layered", "recurrent") or not memory.future_set:
            raise UserError(
                f"slots: got a model with {kept} and memory.future_set {memory.future_set}; expected tokens that were "
                "asked for later items: fit with history compressed, kind layered or recurrent, and future_set above 0"
            )
        if self.store is None or histories is not None:
            raise UserError(
                "slots: got no store, or histories; slots are read from stored memories: persrec compress makes them"
            )
        if self.model.repeat is not None or evaluation.seen_odds is not None:
            raise UserError(
                "slots: got a model with `repeat: head`, or evaluation.seen_odds; expected neither: what they add is "
                "known for the query of the last event only"
            )

    def _known(
        self,
        users: list[Any] | None,
        histories: Histories | None,
        at: int | None,
        say: Say,
        *,
        k: int = 0,
        slots: bool = False,
    ) -> Iterator[Known]:
        """Some users after the other, to be asked for k items; at least one part, which may be empty."""
        if self.store is None or histories is not None:
            found = histories
            if found is None:
                found = self._log(None, say) if users is None else self._named(None, users, say, NEW)
            last = None if found.times is None else found.times[found.offsets[1:] - 1]
            self._say_when(found.ids, last, at, say)
            yield self._discounted(self._of_histories(found, at))
            return
        told = False
        for names, records in self._records(users):
            self._say_when(self._open().series(names), _last(records), at, _silent if told else say)
            yield self._discounted(self._of_records(self._open().series(names), records, at, k=k, slots=slots))
            told = True

    def _discounted(self, known: Known) -> Known:
        return discounting(known, self.recipe, self.model.fixed_temperature)

    def _records(self, users: list[Any] | None) -> Iterator[tuple[Sequence[Any], list[Record]]]:
        """Ids and records of users of the store, some after the other; at least one part."""
        opened_users = self._open()
        names = opened_users.all() if users is None else opened_users.ids(users)
        for part in parts(names) if names else [[]]:
            yield part, opened_users.known(part)

    def _of_histories(self, found: Histories, at: int | None) -> Known:
        """By the whole histories."""
        count = len(found.ids)
        windows = evaluation_windows(np.arange(count), np.diff(found.offsets), length=self.recipe.length)
        moment = None if at is None else np.full(count, at, dtype=np.int64)
        read = read_users(self.model, found, windows, self.recipe.time, at=moment)
        seen = Seen.from_ranges(found.items, found.offsets[:-1], found.offsets[1:])
        return Known(found.ids, read.queries, read.additions, seen)

    def _of_records(self, ids: pl.Series, records: list[Record], at: int | None, *, k: int, slots: bool) -> Known:
        """By memories and open blocks."""
        asked = ask(self.model, self._open().keeping, records, at, with_slots=slots)
        if self._open().keeping.layout.keeps == "filter":
            filters = [record.filter for record in records if record.filter is not None]
            seen: Membership = Filtered(filters, [record.items for record in records], k)
        else:
            seen = Seen.from_lists([np.concatenate([record.past.item, record.items]) for record in records])
        return Known(ids, asked.queries, asked.additions, seen, asked.slots)

    def _catalogue(self) -> Index:
        """What searches the items; made once."""
        if self._index is None:
            retrieval = self.recipe.retrieval
            self._index = INDEXES[retrieval.kind](item_vectors(self.model), **retrieval.options)
        return self._index

    def _say_when(self, ids: pl.Series, last: npt.NDArray[np.int64] | None, at: int | None, say: Say) -> None:
        """What `at` means for this model, and its faults."""
        if self.recipe.time != "next":
            if at is not None:
                say(f"this model was trained with `time: {self.recipe.time}`; `at` changes nothing")
            return
        if at is None:
            say("`at` was not given: every user is asked at the time of their own last event")
            return
        late = np.flatnonzero(np.zeros(0) if last is None else last > at)
        if last is not None and len(late):
            raise UserError(
                f"at: got {at}, but user {ids[int(late[0])]!r} has an event at {int(last[late[0]])} ms "
                f"({len(late)} of {len(ids)} users have later events); expected a time after every last event"
            )


def _say_who_gets_nothing(answers: pl.DataFrame, users: int, say: Say) -> None:
    """How many of the users, who are numbered, get no item."""
    none = users - answers[ROW].n_unique()
    if none:
        say(f"{none:,} of {users:,} users get no item: all are seen, blocked or not allowed")


def _listed(users: OneOrMore | None) -> list[Any] | None:
    return None if users is None else ids_of(users)


def _last(records: Sequence[Record]) -> npt.NDArray[np.int64]:
    """When each user had the last event; 0 in a log without times."""
    return np.array([record.last or 0 for record in records], dtype=np.int64)
