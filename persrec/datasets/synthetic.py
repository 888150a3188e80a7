"""A log whose answers are known by construction: the embedded default.

There are 8 contexts. Each has one entry item and 6 options of 3 items, so 8 * (1 + 18) = 152 items; 300 browsing items
follow a sparse Markov chain that is the same for all users (four successors each, with probabilities .4, .3, .2, .1).

Every user has one option of each context, drawn once. A history is a series of steps: with probability 0.6 one browsing
event, which takes the chain on from where browsing left off; with probability 0.4 a visit of two events: the entry item
of a random context, then an answer. The answer is an item of the user's own option with probability `old_signal`, else
of an option drawn anew; items within an option have probabilities .6, .3, .1.

So 2 / 7 of the events are entries and 2 / 7 are answers. Right after an entry item, whoever remembers an earlier visit
of this user to the context knows the option; the last 20 events have shown it about half of the time. With `old_signal`
at 0 nobody knows more than the public probabilities: 1/6 for each option.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import ITEM, TIME, USER, Say, conform, log

CONTEXTS, OPTIONS, CHOICES, BROWSING = 8, 6, 3, 300
ITEMS = BROWSING + CONTEXTS * (1 + OPTIONS * CHOICES)
SUCCESSOR_SHARES = (0.4, 0.3, 0.2, 0.1)
CHOICE_SHARES = (0.6, 0.3, 0.1)
BROWSE_SHARE = 0.6
MINUTE, DAY = 60_000, 86_400_000  # ms
START = 1_704_067_200_000  # 2024-01-01

Ints = npt.NDArray[np.int64]


def files(path: Path | None) -> list[Path]:
    """None: nothing is read."""
    return []


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
    items = _items(random, users, int(lengths.max()), old_signal)  # (U, L)
    times = _times(random, users, int(lengths.max()))  # (U, L)
    real = np.arange(items.shape[1]) < lengths[:, None]
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
    """The (ITEMS,) ids: browse-000 to browse-299, then entry-c and answer-c-o-i."""
    browsing = [f"browse-{item:03d}" for item in range(BROWSING)]
    entries = [f"entry-{context}" for context in range(CONTEXTS)]
    return (
        browsing
        + entries
        + [
            f"answer-{context}-{option}-{choice}"
            for context in range(CONTEXTS)
            for option in range(OPTIONS)
            for choice in range(CHOICES)
        ]
    )


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


def _items(random: np.random.Generator, users: int, longest: int, old_signal: float) -> Ints:
    """(U, L) item numbers; all users take a step at a time."""
    successors = np.stack([random.permutation(BROWSING)[: len(SUCCESSOR_SHARES)] for _ in range(BROWSING)])
    own = random.integers(OPTIONS, size=(users, CONTEXTS))
    place = random.integers(BROWSING, size=users)  # where browsing left off
    asked = np.full(users, -1)  # the context whose entry was the last event
    everyone = np.arange(users)
    items = np.empty((users, longest), dtype=np.int64)
    for step in range(longest):
        kind, loyal = random.random((2, users))
        context, anew = random.integers(CONTEXTS, size=users), random.integers(OPTIONS, size=users)
        successor = random.choice(len(SUCCESSOR_SHARES), size=users, p=SUCCESSOR_SHARES)
        choice = random.choice(CHOICES, size=users, p=CHOICE_SHARES)
        answers = asked >= 0
        browses = ~answers & (kind < BROWSE_SHARE)
        place = np.where(browses, successors[place, successor], place)
        option = np.where(loyal < old_signal, own[everyone, asked], anew)
        answer = BROWSING + CONTEXTS + (asked * OPTIONS + option) * CHOICES + choice
        items[:, step] = np.select([answers, browses], [answer, place], BROWSING + context)
        asked = np.where(answers | browses, -1, context)
    return items


def _times(random: np.random.Generator, users: int, longest: int) -> Ints:
    """(U, L) strictly increasing ms: gaps of minutes, one in twenty of a day or so."""
    minutes = 3 * MINUTE * np.exp(random.standard_normal((users, longest)))
    days = DAY * np.exp(0.5 * random.standard_normal((users, longest)))
    gaps = np.where(random.random((users, longest)) < 0.05, days, minutes)
    start = START + random.integers(90 * DAY, size=(users, 1))
    return start + np.cumsum(np.maximum(gaps.astype(np.int64), 1), axis=1)
