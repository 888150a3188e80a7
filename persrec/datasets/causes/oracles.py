"""What is the next event of a log of causes? Exactly, with full knowledge and with knowledge of the last R events only.

Both oracles know the world (shares, popularities, successors, periods) and the rule of the process, and see items, in
order; not the causes, but an item belongs to one kind of cause, so its cause is seen with it (that of a shelf is a
staple for which the user was not ready). The causes are a public Markov chain, drawn without regard to anything else,
so the event before gives each its share of the next event, and the items of one cause say nothing about another. What
the last R events hold of a cause is then everything that counts (R >= 1, w = min(R, events so far)):

* session: the event before is known to both: (1 - SESSION_ENDS) successors + SESSION_ENDS landing items.
* taste: given d categories of the user seen, each has 1/TASTES, and by symmetry each other one of CATEGORIES has
  (1 - d/TASTES) / (CATEGORIES - d), however often each was seen.
* resume: the d series seen are the first d ranks in the order of their ages, and rank r has p_r. The other ranks are
  held by series that were not seen, and since the order at the beginning is uniform and ranks are drawn without regard
  to which series hold them, all of these are alike: each has (p_(d+1) + ... + p_J) / (SERIES - d).
* staple: once the user's item of a kind was seen, its age is known, and with it whether the user is ready. Else let A
  be its age at the first of the w events. It has the stationary law, P(A = a) ~ 1 up to the period p and
  (1 - s)^(a - p) beyond it, where s is the share of the kind; that no event of the w was of the kind changes nothing,
  as when kinds come depends neither on A nor on what came before. If one was of the shelf, the last such at place u
  (from 0), then A + u < p, and A is uniform on 1..p - u - 1. The user is ready now if A + w >= p. All items of the
  kind are alike.
* switched: the option shown last has 1 - SWITCHES, each other one SWITCHES / (OPTIONS - 1); where nothing of the domain
  was seen all options are alike, the stationary law.
* noise: all of its items alike, and the shelves of the kinds of staple for which the user is not ready.

With R at least the number of events so far the two are the same numbers. The oracles are not told when the next event
is: a model under `time: next` knows whether a session begins and may do a little better on session events.

Shapes: Q queries, V items of the catalogue; S series, G categories and so on as in the catalogue.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from persrec.datasets.causes.log import Events
from persrec.datasets.causes.world import (
    BLOCKS,
    BRANDS,
    BROWSING,
    CATEGORIES,
    CAUSES,
    DOMAINS,
    FIRST,
    ITEMS,
    NOISE,
    OPTIONS,
    SERIES,
    SESSION_ENDS,
    SHELF,
    STAPLES,
    SUCCESSORS,
    SWITCHES,
    TASTES,
    Floats,
    Ints,
    World,
)

CHUNK = 1024  # queries at a time
OF = {"browse": "session", "landing": "session", "series": "resume", "shelf": "staple"}
MOODS = np.array([CAUSES.index(OF.get(block, block)) for block in BLOCKS])  # of the events of each block
THINGS = {"taste": CATEGORIES, "series": SERIES, "staple": STAPLES, "switched": DOMAINS, "shelf": STAPLES}
START = {block: sum(list(THINGS.values())[:place]) for place, block in enumerate(THINGS)}  # number of the first thing


class Seen(NamedTuple):
    """The last event of each thing of a block: a category, a series, a kind of staple or shelf, a domain."""

    age: Ints  # (Q, things) events since then, 1 = it was the last one; 0 = not among the last R
    item: Ints  # (Q, things) its item, counted within the thing


class Oracle:
    """The exact predictions for a drawn log; `recent` is R, None for full knowledge."""

    def __init__(self, events: Events) -> None:
        self.events, self.world = events, World(events.settings)
        thing, self.within = _catalogue()
        self.longest = int(np.diff(events.offsets).max()) + 1
        key = self._key(events.user, thing[events.items], events.position)
        self.order = np.argsort(key)
        self.keys = key[self.order]

    def probabilities(self, user: Ints, position: Ints, recent: int | None = None) -> Floats:
        """(Q, V) of the event at `position` (from 0) of the user's history, given the events before it.

        Items in the order of `item_names`.
        """
        if recent is not None and recent < 1:
            raise ValueError(f"recent: got {recent}, expected at least 1 event, or None for full knowledge")
        known = position if recent is None else np.minimum(position, recent)
        seen = {block: self._seen(block, user, position, known) for block in THINGS}
        found = {
            "taste": self._taste(seen["taste"]),
            "series": self._resume(seen["series"]),
            "switched": self._switched(seen["switched"]),
            "noise": np.full((len(user), NOISE), 1 / NOISE),
        }
        found["staple"], found["shelf"] = self._staple(seen["staple"], seen["shelf"], known)
        found["browse"], found["landing"] = self._session(user, position)
        share = self._shares(user, position)
        blocks = zip(BLOCKS, MOODS, strict=True)
        return np.concatenate([found[name].reshape(len(user), -1) * share[:, mood, None] for name, mood in blocks], 1)

    def expected(self, user: Ints, position: Ints, recent: int | None = None, k: int = 10) -> dict[str, Floats]:
        """(Q,) NDCG@k and Recall@k that the best list with this knowledge has on average over what may come next."""
        best = [
            -np.sort(np.partition(-part, k, axis=1)[:, :k], axis=1) for part in self._chunks(user, position, recent)
        ]
        first = np.concatenate(best)  # (Q, k)
        return {f"ndcg@{k}": first @ (1 / np.log2(np.arange(2, k + 2))), f"recall@{k}": first.sum(axis=1)}

    def ranks(self, user: Ints, position: Ints, recent: int | None = None) -> Floats:
        """(Q,) the rank of the event that came, ties broken at random, the same way for the same queries.

        Items of which the same is known are many, and half of their number would leave none of them in a list.
        """
        target = self.events.items[self.events.offsets[user] + position]
        chance = np.random.default_rng([self.events.settings.seed, 2]).random(len(user))
        found: list[Floats] = []
        for part in self._chunks(user, position, recent):
            rows = slice(done := sum(map(len, found)), done + len(part))
            own = np.take_along_axis(part, target[rows, None], axis=1)
            same = np.isclose(part, own, rtol=1e-9, atol=0)
            found.append(1 + ((part > own) & ~same).sum(axis=1) + np.floor(chance[rows] * same.sum(axis=1)))
        return np.concatenate(found)

    def _chunks(self, user: Ints, position: Ints, recent: int | None) -> Iterator[Floats]:
        for start in range(0, len(user), CHUNK):
            yield self.probabilities(user[start : start + CHUNK], position[start : start + CHUNK], recent)

    def _key(self, user: Ints, thing: Ints, position: Ints) -> Ints:
        """A number in the order of user, thing, position."""
        return (user * (sum(THINGS.values()) + 1) + thing) * self.longest + position

    def _seen(self, block: str, user: Ints, position: Ints, known: Ints) -> Seen:
        thing = START[block] + np.arange(THINGS[block])
        key = self._key(user[:, None], thing, position[:, None])
        place = np.maximum(np.searchsorted(self.keys, key) - 1, 0)  # the last one before, if it is of the same thing
        age = key - self.keys[place]
        age = np.where((age >= 1) & (age <= known[:, None]), age, 0)
        return Seen(age, np.where(age > 0, self.within[self.events.items[self.order[place]]], 0))

    def _shares(self, user: Ints, position: Ints) -> Floats:
        """(Q, CAUSES) of the next event, by what the event before was."""
        before = self.events.items[self.events.offsets[user] + np.maximum(position, 1) - 1]
        block = np.searchsorted(list(FIRST.values()), before, side="right") - 1
        return self.world.after[np.where(position > 0, MOODS[block], len(CAUSES))]

    def _session(self, user: Ints, position: Ints) -> tuple[Floats, Floats]:
        browse, later = np.zeros((len(user), BROWSING)), np.flatnonzero(position > 0)
        before = self.events.items[self.events.offsets[user] + position - 1][later]
        browse[later[:, None], self.world.successors[before]] = (1 - SESSION_ENDS) * np.array(SUCCESSORS)
        ends = np.where(position > 0, SESSION_ENDS, 1.0)
        return browse, ends[:, None] * self.world.landing

    def _taste(self, seen: Seen) -> Floats:
        there = seen.age > 0  # (Q, G)
        count = there.sum(axis=1, keepdims=True)
        category = np.where(there, 1 / TASTES, (1 - count / TASTES) / (CATEGORIES - count))
        return category[..., None] * self.world.taste

    def _resume(self, seen: Seen) -> Floats:
        there = seen.age > 0  # (Q, S)
        rank = np.where(there, seen.age, self.longest).argsort(axis=1).argsort(axis=1)  # from 0, as far as seen
        law = np.pad(self.world.ranks, (0, SERIES - len(self.world.ranks)))
        mass = np.where(there, law[rank], 0)
        rest, unseen = np.maximum(1 - mass.sum(axis=1), 0), SERIES - there.sum(axis=1)
        return np.where(there, mass, (rest / np.maximum(unseen, 1))[:, None])

    def _staple(self, seen: Seen, shelf: Seen, known: Ints) -> tuple[Floats, Floats]:
        there = seen.age > 0  # (Q, kinds)
        ready = np.where(there, seen.age >= self.world.periods, self._ready(shelf.age, known[:, None]))
        item = np.zeros((*ready.shape, BRANDS))
        np.put_along_axis(item, seen.item[..., None], 1.0, axis=2)
        item = np.where(there[..., None], item, 1 / BRANDS)
        share = self.world.staple * ready
        rest = (self.world.staple - share) / SHELF
        return share[..., None] * item, np.repeat(rest[..., None], SHELF, axis=2)

    def _ready(self, shelf: Ints, known: Ints) -> Floats:
        """(Q, kinds) how probable it is that a user is ready, where the item was not seen."""
        period = self.world.periods
        most = np.where(shelf > 0, period - (known - shelf) - 1, period)  # A is uniform up to here,
        beyond = np.where(shelf > 0, 0.0, self.world.waiting)  # and all that lies beyond weighs so much
        least = np.maximum(period - known, 1)  # A from which on the user is ready
        return (np.maximum(most - least + 1, 0) + beyond) / np.maximum(
            most + beyond, 1
        )  # 0 / 0 where the item was seen

    def _switched(self, seen: Seen) -> Floats:
        same = np.arange(OPTIONS) == seen.item[..., None]  # (Q, domains, OPTIONS)
        option = np.where(same, 1 - SWITCHES, SWITCHES / (OPTIONS - 1))
        return self.world.domain[:, None] * np.where((seen.age > 0)[..., None], option, 1 / OPTIONS)


def _catalogue() -> tuple[Ints, Ints]:
    """(V,) which thing an item belongs to, one number beyond all for none, and which item of it it is."""
    thing, within = np.full(ITEMS, sum(THINGS.values())), np.zeros(ITEMS, dtype=np.int64)
    for block, count in THINGS.items():
        number = np.arange(BLOCKS[block])
        part = FIRST[block] + number
        thing[part] = START[block] + number // (BLOCKS[block] // count)
        within[part] = number % (BLOCKS[block] // count)
    return thing, within
