"""What is left of a memory after hundreds of updates, and what it costs when updates are late.

    python benchmarks/drift.py long --json benchmarks/results/drift.json
    python benchmarks/drift.py late online-retail --set memory.kind=recurrent --json ...

`long` trains recurrent memories with each write rule, and `full`, on the log of causes (histories of 300 events in the
median, 1,200 at most; complete cells are kept), and reads other users of the same world, of 20,000 events each. After
j updates the S events that follow are asked for, each with R to R+S-1 clear events, as a store would serve them. A list
of ten is given its expected NDCG@10 under the exact probabilities of what comes next, so that the chance of the events
that came is not in it; beside it stand the best expected NDCG@10 with full knowledge (`ndcg10_oracle`) and with that of
the last R events (`ndcg10_oracle_clear`). `full` was not trained on so many events and reads a window, in one causal
pass: of `--window` to `--window` + 5 S events, or all there are.

Rows: one per memory, seed and number of updates, means over the last five of so many updates, with intervals by
bootstrap over users. `slope_per_100` is the slope of memory / oracle over all updates from the first of these numbers
on, per 100 of them and relative to its mean: -0.01 is one percent lost. Then one row per memory, cause and updates
since the evidence for an event was seen (0: it is clear): the share of events that are in the list, of the model and on
average of the oracle, which is not told the cause either. `late` is described in late.py.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks import late, machine
from benchmarks.quality import rounded, train
from persrec.batches import History
from persrec.cells import name_of
from persrec.datasets.causes import Events
from persrec.datasets.causes.lives import Lives
from persrec.datasets.causes.oracles import CHUNK, Oracle
from persrec.datasets.causes.world import CAUSES, PERSONAL, SESSION_ENDS, Settings, World, item_names
from persrec.errors import UserError
from persrec.evaluation import intervals
from persrec.models.model import Model
from persrec.models.rows import rows_of
from persrec.recipe import recipe

RECIPE, NAME = "synthetic-causes", "drift"
SMALL = ["memory.segment=32", "memory.recent=32", "training.epochs=6", "training.validate_every=6", "seeds=[1]"]
HSTU = ["model.kind=hstu", "model.heads=2", "memory.kind=recurrent", "memory.tokens=4", "memory.reads=all"]
WRITES = ("fresh", "residual", "gated")
K = 10
TOGETHER = 5  # updates over which a figure is a mean
AGES = (0, 1, 2, 3, 5, 9, 17, 33, 65)  # updates since the evidence was seen, from each to below the next
PART = 32  # users at a time
ROWS = 8192  # of `full` in a pass
RESAMPLES = 2000
DISCOUNT = 1 / np.log2(np.arange(2, K + 2))

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Lists = npt.NDArray[np.int16]


class Rule(NamedTuple):
    """What holds for all models: S, R, and how many updates the histories allow."""

    segment: int
    recent: int
    updates: int


class Read(NamedTuple):
    """What the models say of some users, and what is true; U users, J = updates + 1."""

    own: dict[str, Floats]  # (U, J) expected NDCG@10 of each model, mean over S events; NaN where it was not read
    facts: dict[str, npt.NDArray[np.bool_]]  # (F,) whether each event whose evidence was seen is in the list
    user: Ints  # (F,)
    cause: Ints  # (F,)
    since: Ints  # (F,) updates since the evidence was seen; 0 = it is among the clear events
    best: Floats  # (F,) how probably it is in the oracle's list


def cells(overrides: list[str], out: Path, jobs: int) -> dict[str, list[Path]]:
    """Train what is not there yet; the run folders of each write rule and of `full`, by seed."""
    found = {}
    for way in (*WRITES, "full"):
        own = ["history=full"] if way == "full" else ["history=compressed", f"memory.write={way}"]
        chosen = [f"name={NAME}", *SMALL, *HSTU, *overrides, *own]
        grid = recipe.load(RECIPE, chosen).grid()
        train(RECIPE, grid, chosen, out / way, jobs)
        found[way] = [out / way / name_of(cell) for cell in grid]
    return found


def lives(settings: Settings, users: int, events: int, part: int) -> Events:
    """Users of the world of these settings who are not in its log, each of so many events; times are not drawn."""
    random = np.random.default_rng([settings.seed, 3, part])
    begins = random.random((users, events)) < SESSION_ENDS
    drawn = Lives(random, World(settings), np.full(users, events), begins, settings.series).live()
    items, cause, age = (field.ravel() for field in drawn)
    return Events(settings, np.arange(users + 1) * events, items, cause, age, np.zeros_like(items))


def history(items: Tensor, start: int, end: int) -> History:
    """Events `start` to `end` - 1 of users (U, T)."""
    item = items[:, start:end]
    none, position = torch.zeros_like(item), torch.arange(start, start + item.shape[1]).expand_as(item)
    return History(item, none, none, none, position, torch.ones_like(item, dtype=torch.bool))


@torch.no_grad()
def remembered(model: Model, items: Tensor, rule: Rule) -> Lists:
    """Lists (U, J, S, 10) of users (U, T) after each number of updates; one fold each, which reads what follows."""
    memory, vectors, encode = model.compressor.start(len(items)), model.vectors(), model.encode()
    found = np.empty((len(items), rule.updates + 1, rule.segment, K), dtype=np.int16)
    for update in range(rule.updates + 1):
        begin = update * rule.segment
        both = history(items, begin, begin + rule.segment + rule.recent - 1)
        segment, after = (rows_of(part, encode) for part in both.split(rule.segment))
        hidden, memory = model.compressor.fold(model.backbone, segment, memory, after)
        found[:, update] = best_items(model, hidden[:, rule.recent - 1 :], vectors)
    return found


@torch.no_grad()
def windowed(model: Model, items: Tensor, rule: Rule, update: int, window: int) -> Lists:
    """The same of `full`, (U, TOGETHER, S, 10), for the last of so many updates."""
    first = (update - TOGETHER + 1) * rule.segment + rule.recent  # the first event that is asked for
    start, end = max(0, first - window), (update + 1) * rule.segment + rule.recent - 1
    vectors, encode, found = model.vectors(), model.encode(), []
    for some in items.split(max(1, ROWS // (end - start))):
        hidden, _ = model.backbone.step(rows_of(history(some, start, end), encode), None)
        found.append(best_items(model, hidden[:, first - 1 - start :], vectors))
    return np.concatenate(found).reshape(len(items), TOGETHER, rule.segment, K)


def best_items(model: Model, hidden: Tensor, vectors: Tensor) -> Lists:
    """The ten best items (U, L, 10) after each hidden row (U, L, D)."""
    scores = model.query(hidden) @ vectors[1:].T
    return (scores.topk(K, dim=-1).indices + 1).to(torch.int16).numpy()


def read(events: Events, lists: dict[str, Lists], rule: Rule) -> Read:
    """Hold the lists of models, of places in the catalogue (U, J, S, 10), against what is true; below 0 = not read."""
    oracle, users = Oracle(events), len(events.offsets) - 1
    shape = users, rule.updates + 1, rule.segment
    user, update, offset = (field.ravel() for field in np.indices(shape))
    position = update * rule.segment + rule.recent + offset
    place = events.offsets[user] + position
    item, age = events.items[place], events.age[place]
    since = np.maximum(update - (position - age) // rule.segment, 0)
    seen = (age > 0) & np.isin(events.cause[place], [CAUSES.index(cause) for cause in PERSONAL])
    flat = {way: given.reshape(len(user), K) for way, given in lists.items()}
    own = {way: np.full(len(user), np.nan) for way in (*lists, "oracle", "clear")}
    best = np.zeros(len(user))
    for start in range(0, len(user), CHUNK):
        part = slice(start, start + CHUNK)
        chances = oracle.probabilities(user[part], position[part])
        own["oracle"][part] = best_possible(chances)
        own["clear"][part] = best_possible(oracle.probabilities(user[part], position[part], rule.recent))
        best[part] = in_best(chances, item[part])
        for way, given in flat.items():
            taken = np.take_along_axis(chances, np.maximum(given[part], 0).astype(np.int64), axis=1) @ DISCOUNT
            own[way][part] = np.where(given[part, 0] >= 0, taken, np.nan)
    return Read(
        own={way: values.reshape(shape).mean(axis=2) for way, values in own.items()},
        facts={way: (given[seen] == item[seen, None]).any(axis=1) for way, given in flat.items()},
        user=user[seen],
        cause=events.cause[place][seen],
        since=since[seen],
        best=best[seen],
    )


def best_possible(chances: Floats) -> Floats:
    """Expected NDCG@10 (Q,) of the best list under probabilities (Q, V)."""
    return -np.sort(np.partition(-chances, K - 1, axis=1)[:, :K], axis=1) @ DISCOUNT


def in_best(chances: Floats, item: Ints) -> Floats:
    """How probably an item (Q,) is among the ten most probable ones, where ties are drawn."""
    own = np.take_along_axis(chances, item[:, None], axis=1)
    above = (chances > own * (1 + 1e-9)).sum(axis=1)
    same = (chances >= own * (1 - 1e-9)).sum(axis=1) - above
    return np.clip((K - above) / same, 0, 1)


def slope(own: Floats, oracle: Floats) -> intervals.Interval:
    """Slope of the ratio of sums over users (U, J) per 100 updates, relative to its mean; users are resampled."""
    users, updates = own.shape
    drawn = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), RESAMPLES).astype(np.float64)
    times = np.concatenate([np.ones((1, users)), drawn])  # the first one is the users as they are
    ratio = (times @ own) / (times @ oracle)
    place = np.arange(updates) - (updates - 1) / 2
    found = 100 * (ratio @ place) / (place @ place) / ratio.mean(axis=1)
    return intervals.interval(found[0], found[1:])


def joined(parts: list[Read]) -> Read:
    """Several groups of users as one."""
    users = np.cumsum([0, *(len(part.own["oracle"]) for part in parts)])
    return Read(
        own={way: np.concatenate([part.own[way] for part in parts]) for way in parts[0].own},
        facts={way: np.concatenate([part.facts[way] for part in parts]) for way in parts[0].facts},
        user=np.concatenate([part.user + before for part, before in zip(parts, users, strict=False)]),
        cause=np.concatenate([part.cause for part in parts]),
        since=np.concatenate([part.since for part in parts]),
        best=np.concatenate([part.best for part in parts]),
    )


def measured(folders: dict[str, Path], asked: list[int], users: int, events: int, window: int) -> tuple[Read, Rule]:
    """What the models of one seed say of all users, a part of them at a time."""
    models = {way: late.opened(folder)[2] for way, folder in folders.items()}
    stored, cell, _ = late.opened(folders[WRITES[0]])
    segment, recent = cell.memory.segment, cell.memory.recent
    rule = Rule(segment, recent, (events - recent) // segment - 1)
    names = item_names()
    number = {name: index for index, name in enumerate(stored.item_ids().to_pylist(), start=1)}
    index_of = np.array([number[name] for name in names])  # all 352 occur in a log of this size
    place_of = np.full(len(number) + 1, -1, dtype=np.int16)
    place_of[index_of] = np.arange(len(names))
    if asked[0] < TOGETHER - 1 or asked[-1] > rule.updates:
        least, most = TOGETHER - 1, rule.updates
        raise UserError(f"--updates: got {asked}, expected {least} to {most}: {events} events allow no more")
    settings, found = Settings(**cell.data.causes.model_dump()), []
    for part, start in enumerate(range(0, users, PART)):
        drawn = lives(settings, min(PART, users - start), events, part)
        items = torch.from_numpy(index_of[drawn.items].reshape(-1, events))
        lists = {way: place_of[remembered(models[way], items, rule)] for way in WRITES}
        lists["full"] = np.full_like(lists[WRITES[0]], -1)
        for update in asked:
            read_by_full = windowed(models["full"], items, rule, update, window)
            lists["full"][:, update - TOGETHER + 1 : update + 1] = place_of[read_by_full]
        found.append(read(drawn, lists, rule))
        print(f"{start + len(items)} of {users} users are read", flush=True)
    return joined(found), rule


def update_rows(found: Read, rule: Rule, asked: list[int]) -> Iterator[dict[str, Any]]:
    """One row per memory and number of updates."""
    users = np.repeat(np.arange(len(found.own["oracle"])), TOGETHER)
    for way in WRITES:
        falls = slope(found.own[way][:, asked[0] :], found.own["oracle"][:, asked[0] :])
        for update in asked:
            part = slice(update - TOGETHER + 1, update + 1)
            row: dict[str, Any] = {"write": way, "updates": update, "unfolded_events": 0, "unfolded_days": None}
            row |= rounded(intervals.mean(found.own[way][:, part].ravel(), users)._asdict(), "ndcg10")
            for name, beside in (("full", "full"), ("oracle", "oracle"), ("oracle_clear", "clear")):
                row[f"ndcg10_{name}"] = round(float(found.own[beside][:, part].mean()), 6)
            row |= {"slope_per_100": round(falls.mean, 6), "slope_low": round(falls.low, 6)}
            yield row | {"slope_high": round(falls.high, 6), "slope_to": rule.updates, "users": len(found.own[way])}


def fact_rows(found: Read) -> Iterator[dict[str, Any]]:
    """One row per memory, cause and updates since the evidence was seen."""
    for way in WRITES:
        for cause in PERSONAL:
            for low, high in pairwise((*AGES, np.inf)):
                part = (found.cause == CAUSES.index(cause)) & (found.since >= low) & (found.since < high)
                if not part.any():
                    continue
                hit = intervals.mean(found.facts[way][part].astype(np.float64), found.user[part])
                name = f"{low}" if high == low + 1 else f"{low}+" if high == np.inf else f"{low}-{high - 1:.0f}"
                row = {"write": way, "cause": cause, "updates_since": name, "targets": int(part.sum())}
                yield (
                    row
                    | rounded(hit._asdict(), "recall10")
                    | {"recall10_oracle": round(float(found.best[part].mean()), 6)}
                )


def long_rows(arguments: argparse.Namespace, out: Path) -> Iterator[dict[str, Any]]:
    """Train, read, and say what was found, seed by seed."""
    folders = cells(arguments.overrides, out, arguments.jobs)
    asked = sorted(arguments.updates)
    for seed in range(len(folders["full"])):
        chosen = {way: several[seed] for way, several in folders.items()}
        found, rule = measured(chosen, asked, arguments.users, arguments.events, arguments.window)
        name = {"dataset": NAME, "memory": "recurrent", "seed": late.opened(chosen["full"])[1].seeds[0]}
        for row in (*update_rows(found, rule, asked), *fact_rows(found)):
            yield name | row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    long, lags = commands.add_parser("long"), commands.add_parser("late")
    lags.add_argument("recipe", help="a shipped name or a .yaml file")
    lags.add_argument("--queries", type=int, default=3000, help="that are asked at most")
    long.add_argument("--users", type=int, default=128)
    long.add_argument("--events", type=int, default=20_000, help="of each of them")
    long.add_argument("--updates", type=int, nargs="+", default=[10, 50, 100, 500])
    long.add_argument("--window", type=int, default=1024, help="events that full reads")
    for command in (long, lags):
        command.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
        command.add_argument("--jobs", type=int, default=2)
        command.add_argument("--out", type=Path, help="runs/drift/<name> unless given")
        command.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
        command.add_argument("--append", action="store_true", help="keep what the file has of other data sets")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = NAME if arguments.what == "long" else recipe.load(arguments.recipe, arguments.overrides).name
    out = arguments.out or Path("runs/drift") / (arguments.what if arguments.what == "long" else f"late-{name}")
    if arguments.what == "long":
        rows = list(long_rows(arguments, out))
    else:
        rows = list(late.rows(arguments.recipe, arguments.overrides, out, arguments.jobs, arguments.queries))
    before = machine.rows_of(arguments.json) if arguments.append else []
    machine.write(arguments.json, rows, keep=[row for row in before if row["dataset"] != name])


if __name__ == "__main__":
    main()
