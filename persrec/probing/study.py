"""What are old events worth? A linear next-item model with and without them, before any training.

For each R a ridge on the last 16 events (decayed) and the last R is set against the same with a block of everything
older (`probing.ridge`); both rank the whole catalogue for the last 10 events of each user, and for the first event
after a break in the last 35% of each history, the model fitted to events of the same kind. What the older block changes
in NDCG@10 is a lower bound on what a model that sees everything can gain. Beside it stands how often the user had an
item, counted over the last R events and over all: where that gains as much, old events matter as repeats.

Shapes: E events of all users, Q queries (the events that are asked for).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from persrec import metrics
from persrec.errors import UserError
from persrec.evaluation.intervals import Interval, ratio
from persrec.probing.ridge import (
    OLDER,
    OWN_ROWS,
    PENALTIES,
    Fitted,
    Histories,
    Ints,
    Mask,
    Ridge,
    frequency_ranks,
    item_vectors,
)

WINDOWS = (20, 40, 128)  # R
LAST, LATE = 10, 0.35  # of a history: the events asked for one by one, the share in which breaks are looked for
LENGTHS = (("all", 0), ("> 60", 61), (">= 200", 200))  # events before the target
REPEATS = 0.05  # share of events whose item the user had before, from which on seen items are ranked
ROWS, HELD, SCORES = 200_000, 2000, 2 * 10**8  # events fitted to, held out for the penalties; queries with all items
EVENTS = 1_500_000  # beyond which users are sampled
BREAKS = 2000  # events after a break, below which the model is fitted to all events
TARGETS, WORTH, SHORT = 100, 0.01, 0.1  # fewer queries, smaller gains, a smaller share of long histories say nothing
USERS = 20  # with a hit, below which a part of the queries is left out
HOUR = 3_600_000  # ms

Values = npt.NDArray[np.float64]
Say = Callable[[str], None]


class Asked(NamedTuple):
    """One way to ask."""

    name: str
    queries: Ints  # (Q,) events, in order
    rows: Ints  # events that the model is fitted to
    known: Mask  # (E,) events that it may learn from


class Advice(NamedTuple):
    """What to do, and why; `tokens` None is recent-only."""

    segment: int | None
    recent: int
    tokens: int | None
    reason: str

    def __str__(self) -> str:
        if self.tokens is None:
            return f"Recent-only will do, with R = {self.recent}: {self.reason}"
        return f"Try a memory with S = {self.segment}, R = {self.recent}, K = {self.tokens}: {self.reason}"


@dataclass(frozen=True)
class Probe:
    """What was found; `rows` are flat, one per way to ask, length of history and R."""

    name: str
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    ages: dict[str, Ints]  # by way to ask, events since each target was last had; 0 = never
    advice: Advice

    def as_rows(self) -> list[dict[str, Any]]:
        """The facts and the advice, then the rows."""
        return [{"what": "log", "name": self.name, **self.facts, **self.advice._asdict()}, *self.rows]


def probe(
    histories: Histories, *, name: str, gap_hours: float = 12.0, seed: int = 0, say: Say = lambda sentence: None
) -> Probe:
    """The probe of a log.

    Raises:
        UserError: no user has the 20 events that it takes, or there is a single item.
    """
    histories, sampled = _bounded(histories, seed, say)
    age = ages(histories)
    repeats = float((age > 0).mean())
    facts = {
        "users": len(histories.offsets) - 1,
        "items": histories.catalogue,
        "events": len(histories.items),
        "users_sampled": sampled,
        "repeat_share": repeats,
        "seen": "ranked" if repeats >= REPEATS else "excluded",
        "gap_hours": gap_hours if histories.times is not None else None,
        "long_share": float((np.diff(histories.offsets) >= 2 * WINDOWS[1]).mean()),
    }
    rows, found = [], {}
    for asked in _ways(histories, gap_hours, seed, say):
        found[asked.name] = age[asked.queries]
        say(f"{asked.name}: {len(asked.queries):,} targets, a linear model on {len(asked.rows):,} events.")
        own = list(_rows(name, histories, asked, age, exclude_seen=repeats < REPEATS, seed=seed))
        longest = (asked.queries - histories.start_of(asked.queries)).max()
        shown = {row["group"] for row in own}
        few = [group for group, least in LENGTHS if group not in shown and longest >= least]
        if few:
            say(
                f"{asked.name}: nothing of targets with {', '.join(few)} events before: under {USERS} users have a hit."
            )
        rows += own
    return Probe(name, facts, rows, found, advise(rows, facts))


def ages(histories: Histories) -> Ints:
    """(E,) events since the user last had the item, 1 = it was the one before; 0 = never."""
    events = np.arange(len(histories.items))
    order = np.lexsort((events, histories.items, histories.user_of(events)))
    found = np.zeros(len(events), dtype=np.int64)
    user, item = histories.user_of(order), histories.items[order]
    again = 1 + np.flatnonzero((user[1:] == user[:-1]) & (item[1:] == item[:-1]))
    found[order[again]] = order[again] - order[again - 1]
    return found


def advise(rows: list[dict[str, Any]], facts: dict[str, Any]) -> Advice:
    """The shortest R beyond which older events are worth nothing, or a memory where there is none."""
    longest = WINDOWS[-1]
    if not rows:
        why = f"in no part of the targets has a linear model a hit for {USERS} users; the log is too small to say more."
        return Advice(None, WINDOWS[0], None, why)
    worth = {window: [row for row in rows if row["R"] == window and _is_worth(row)] for window in WINDOWS}
    needed = [window for window in WINDOWS if worth[window]]
    if needed and facts["long_share"] < SHORT:
        why = f"only {facts['long_share']:.1%} of the users have {2 * WINDOWS[1]} events or more"
        return Advice(None, WINDOWS[1], None, f"{why}.")
    if not needed:
        why = f"events older than the last {WINDOWS[0]} add nothing certain of {WORTH:.0%} or more to a linear model"
        return Advice(None, WINDOWS[0], None, f"{why}{_counts(rows)}.")
    top = max(worth[needed[-1]], key=lambda row: row["gain"])
    why = f"events older than the last {top['R']} add {_gain(top)} to a linear model ({top['asked']}, {_group(top)})"
    if needed[-1] == longest:
        return Advice(WINDOWS[1], WINDOWS[1], WINDOWS[1] // 10, f"{why}{_counts(rows)}.")
    enough = WINDOWS[WINDOWS.index(needed[-1]) + 1]
    why += f", those older than {enough} nothing certain"
    if enough == longest:
        why += f"; where a read of {enough} is too dear, try a memory with S = R = {WINDOWS[1]}, K = {WINDOWS[1] // 10}"
    return Advice(None, enough, None, f"{why}{_counts(rows)}.")


def _is_worth(row: dict[str, Any]) -> bool:
    """Three standard errors, not two, as up to 18 figures are looked at."""
    return bool(row["gain"] >= WORTH and row["gain"] > 1.5 * (row["gain"] - row["low"]))


def _gain(row: dict[str, Any]) -> str:
    return f"{row['gain']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"


def _group(row: dict[str, Any]) -> str:
    return "all targets" if row["group"] == "all" else f"targets with {row['group']} events before"


def _counts(rows: list[dict[str, Any]]) -> str:
    """That counting does better, where it does."""
    better = [row for row in rows if row["group"] == "all" and (row["counting_low"] or 0) > 0]
    if not better:
        return ""
    top = better[0]
    return (
        f"; how often the user had an item ranks better than the linear model ({top['asked']}: "
        f"{top['frequency_all']:.4f} against {top['full']:.4f}), so let the model count repeats first"
    )


def _bounded(histories: Histories, seed: int, say: Say) -> tuple[Histories, int | None]:
    """Histories of as many users, drawn at random, as the bound allows, and their number if some were left out."""
    sizes = np.diff(histories.offsets)
    if not (sizes >= 2 * LAST).any():
        raise UserError(
            f"probe: the longest of {len(sizes):,} histories has {sizes.max(initial=0)} events (without what a test "
            f"asks for); expected users with {2 * LAST} or more, as the last {LAST} are asked for. There is nothing to "
            "compress in this log."
        )
    if histories.catalogue < 2:
        raise UserError("probe: the log has a single item; expected two or more, as there is nothing to rank")
    if sizes.sum() <= EVENTS:
        return histories, None
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen = np.sort(order[np.cumsum(sizes[order]) <= EVENTS])
    say(f"{sizes.sum():,} events: looking at {len(chosen):,} of the {len(sizes):,} users, drawn at random.")
    kept = np.isin(np.repeat(np.arange(len(sizes)), sizes), chosen)
    there, items = np.unique(histories.items[kept], return_inverse=True)
    offsets = np.concatenate([[0], np.cumsum(sizes[chosen])])
    times = None if histories.times is None else histories.times[kept]
    return Histories(offsets, items, times, len(there)), len(chosen)


def _ways(histories: Histories, gap_hours: float, seed: int, say: Say) -> Iterator[Asked]:
    """The last events, and those after a break, of users drawn so that the bound on scores holds."""
    events = np.arange(len(histories.items))
    place = events - histories.start_of(events)
    size = np.diff(histories.offsets)[histories.user_of(events)]
    late = (place >= size - LAST) & (size >= 2 * LAST)
    asked = [("next event", late, ~late & (place >= 1), ~late)]
    if histories.times is not None:
        breaks = (np.diff(histories.times, prepend=0) >= gap_hours * HOUR) & (place >= 1)
        early = place < np.floor(size * (1 - LATE))
        after = early & breaks if (early & breaks).sum() >= BREAKS else early & (place >= 1)
        asked.append((f"first event after {gap_hours:g} h", ~early & breaks & (size >= 2 * LAST), after, early))
    random = np.random.default_rng([seed, 1])
    for name, queries, rows, known in asked:
        if queries.sum() < TARGETS:
            say(f"{name}: {queries.sum():,} targets are too few to say anything.")
            continue
        chosen = random.permutation(np.flatnonzero(rows))[:ROWS]
        yield Asked(name, _thinned(histories, np.flatnonzero(queries), random, say), np.sort(chosen), known)


def _thinned(histories: Histories, queries: Ints, random: np.random.Generator, say: Say) -> Ints:
    """The queries of as many users as the bound on scores allows."""
    user, size = np.unique(histories.user_of(queries), return_counts=True)
    if len(queries) * histories.catalogue <= SCORES:
        return queries
    order = random.permutation(len(user))
    chosen = user[order[np.cumsum(size[order]) * histories.catalogue <= SCORES]]
    say(f"{len(queries):,} targets among {histories.catalogue:,} items: asking {len(chosen):,} of {len(user):,} users.")
    return queries[np.isin(histories.user_of(queries), chosen)]


def _rows(
    name: str, histories: Histories, asked: Asked, age: Ints, *, exclude_seen: bool, seed: int
) -> Iterator[dict[str, Any]]:
    vectors = item_vectors(histories, asked.known, seed=seed)
    alike = np.flatnonzero(np.diff(histories.offsets)[histories.user_of(asked.rows)] >= 2 * LAST)  # as those asked
    held = np.zeros(len(asked.rows), dtype=bool)
    held[np.random.default_rng([seed, 2]).permutation(alike)[: min(HELD, len(alike) // 5)]] = True
    ridge = Ridge(histories, vectors, WINDOWS).fit(asked.rows[~held])
    user, before = histories.user_of(asked.queries), asked.queries - histories.start_of(asked.queries)
    counted = None if exclude_seen else _ndcg(frequency_ranks(histories, asked.queries, asked.known, None))
    for window in WINDOWS:
        models = _models(ridge, window, asked.rows[held], asked.rows[~held], exclude_seen=exclude_seen, seed=seed)
        found = dict(
            zip(("recent", "full"), _ndcg(ridge.ranks(asked.queries, models, exclude_seen=exclude_seen)), strict=True)
        )
        if counted is not None:
            found["frequency_all"] = counted
            found["frequency_recent"] = _ndcg(frequency_ranks(histories, asked.queries, asked.known, window))
        for group, least in LENGTHS:
            part = before >= least
            here = {key: value[part] for key, value in found.items()}
            if min(_hits(here["recent"], user[part]), _hits(here["full"], user[part])) >= USERS:
                same = {"what": "gain", "name": name, "asked": asked.name, "group": group, "R": window}
                yield same | _row(here, user[part], age[asked.queries][part], window)


def _models(ridge: Ridge, window: int, held: Ints, rows: Ints, *, exclude_seen: bool, seed: int) -> list[Fitted]:
    """Without and with what is older, each with the penalty that does best on the events held out."""
    some = np.sort(np.random.default_rng([seed, 3]).permutation(rows)[:OWN_ROWS])

    def best(models: list[Fitted]) -> tuple[int, Fitted]:
        tried = models if exclude_seen else [ridge.with_own(model, some) for model in models]
        scores = _ndcg(ridge.ranks(held, tried, exclude_seen=exclude_seen)).mean(axis=1)
        place = int(np.argmax(scores))
        return place, tried[place]

    place, recent = best([ridge.model(window, penalty) for penalty in PENALTIES])
    _, full = best([ridge.model(window, PENALTIES[place], older) for older in OLDER])
    return [recent, full]


def _row(found: dict[str, Values], user: Ints, age: Ints, window: int) -> dict[str, Any]:
    """Of one part of the queries: NDCG@10 of each, what older events change, and when the target was last had."""
    gain = _change(found["full"], found["recent"], user)
    row = {
        "targets": len(user),
        "users": len(np.unique(user)),
        "recent": float(found["recent"].mean()),
        "full": float(found["full"].mean()),
        "gain": gain.mean,
        "low": gain.low,
        "high": gain.high,
        "had_recently": float(((age > 0) & (age <= window)).mean()),
        "had_earlier": float((age > window).mean()),
        "never_had": float((age == 0).mean()),
    }
    names = ("frequency_recent", "frequency_all", "frequency_gain", "frequency_low", "frequency_high", "counting_low")
    if "frequency_all" not in found or _hits(found["frequency_recent"], user) < USERS:
        return row | dict.fromkeys(names)
    counted = _change(found["frequency_all"], found["frequency_recent"], user)
    above = _change(found["frequency_all"], found["full"], user).low  # what counting everything certainly gains
    values = (found["frequency_recent"].mean(), found["frequency_all"].mean(), *counted, above)
    return row | {key: float(value) for key, value in zip(names, values, strict=True)}


def _hits(values: Values, user: Ints) -> int:
    """Users with a hit."""
    return len(np.unique(user[values > 0]))


def _change(over: Values, under: Values, user: Ints) -> Interval:
    """The mean of one over that of the other, less 1, with users resampled."""
    return Interval(*(value - 1 for value in ratio([over], [under], user)))


def _ndcg(ranks: Values) -> Values:
    return metrics.ndcg(ranks, 10)
