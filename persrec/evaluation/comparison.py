"""Runs compared in pairs: over the same targets and seeds, by bootstrap and by permutation over users.

A side is one form of one recipe, or a baseline: its runs differ in the seed only, and the sides of one name in what
their histories need of the memory. Shapes: Q queries, U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from persrec import metrics
from persrec import run as runs
from persrec.errors import UserError
from persrec.evaluation import intervals
from persrec.evaluation.intervals import Interval
from persrec.prepared import Queries
from persrec.recipe.recipe import WITHOUT_EFFECT, Recipe, flat
from persrec.targets import Targets

PERMUTATIONS = 10_000
ORDER = ("full", "recent", "compressed")  # models first, baselines after them
ALL_PAIRS = 4  # sides up to which each is compared with each
SAME = ("user", "end", "item")  # columns by which two runs ask for the same
RULES = {"split": None, "part": "test", "exclude_seen": None, "seen_odds": None}  # and what they are where unsaid
FREE = (*WITHOUT_EFFECT, "baselines", "data", "history", "primary", "seeds", "training.threads")  # data: by content
SHORT = {  # names for groups of the targets
    "length": "history length",
    "hours": "hours since the last event",
    "cold": "training events of the item",
    "consumption": "last consumption of the item",
}
SHARED = ("memory.segment", "memory.recent")  # of the memory, what all forms of one name must have alike

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """The runs of one form, by seed."""

    name: str
    history: str
    recipe: dict[str, Any]
    tables: dict[int, pa.Table]


class Pair(NamedTuple):
    """Mean metric of `over` divided by that of `under` on the same queries and seeds."""

    over: str
    under: str
    ratio: Interval
    difference: Interval
    p: float  # of a difference as large by chance, two-sided, by exchanging the sides within users
    seeds: int

    def as_row(self) -> dict[str, Any]:
        """Flat, for JSON."""
        bounds = {"mean": self.ratio.mean, "low": self.ratio.low, "high": self.ratio.high}
        difference = {"difference": self.difference._asdict()}
        return {"pair": f"{self.over}/{self.under}", **bounds, **difference, "p": self.p, "seeds": self.seeds}


class Retention(NamedTuple):
    """(compressed - recent) / (full - recent) of one recipe; None where full and recent do not differ."""

    recipe: str
    kept: Interval | None
    gain: Interval  # full / recent


def load(folders: Sequence[str | Path]) -> list[Side]:
    """The sides of run folders; runs that differ only in their seed are one side.

    Raises UserError where a folder holds no run, where runs were tested on different targets, and where recipes of one
    name are not one recipe.
    """
    found = [runs.load(folder) for folder in folders]
    sides: dict[str, Side] = {}
    several = len({run.recipe["name"] for run in found}) > 1
    for run in found:
        form = run.metrics["history"]
        name = f"{run.recipe['name']} {form}" if several else form
        side = sides.setdefault(name, Side(name, form, run.recipe, {}))
        seed = int(run.metrics["seed"])
        if form in ORDER:
            _check_recipes(side, run.recipe, name)
        if seed in side.tables:
            raise UserError(
                f"{run.folder}: a second run of {name} with seed {seed}; compare runs of one recipe under one name, or "
                "give the other recipe a name of its own"
            )
        side.tables[seed] = run.targets()
        _check_same(found[0], run)
        if form in ORDER:
            _check_recipes(next(one for one in sides.values() if _alike(one, side)), run.recipe, name)
    return sorted(sides.values(), key=lambda side: ORDER.index(side.history) if side.history in ORDER else len(ORDER))


def time_notes(sides: list[Side]) -> list[str]:
    """That figures do not compare, where models were told different times."""
    times: dict[str, list[str]] = {}
    for side in sides:
        times.setdefault(side.recipe["time"], []).append(side.name)
    if len(times) < 2:
        return []
    told = "; ".join(f"{time} ({', '.join(names)})" for time, names in times.items())
    return [f"time differs: {told}. Such figures do not compare: who is told more is not a better model."]


def recent_notes(sides: list[Side]) -> list[str]:
    """By whose number of recent events the targets are grouped by their last consumption, where models differ in it."""
    found: dict[int, list[str]] = {}
    for side in sides:
        if side.history in ORDER:
            found.setdefault(side.recipe["memory"]["recent"], []).append(side.name)
    if len(found) < 2:
        return []
    told = "; ".join(f"{recent} ({', '.join(names)})" for recent, names in found.items())
    first = sides[0].recipe["memory"]["recent"]
    return [
        f"memory.recent differs: {told}. By last consumption targets are grouped at {first} events, that of "
        f"{sides[0].name}; what is older is not what the others have lost."
    ]


def seed_notes(sides: list[Side]) -> list[str]:
    """What intervals of models with one seed do not cover."""
    alone = [side.name for side in sides if side.history in ORDER and len(side.tables) == 1]
    if not alone:
        return []
    return [f"One seed ({', '.join(alone)}): the intervals speak of these trained models only, not of other seeds."]


def mean(side: Side, metric: str, part: npt.NDArray[np.bool_] | None = None) -> Interval:
    """A side's mean over its seeds, with an interval over users and seeds."""
    users, found = values([side], sorted(side.tables), metric, part)
    return intervals.interval(*intervals.paired(found, users)[0])


def pairs(sides: list[Side], metric: str, part: npt.NDArray[np.bool_] | None = None) -> list[Pair]:
    """Each side against each; of many, the models against each other and against the best baseline."""
    chosen = sides
    if len(sides) > ALL_PAIRS:
        models = [side for side in sides if side.history in ORDER]
        plain = [side for side in sides if side.history not in ORDER]
        best = sorted(plain, key=lambda side: mean(side, metric, part).mean)[-1:]
        chosen = models + best if models else plain
    chosen = sorted(chosen, key=lambda side: side.history != "compressed")  # it is held against the others
    return [pair(over, under, metric, part) for over, under in combinations(chosen, 2)]


def pair(over: Side, under: Side, metric: str, part: npt.NDArray[np.bool_] | None = None) -> Pair:
    """Two sides on the seeds that both have; a side with one seed is held against all of the other's."""
    seeds = _seeds(over, under)
    users, (above, below) = values([over, under], seeds, metric, part)
    (top, tops), (bottom, bottoms) = intervals.paired([above, below], users)
    ratio = intervals.quotient(top, tops, bottom, bottoms)
    difference = intervals.interval(top - bottom, tops - bottoms)
    chance = permutation(np.mean(above, axis=0) - np.mean(below, axis=0), users)
    return Pair(over.name, under.name, ratio, difference, chance, len(seeds))


def retention(sides: list[Side], metric: str, part: npt.NDArray[np.bool_] | None = None) -> list[Retention]:
    """For every recipe with all three forms: how much of what history brings is kept."""
    found = []
    for recipe in dict.fromkeys(side.recipe["name"] for side in sides):
        forms = {side.history: side for side in sides if side.recipe["name"] == recipe}
        if not {"full", "recent", "compressed"} <= forms.keys():
            continue
        chosen = [forms[form] for form in ("full", "recent", "compressed")]
        users, measured = values(chosen, _seeds(*chosen), metric, part)
        (full, fulls), (recent, recents), (kept, keeps) = intervals.paired(measured, users)
        gain = intervals.quotient(full, fulls, recent, recents)
        share = intervals.quotient(kept - recent, keeps - recents, full - recent, fulls - recents)
        found.append(Retention(recipe, share if gain.low > 1 else None, gain))
    return found


def permutation(difference: Values, users: npt.NDArray[np.int64], *, seed: int = 0) -> float:
    """Two-sided p of a mean difference (Q,) when the sign of each user's is a matter of chance."""
    _, place = np.unique(users, return_inverse=True)
    per_user = np.bincount(place, weights=difference)  # (U,)
    observed = abs(per_user.sum()) * (1 - 1e-12)
    random = np.random.default_rng(seed)
    rows = max(1, intervals.DRAWS_AT_A_TIME // len(per_user))
    extreme = 0
    for start in range(0, PERMUTATIONS, rows):
        count = min(rows, PERMUTATIONS - start)
        signs = random.integers(0, 2, (count, len(per_user)), dtype=np.int8) * 2 - 1
        extreme += int((abs(signs @ per_user) >= observed).sum())
    return (1 + extreme) / (1 + PERMUTATIONS)


def check_metric(sides: list[Side], metric: str) -> None:
    """Raise UserError for a metric that is not known, or whose cutoff lies beyond the ranks that were kept."""
    name, _, cutoff = str(metric).partition("@")
    deepest = min(max(side.recipe["evaluation"]["k"]) for side in sides)
    if name not in metrics.METRICS or not cutoff.isdigit() or not 1 <= int(cutoff) <= deepest:
        raise UserError(
            f"metric: got {metric}, expected one of {', '.join(metrics.METRICS)}, an @ and a cutoff of 1 to {deepest}, "
            "the largest evaluation.k of these runs"
        )


def groups(side: Side, by: str) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Parts (T,) of a side's targets, `by` in short or in full; raises UserError where there are none of that name."""
    known = all_groups(side)
    if SHORT.get(by, by) not in known:
        names = ", ".join(f"{short} ({name})" for short, name in SHORT.items() if name in known)
        without = "" if SHORT["hours"] in known else "; the log has no times, so there are no hours"
        raise UserError(f"by: got {by!r}, expected one of {names}{without}")
    return known[SHORT.get(by, by)]


def all_groups(side: Side) -> dict[str, list[tuple[str, npt.NDArray[np.bool_]]]]:
    """Parts (T,) of a side's targets, by all that is known of them."""
    recipe = side.recipe
    lengths = tuple(recipe["evaluation"]["length_buckets"])
    return targets_of(side).groups(lengths=lengths, recent=recipe["memory"]["recent"])


def targets_of(side: Side) -> Targets:
    """The targets that the runs of a side were tested on."""
    table = next(iter(side.tables.values()))
    column = {name: table.column(name).to_numpy() for name in table.column_names}
    starts = np.flatnonzero(np.concatenate([[True], _changes(column["user"]) | _changes(column["end"])]))
    query = np.repeat(np.arange(len(starts)), np.diff([*starts, len(table)]))
    size = np.bincount(query)
    return Targets(
        queries=Queries(column["user"][starts], column["end"][starts], size),
        query=query,
        item=column["item"],
        age=column["age"],
        item_events=column["item_events"],
        gap=column["gap"][starts] if "gap" in column else None,
    )


def values(
    sides: list[Side], seeds: list[int], metric: str, part: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.int64], list[list[Values]]]:
    """Users (Q,) of the queries, and for each side and seed the metric of each (Q,), of the targets of a part (T,)."""
    targets = targets_of(sides[0])
    chosen = np.ones(len(targets.query), dtype=bool) if part is None else part
    rows, counts = np.unique(targets.query[chosen], return_counts=True)
    cutoff = (int(metric.partition("@")[2]),)
    found = []
    for side in sides:
        tables = [side.tables.get(seed) or next(iter(side.tables.values())) for seed in seeds]
        ranks = [table.column("rank").to_numpy()[chosen] for table in tables]
        found.append([metrics.per_user(rank, counts, cutoff)[metric] for rank in ranks])
    return targets.queries.user[rows], found


def _seeds(*sides: Side) -> list[int]:
    """The seeds that all sides with several have."""
    several = [set(side.tables) for side in sides if len(side.tables) > 1]
    common = set.intersection(*several) if several else {0}
    if not common:
        names = " and ".join(side.name for side in sides)
        raise UserError(f"{names}: have no seed in common, so they cannot be compared in pairs; fit the same seeds")
    return sorted(common)


def _alike(one: Side, other: Side) -> bool:
    """Whether both are models of recipes with one name."""
    return one.history in ORDER and one.recipe["name"] == other.recipe["name"]


def _check_recipes(side: Side, now: dict[str, Any], name: str) -> None:
    """Refuse another recipe under the name of a side's; of another form the memory may differ, but not its segments.

    Keys that a run did not know yet have had their defaults.
    """
    known = flat(Recipe().dump())
    before, after = known | flat(side.recipe), known | flat(now)
    free = FREE if side.name == name else (*FREE, "memory")
    differing = [
        f"{key}: {before.get(key)!r} and {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and (key in SHARED or not _below(key, free))
    ]
    if differing:
        raise UserError(
            f"{side.name} and {name}: recipes of one name, {now['name']}, that differ ({'; '.join(differing)}); "
            "expected runs of one recipe, with other seeds and histories only; fit the other one under a name of its "
            "own (--set name=ANOTHER)"
        )


def _below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _check_same(first: runs.Run, other: runs.Run) -> None:
    """Refuse runs whose figures do not compare, and say what differs."""
    before, now = first.metrics["protocol"], other.metrics["protocol"]
    differing = [
        f"{key}: {before.get(key, default)!r} and {now.get(key, default)!r}"
        for key, default in RULES.items()
        if before.get(key, default) != now.get(key, default)
    ]
    if first.data["hash"] != other.data["hash"]:
        differing.append(f"data: {first.data['hash'][:12]} and {other.data['hash'][:12]}")
    elif not differing:
        one, two = first.targets(), other.targets()
        if len(one) != len(two) or any(not one.column(name).equals(two.column(name)) for name in SAME):
            differing.append(f"targets: {len(one):,} and {len(two):,}")
    if differing:
        raise UserError(
            f"{first.folder} and {other.folder} were not tested on the same targets ({'; '.join(differing)}), so their "
            "figures do not compare; evaluate both on one log by one split, with one rule for seen items"
        )


def _changes(column: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return column[1:] != column[:-1]
