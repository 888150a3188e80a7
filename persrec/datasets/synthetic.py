"""A log whose answers are known by construction: the embedded default.

Users browse: 100 items that follow a sparse Markov chain, the same for all users (four successors each, with
probabilities .4, .3, .2, .1). In between they make visits of three events: the entry item of one of 2 places, drawn at
random, then a first and a second order there. For each place a user has a habit: one of 10 first and one of 10 second
orders, drawn once and independently. An order follows the habit with probability `old_signal`, else it is drawn anew.

In the first third of a log there are 0.4 browsing events between visits on average, after it 19. So the habits are
shown early, and whoever remembers them knows both orders of any later visit; but by then a place comes back only
after 44 events on average, so the last 20 events have mostly not shown it. With `old_signal` at 0 nobody knows more
than the public 1/10. Every log ends with a visit: its validation target is a first order, its test target a second
one.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import ITEM, TIME, USER, Say, conform, log

PLACES, ORDERS, BROWSING = 2, 10, 100
VISIT = 3  # events: entry, first order, second order
ITEMS = BROWSING + PLACES * (1 + 2 * ORDERS)
SUCCESSOR_SHARES = (0.4, 0.3, 0.2, 0.1)
BROWSE_SHARES = 0.3, 0.95  # of steps in the first third of a log and after; a step is a browsing event or a visit
MINUTE, DAY = 60_000, 86_400_000  # ms
START = 1_704_067_200_000  # 2024-01-01

Ints = npt.NDArray[np.int64]


def files(path: Path | None) -> list[Path]:
    """This file: another generator makes another log."""
    return [Path(__file__)]


def read(
    path: Path | None = None,
    *,
    users: int = 1000,
    events: int = 300,
    old_signal: float = 1.0,
    seed: int = 0,
    say: Say = log,
) -> pl.LazyFrame:
    """The synthetic log, as the other sources give theirs."""
    frame = synthetic(users=users, events=events, old_signal=old_signal, seed=seed)
    return conform(frame, where=f"synthetic log (seed {seed}, old signal {old_signal:g})", unit="ms", say=say)


def synthetic(*, users: int = 1000, events: int = 300, old_signal: float = 1.0, seed: int = 0) -> pl.LazyFrame:
    """The log of `users` users with about `events` events each (the median), all mixed by time.

    Logs that differ only in `old_signal` differ only in answers.

    Raises:
        UserError: a setting outside its range.
    """
    _check(users=users, events=events, old_signal=old_signal)
    random = np.random.default_rng(seed)
    lengths = _lengths(random, users, events)
    items = _items(random, lengths, old_signal)  # (U, L)
    times = _times(random, users, int(lengths.max()))  # (U, L)
    real = np.arange(items.shape[1]) >= items.shape[1] - lengths[:, None]  # the last events
    owner = np.repeat(np.arange(users), lengths)
    order = np.argsort(times[real], kind="stable")
    names = pl.Series([f"user-{user:0{max(4, len(str(users)))}d}" for user in range(1, users + 1)])
    columns = {
        USER: names.gather(owner[order]),
        ITEM: pl.Series(item_names()).gather(items[real][order]),
        TIME: times[real][order],
    }
    return pl.LazyFrame(columns)


def item_names() -> list[str]:
    """The (ITEMS,) ids: browse-00 to browse-99, entry-<place>, first-<place>-<order>, second-<place>-<order>."""
    browsing = [f"browse-{item:02d}" for item in range(BROWSING)]
    entries = [f"entry-{place}" for place in range(PLACES)]
    orders = [
        f"{turn}-{place}-{order}" for turn in ("first", "second") for place in range(PLACES) for order in range(ORDERS)
    ]
    return browsing + entries + orders


def _check(*, users: int, events: int, old_signal: float) -> None:
    for name, value, least in (("users", users, 1), ("events", events, 4)):
        if value < least:
            raise UserError(f"data.synthetic.{name}: got {value}, expected at least {least}.")
    if not 0 <= old_signal <= 1:
        raise UserError(f"data.synthetic.old_signal: got {old_signal}, expected a share from 0 to 1.")


def _lengths(random: np.random.Generator, users: int, events: int) -> Ints:
    """(U,) log-normal around the median, from a quarter of it to four times it."""
    drawn = events * np.exp(0.6 * random.standard_normal(users))
    return np.clip(drawn, events / 4, 4 * events).round().astype(np.int64)


def _items(random: np.random.Generator, lengths: Ints, old_signal: float) -> Ints:
    """(U, L) item numbers, each row ending with a visit; all users take a step at a time."""
    users, longest = len(lengths), int(lengths.max())
    successors = np.stack([random.permutation(BROWSING)[: len(SUCCESSOR_SHARES)] for _ in range(BROWSING)])
    habits = random.integers(ORDERS, size=(users, PLACES, 2))
    kinds = _kinds(random, lengths)  # (U, L) 0 browsing, 1 entry, 2 first order, 3 second order
    browsed = random.integers(BROWSING, size=users)  # where browsing left off
    place, everyone = np.zeros(users, dtype=np.int64), np.arange(users)
    items = np.empty((users, longest), dtype=np.int64)
    for step in range(longest):
        kind, turn = kinds[:, step], np.maximum(kinds[:, step] - 2, 0)
        successor = random.choice(len(SUCCESSOR_SHARES), size=users, p=SUCCESSOR_SHARES)
        anew, loyal = random.integers(ORDERS, size=users), random.random(users) < old_signal
        browsed = np.where(kind == 0, successors[browsed, successor], browsed)
        place = np.where(kind == 1, random.integers(PLACES, size=users), place)
        order = np.where(loyal, habits[everyone, place, turn], anew)
        ordered = BROWSING + PLACES + (turn * PLACES + place) * ORDERS + order
        items[:, step] = np.select([kind == 0, kind == 1], [browsed, BROWSING + place], ordered)
    return items


def _kinds(random: np.random.Generator, lengths: Ints) -> Ints:
    """(U, L) what each event is: 0 browsing, 1 to 3 the events of a visit; the last three are a visit."""
    users, longest = len(lengths), int(lengths.max())
    kinds = np.zeros((users, longest), dtype=np.int64)
    left = np.full(users, VISIT)  # events of the present visit that are still to be placed
    for step in reversed(range(longest)):
        kinds[:, step] = left
        early = step < longest - lengths + lengths // 3
        starts = (left <= 1) & (random.random(users) >= np.where(early, *BROWSE_SHARES))
        left = np.where(starts, VISIT, np.maximum(left - 1, 0))
    return kinds


def _times(random: np.random.Generator, users: int, longest: int) -> Ints:
    """(U, L) strictly increasing ms: gaps of minutes, one in twenty of a day or so."""
    minutes = 3 * MINUTE * np.exp(random.standard_normal((users, longest)))
    days = DAY * np.exp(0.5 * random.standard_normal((users, longest)))
    gaps = np.where(random.random((users, longest)) < 0.05, days, minutes)
    start = START + random.integers(90 * DAY, size=(users, 1))
    return start + np.cumsum(np.maximum(gaps.astype(np.int64), 1), axis=1)
