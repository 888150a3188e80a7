"""The users of a log of causes, event by event; the process is described in persrec/datasets/causes.py.

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
    EPISODES,
    FIRST,
    IDLE,
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
        self.kind = random.choice(len(world.kinds), (users, longest), p=world.kinds)  # (U, L)
        self.items = np.zeros((users, longest), dtype=np.int64)
        self.cause = np.full((users, longest), CAUSES.index("noise"))
        self.age = np.zeros((users, longest), dtype=np.int64)
        self.series = random.random((users, SERIES)).argsort(axis=1)[:, :series]  # (U, J)
        self.episode = random.integers(EPISODES, size=(users, series))  # the next one
        self.left = np.full((users, series), NEVER)
        self.brand = random.integers(BRANDS, size=(users, STAPLES))
        self.bought = -self._stationary_ages(users)

    def live(self) -> tuple[Ints, Ints, Ints]:
        """Items, causes and ages, each (U, L); what lies beyond a user's length means nothing."""
        self._noise()
        self._taste()
        for domain in range(DOMAINS):
            self._switched(domain)
        for step in range(self.kind.shape[1]):
            there = np.searchsorted(-self.lengths, -step)  # users with more events than this
            kind = self.kind[:there, step]
            self._session(np.flatnonzero(kind == 0), step)
            self._resume(np.flatnonzero(kind == 2), step)
            self._staple(np.flatnonzero((kind >= 4) & (kind < 4 + STAPLES)), step)
        return self.items, self.cause, self.age

    def _write(self, where: Any, cause: str, items: Ints, age: Ints | int) -> None:
        self.items[where], self.cause[where], self.age[where] = items, CAUSES.index(cause), age

    def _noise(self) -> None:
        where = np.nonzero(self.kind == 3)
        drawn = self.random.integers(NOISE, size=len(where[0]))
        self._write(where, "noise", FIRST["noise"] + drawn, 0)

    def _taste(self) -> None:
        where = np.nonzero(self.kind == 1)
        own = self.random.random((len(self.kind), CATEGORIES)).argsort(axis=1)[:, :TASTES]
        category = own[where[0], self.random.integers(TASTES, size=len(where[0]))]
        bounds = np.cumsum(self.world.taste, axis=1)[category]
        drawn = (self.random.random(len(category))[:, None] > bounds[:, :-1]).sum(axis=1)
        item = FIRST["taste"] + category * PER_CATEGORY + drawn
        self._write(where, "taste", item, _since(where[0] * CATEGORIES + category, where[1]))

    def _switched(self, domain: int) -> None:
        where = np.nonzero(self.kind == 4 + STAPLES + domain)
        changes = self.random.random(len(where[0])) < SWITCHES
        steps = np.where(changes, self.random.integers(1, OPTIONS, len(changes)), 0)
        start = self.random.integers(OPTIONS, size=len(self.kind))[where[0]]
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
        idle = step - self.left[user]  # (users, J)
        least = IDLE[0] * (IDLE[1] / IDLE[0]) ** self.random.random((len(user), 1))
        slot = np.where(idle >= least, idle, -NEVER * 2).argmin(
            axis=1
        )  # the first of those not begun, if it comes to that
        slot = np.where((idle >= least).any(axis=1), slot, idle.argmax(axis=1))
        episode, age = self.episode[user, slot], idle[np.arange(len(user)), slot]
        item = FIRST["series"] + self.series[user, slot] * EPISODES + episode
        self._write((user, step), "resume", item, np.where(age > step, 0, age))
        self.episode[user, slot], self.left[user, slot] = (episode + 1) % EPISODES, step

    def _staple(self, user: Ints, step: int) -> None:
        kind = self.kind[user, step] - 4
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
