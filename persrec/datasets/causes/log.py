"""A log whose every event has one hidden cause, drawn so that the best possible predictions are known in closed form.

A user is in one mood for a few events: the cause of the event before comes again with probability `STAYS`, else one is
drawn by public shares. Staples come between at any time, and end a mood. What happens then is

* session: one of four public successors of the item before it, whatever that was; with probability `SESSION_ENDS`, when
  a session begins anew, one of the landing items instead. So the chain needs the event before and no other.
* taste: a category, each of the user's own `TASTES` of `CATEGORIES` alike, and an item of it by public popularity.
* resume: of the `series` series that the user follows, one that was left. By how recently each was seen they have a
  rank; the `CURRENT` first are not resumed, and rank r of the others is with a public probability that falls as
  r**-1.5. So none is resumed before five events have passed; idle times are near log-uniform over 5 to 300 events at
  the default settings, more with more series, and have a thin tail beyond: their mean is series / share, whatever the
  law. At first the order is one that nobody knows.
* staple: of each of `STAPLES` kinds the user buys one item, every time the same, and is ready to buy it again when its
  period, public and different for each kind, has passed in events since the last time; else looks at the kind's public
  shelf, which counts as noise. The age at the beginning of a log is drawn from the stationary law.
* switched: in each of `DOMAINS` domains the user prefers one option. With probability `SWITCHES` an event changes
  the preference to another option and shows that one: whatever was shown before is void.
* noise: any of the noise items.

An item belongs to one kind of cause, so an event shows its cause. `dial` scales the four personal causes, and the rest
of their shares goes to noise; at 0 only session and noise are left, where the event before says everything. `only`
gives the share of the personal causes to one of them. `persrec.datasets.causes.oracles` has the exact predictions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.datasets.causes.lives import Lives
from persrec.datasets.causes.world import CAUSES, SESSION_ENDS, Ints, Settings, World, item_names
from persrec.interactions.schema import ITEM, TIME, USER, Say, conform, log

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000  # ms
START = 1_704_067_200_000  # 2024-01-01


@dataclass(frozen=True, eq=False)
class Events:
    """A drawn log; user u has events offsets[u] to offsets[u + 1]."""

    settings: Settings
    offsets: Ints  # (U+1,)
    items: Ints  # (E,) places in the catalogue
    cause: Ints  # (E,) places in CAUSES
    age: Ints  # (E,) events since the evidence was last seen; 0 = never, or there is none
    times: Ints  # (E,) ms

    @property
    def user(self) -> Ints:
        """(E,)"""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def position(self) -> Ints:
        """(E,) place in the user's history, from 0."""
        return np.arange(len(self.items)) - self.offsets[self.user]


def files(path: Path | None) -> list[Path]:
    """The files of this generator: another one makes another log."""
    return [Path(__file__).with_name(name) for name in ("log.py", "lives.py", "world.py")]


def read(
    path: Path | None = None,
    *,
    users: int = Settings().users,
    events: int = Settings().events,
    dial: float = Settings().dial,
    series: int = Settings().series,
    only: str | None = None,
    seed: int = 0,
    say: Say = log,
) -> pl.LazyFrame:
    """The log, as the other sources give theirs: all users mixed by time."""
    settings = Settings(users, events, dial, series, only, seed)
    frame = truth(settings._asdict()).sort(TIME, maintain_order=True).select(USER, ITEM, TIME)
    return conform(frame.lazy(), where=f"log of causes (seed {seed}, dial {dial:g})", unit="ms", say=say)


def truth(settings: Mapping[str, Any]) -> pl.DataFrame:
    """The log with what is hidden: user_id, position (0 is the user's first event), item_id, timestamp, cause, age.

    Users in the order of their ids, each in the order of time, as in prepared data. `age` is the number of events since
    the evidence for the item was last seen: the event before (session), the category (taste), the series (resume), the
    item (staple), the domain, if the preference is still the same (switched); null where there was none.
    """
    drawn = draw(settings)
    width = max(4, len(str(drawn.settings.users)))
    names = pl.Series([f"user-{user:0{width}d}" for user in range(1, drawn.settings.users + 1)])
    columns = {
        USER: names.gather(drawn.user),
        "position": drawn.position,
        ITEM: pl.Series(item_names()).gather(drawn.items),
        TIME: drawn.times,
        "cause": pl.Series(CAUSES).gather(drawn.cause),
        "age": drawn.age,
    }
    return pl.DataFrame(columns).with_columns(pl.col("age").replace(0, None))


def draw(settings: Mapping[str, Any]) -> Events:
    """The log of these settings, as numbers.

    Raises:
        UserError: a setting outside its range.
    """
    given = Settings(**settings)
    given.check()
    random, world = np.random.default_rng([given.seed, 1]), World(given)
    lengths = np.sort(_lengths(random, given.users, given.events))[::-1]  # so that those who have a step are the first
    begins = random.random((given.users, lengths[0])) < SESSION_ENDS
    lives = Lives(random, world, lengths, begins, given.series)
    items, cause, age = lives.live()
    times = _times(random, begins)
    order = random.permutation(given.users)
    real = (np.arange(lengths[0]) < lengths[:, None])[order]
    return Events(
        settings=given,
        offsets=np.concatenate([[0], np.cumsum(lengths[order])]),
        items=items[order][real],
        cause=cause[order][real],
        age=age[order][real],
        times=times[order][real],
    )


def _lengths(random: np.random.Generator, users: int, events: int) -> Ints:
    """(U,) log-normal around the median, from a quarter of it to four times it."""
    drawn = events * np.exp(0.6 * random.standard_normal(users))
    return np.clip(drawn, events / 4, 4 * events).round().astype(np.int64)


def _times(random: np.random.Generator, begins: npt.NDArray[np.bool_]) -> Ints:
    """(U, L) strictly increasing ms: gaps of minutes within a session, of an hour to weeks before one."""
    within = np.minimum(3 * MINUTE * np.exp(random.standard_normal(begins.shape)), HOUR)
    breaks = HOUR + 20 * HOUR * np.exp(random.standard_normal(begins.shape))
    start = START + random.integers(90 * DAY, size=(len(begins), 1))
    return start + np.cumsum(np.maximum(np.where(begins, breaks, within).astype(np.int64), 1), axis=1)
