"""The users of a log of causes, event by event; the process is described in persrec/datasets/causes/log.py.

Shapes: U users, L events of the longest log, J series of a user.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from persrec.datasets.causes.world import (
    BRANDS,
    CATEGORIES,
    CAUSES,
    DOMAINS,
    FIRST,
    LANDING,
    NOISE,
    OPTIONS,
    PER_CATEGORY,
    SERIES,
    SHELF,
    STAPLES,
    SUCCESSORS,
    SWITCHES,
    TASTES,
    Ints,
    World,
)

NEVER = -(10**9)  # the place of what was not seen yet


class Lives:
    """The events of all users: what depends on what came before a step at a time, the rest at once."""

    def __init__(
        self, random: np.random.Generator, world: World, lengths: Ints, begins: npt.NDArray[np.bool_], series: int
    ) -> None:
        self.random, self.world, self.lengths, self.begins = random, world, lengths, begins
        users, longest = begins.shape
        self.mood = self._moods(users, longest)  # (U, L)
        self.items = np.zeros((users, longest), dtype=np.int64)
        self.cause = np.full((users, longest), CAUSES.index("noise"))
        self.age = np.zeros((users, longest), dtype=np.int64)
        self.series = random.random((users, SERIES)).argsort(axis=1)[:, :series]  # (U, J) the one seen last first
        self.left = np.full((users, SERIES), NEVER)
        self.brand = random.integers(BRANDS, size=(users, STAPLES))
        self.bought = -self._stationary_ages(users)

    def live(self) -> tuple[Ints, Ints, Ints]:
        """Items, causes and ages, each (U, L); what lies beyond a user's length means nothing."""
        self._noise()
        self._taste()
        domain = self.random.choice(DOMAINS, self.mood.shape, p=self.world.domain)
        for each in range(DOMAINS):
            self._switched(each, np.nonzero(self._is("switched") & (domain == each)))
        for step in range(self.mood.shape[1]):
            there = np.searchsorted(-self.lengths, -step)  # users with more events than this
            for cause, event in (("session", self._session), ("resume", self._resume), ("staple", self._staple)):
                event(np.flatnonzero(self.mood[:there, step] == CAUSES.index(cause)), step)
        return self.items, self.cause, self.age

    def _moods(self, users: int, longest: int) -> Ints:
        """(U, L) Each event's cause, unless it turns out to be a look at a shelf."""
        bounds = np.cumsum(self.world.after, axis=1)[:, :-1]
        mood = np.full((users, longest + 1), len(CAUSES))
        drawn = self.random.random((users, longest))
        for step in range(longest):
            mood[:, step + 1] = (drawn[:, step, None] > bounds[mood[:, step]]).sum(axis=1)
        return mood[:, 1:]

    def _is(self, cause: str) -> npt.NDArray[np.bool_]:
        return self.mood == CAUSES.index(cause)

    def _write(self, where: Any, cause: str, items: Ints, age: Ints | int) -> None:
        self.items[where], self.cause[where], self.age[where] = items, CAUSES.index(cause), age

    def _noise(self) -> None:
        where = np.nonzero(self._is("noise"))
        drawn = self.random.integers(NOISE, size=len(where[0]))
        self._write(where, "noise", FIRST["noise"] + drawn, 0)

    def _taste(self) -> None:
        where = np.nonzero(self._is("taste"))
        own = self.random.random((len(self.mood), CATEGORIES)).argsort(axis=1)[:, :TASTES]
        category = own[where[0], self.random.integers(TASTES, size=len(where[0]))]
        bounds = np.cumsum(self.world.taste, axis=1)[category]
        drawn = (self.random.random(len(category))[:, None] > bounds[:, :-1]).sum(axis=1)
        item = FIRST["taste"] + category * PER_CATEGORY + drawn
        self._write(where, "taste", item, _since(where[0] * CATEGORIES + category, where[1]))

    def _switched(self, domain: int, where: tuple[Ints, ...]) -> None:
        changes = self.random.random(len(where[0])) < SWITCHES
        steps = np.where(changes, self.random.integers(1, OPTIONS, len(changes)), 0)
        start = self.random.integers(OPTIONS, size=len(self.mood))[where[0]]
        option = (start + np.cumsum(steps)) % OPTIONS  # over users as well: the start is uniform
        item = FIRST["switched"] + domain * OPTIONS + option
        self._write(where, "switched", item, np.where(changes, 0, _since(where[0], where[1])))

    def _session(self, user: Ints, step: int) -> None:
        begins = self.begins[user, step] | (step == 0)
        before = self.items[user, step - 1]
        turn = self.random.choice(len(SUCCESSORS), len(user), p=SUCCESSORS)
        landing = FIRST["landing"] + self.random.choice(LANDING, len(user), p=self.world.landing)
        item = np.where(begins, landing, self.world.successors[before, turn])
        self._write((user, step), "session", item, np.where(begins, 0, 1))

    def _resume(self, user: Ints, step: int) -> None:
        rank = self.random.choice(self.series.shape[1], len(user), p=self.world.ranks)
        series = self.series[user, rank]
        age = step - self.left[user, series]
        self._write((user, step), "resume", FIRST["series"] + series, np.where(age > step, 0, age))
        self.left[user, series] = step
        later = np.arange(self.series.shape[1]) <= rank[:, None]  # those it passes by move back by one
        self.series[user] = np.where(later, np.roll(self.series[user], 1, axis=1), self.series[user])
        self.series[user, 0] = series

    def _staple(self, user: Ints, step: int) -> None:
        kind = self.random.choice(STAPLES, len(user), p=self.world.staple)
        age = step - self.bought[user, kind]
        ready = age >= self.world.periods[kind]
        shelf = FIRST["shelf"] + kind * SHELF + self.random.integers(SHELF, size=len(user))
        self._write((user, step), "noise", shelf, 0)
        user, kind, age = user[ready], kind[ready], age[ready]
        item = FIRST["staple"] + kind * BRANDS + self.brand[user, kind]
        self._write((user, step), "staple", item, np.where(age > step, 0, age))
        self.bought[user, kind] = step

    def _stationary_ages(self, users: int) -> Ints:
        """(U, STAPLES) events since an item was last bought, seen from before the first event."""
        periods, waiting = self.world.periods, self.world.waiting
        early = self.random.random((users, STAPLES)) * (periods + waiting) < periods
        within = self.random.integers(1, periods + 1, (users, STAPLES))
        return np.where(early, within, periods + self.random.geometric(1 / (1 + waiting), (users, STAPLES)))


def _since(key: Ints, step: Ints) -> Ints:
    """(N,) steps since the same key occurred; 0 = never. Keys may be mixed, but each has its steps in order."""
    order = np.argsort(key, kind="stable")
    same = np.concatenate([[False], key[order[1:]] == key[order[:-1]]])
    found = np.zeros(len(key), dtype=np.int64)
    found[order] = np.where(same, np.diff(step[order], prepend=0), 0)
    return found
