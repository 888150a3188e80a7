"""What is the next event of a log of causes? Exactly, with full knowledge and with knowledge of the last R events only.

Both oracles know the world (shares, popularities, successors, periods) and the rule of the process, and see items, in
order; not the causes, but an item belongs to one kind of cause, so its cause is seen with it. The causes of the events
are drawn independently, so each has its public share of the next event, and the items of one cause say nothing about
another. What the last R events hold of a cause is then everything that counts (R >= 1, w = min(R, events so far)):

* session: the event before is known to both: (1 - SESSION_ENDS) successors + SESSION_ENDS landing items.
* taste: given d categories of the user seen, each has 1/TASTES, and by symmetry each other one of CATEGORIES has
  (1 - d/TASTES) / (CATEGORIES - d), however often each was seen.
* resume: let a_1 < ... < a_d be the ages of the series seen, F the law of the idle time that is drawn. The first
  series idle for as long as drawn is i with probability F(a_i) - F(a_(i-1)), which asks for nothing older than a_i. The
  rest, 1 - F(a_d), goes to a series that was not seen, begun or not; all that were not seen are alike, at any of their
  items, as where a user begins is uniform. If d is all the user follows, the oldest of them has the rest.
* staple: once the user's item of a kind was seen, its age is known, and with it whether the user is ready. Else let A
  be its age at the first of the w events. It has the stationary law, P(A = a) ~ 1 up to the period p and
  (1 - s)^(a - p) beyond it, where s is the share of the kind; that no event of the w was of the kind changes nothing,
  as the causes do not depend on A. If one was of the shelf, the last such at place u (from 0), then A + u < p, and A
  is uniform on 1..p - u - 1. The user is ready now if A + w >= p. All items of the kind are alike.
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
    CATEGORIES,
    DOMAINS,
    EPISODES,
    FIRST,
    IDLE,
    ITEMS,
    LANDING,
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
            "browse": np.zeros((len(user), BLOCKS["browse"])),
            "landing": np.zeros((len(user), LANDING)),
            "taste": self._taste(seen["taste"]),
            "series": self._resume(seen["series"]),
            "switched": self._switched(seen["switched"]),
            "noise": np.full((len(user), NOISE), self.world.share["noise"] / NOISE),
        }
        found["staple"], found["shelf"] = self._staple(seen["staple"], seen["shelf"], known)
        self._session(found["browse"], found["landing"], user, position)
        return np.concatenate([found[block].reshape(len(user), -1) for block in BLOCKS], axis=1)

    def expected(self, user: Ints, position: Ints, recent: int | None = None, k: int = 10) -> dict[str, Floats]:
        """(Q,) NDCG@k and Recall@k that the best list with this knowledge has on average over what may come next."""
        best = [
            -np.sort(np.partition(-part, k, axis=1)[:, :k], axis=1) for part in self._chunks(user, position, recent)
        ]
        first = np.concatenate(best)  # (Q, k)
        return {f"ndcg@{k}": first @ (1 / np.log2(np.arange(2, k + 2))), f"recall@{k}": first.sum(axis=1)}

    def ranks(self, user: Ints, position: Ints, recent: int | None = None) -> Floats:
        """(Q,) the rank of the event that came, ties counted half, as in `persrec.metrics`."""
        target = self.events.items[self.events.offsets[user] + position]
        found: list[Floats] = []
        for part in self._chunks(user, position, recent):
            own = np.take_along_axis(part, target[sum(map(len, found)) :][: len(part), None], axis=1)
            same = np.isclose(part, own, rtol=1e-9, atol=0)
            found.append(1 + ((part > own) & ~same).sum(axis=1) + (same.sum(axis=1) - 1) / 2)
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

    def _session(self, browse: Floats, landing: Floats, user: Ints, position: Ints) -> None:
        share, later = self.world.share["session"], np.flatnonzero(position > 0)
        before = self.events.items[self.events.offsets[user] + position - 1][later]
        browse[later[:, None], self.world.successors[before]] = share * (1 - SESSION_ENDS) * np.array(SUCCESSORS)
        ends = np.where(position > 0, SESSION_ENDS, 1.0)
        landing[:] = share * ends[:, None] * self.world.landing

    def _taste(self, seen: Seen) -> Floats:
        there = seen.age > 0  # (Q, G)
        count = there.sum(axis=1, keepdims=True)
        category = np.where(there, 1 / TASTES, (1 - count / TASTES) / (CATEGORIES - count))
        return self.world.share["taste"] * category[..., None] * self.world.taste

    def _resume(self, seen: Seen) -> Floats:
        there = seen.age > 0  # (Q, S)
        law = np.clip(np.log(np.maximum(seen.age, 1) / IDLE[0]) / np.log(IDLE[1] / IDLE[0]), 0, 1)
        order = np.argsort(law, axis=1, kind="stable")  # those not seen have 0, and so add nothing
        mass = np.zeros_like(law)
        np.put_along_axis(mass, order, np.diff(np.take_along_axis(law, order, axis=1), axis=1, prepend=0), axis=1)
        rest, count = 1 - law.max(axis=1), there.sum(axis=1)
        every = count == self.events.settings.series
        mass[every, seen.age[every].argmax(axis=1)] += rest[every]
        mass = np.where(there | every[:, None], mass, (rest / (SERIES - count * ~every))[:, None])
        known = np.zeros((*mass.shape, EPISODES))
        np.put_along_axis(known, ((seen.item + 1) % EPISODES)[..., None], 1.0, axis=2)
        return self.world.share["resume"] * mass[..., None] * np.where(there[..., None], known, 1 / EPISODES)

    def _staple(self, seen: Seen, shelf: Seen, known: Ints) -> tuple[Floats, Floats]:
        there = seen.age > 0  # (Q, kinds)
        ready = np.where(there, seen.age >= self.world.periods, self._ready(shelf.age, known[:, None]))
        item = np.zeros((*ready.shape, BRANDS))
        np.put_along_axis(item, seen.item[..., None], 1.0, axis=2)
        item = np.where(there[..., None], item, 1 / BRANDS)
        share = self.world.staples * ready
        rest = (self.world.staples - share) / SHELF
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
        return self.world.domains[:, None] * np.where((seen.age > 0)[..., None], option, 1 / OPTIONS)


def _catalogue() -> tuple[Ints, Ints]:
    """(V,) which thing an item belongs to, one number beyond all for none, and which item of it it is."""
    thing, within = np.full(ITEMS, sum(THINGS.values())), np.zeros(ITEMS, dtype=np.int64)
    for block, count in THINGS.items():
        number = np.arange(BLOCKS[block])
        part = FIRST[block] + number
        thing[part] = START[block] + number // (BLOCKS[block] // count)
        within[part] = number % (BLOCKS[block] // count)
    return thing, within
