"""What it costs to be asked before an update: the `late` part of drift.py.

A store lags: when a query is asked, the record of its user, memory and open events, is that of an earlier moment, and
the events between are not known to anybody. They may be 1, 10, 50 or 200 events, or those of the last 1, 7 or 30 days
before the query; the time of the query and its targets are the same. Items that the record does not know are not
excluded either, where seen items are. What is evaluated is a log from which these events were taken out.

Every lag is measured on the same queries, drawn at random from those of the test with more than 200 events before
them, or with an event at least 30 days older; a row with a lag of 0 stands beside. `of_fresh` is the ratio to it,
paired over users; `unknown_events` the mean number of events that are not known.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality import rounded, train
from persrec import run
from persrec.cells import name_of, protocol
from persrec.evaluation import intervals
from persrec.evaluation.evaluate import evaluate
from persrec.models.build import restored
from persrec.models.model import Model
from persrec.prepared import Prepared, Queries
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe
from persrec.training.settings import carrying

METRIC = "ndcg@10"
DAY = 86_400_000  # ms
LAGS: dict[str, tuple[int, ...]] = {"events": (0, 1, 10, 50, 200), "days": (0, 1, 7, 30)}

Ints = npt.NDArray[np.int64]


def opened(folder: Path) -> tuple[run.Run, Recipe, Model]:
    """A run, its recipe and its model, which does not train."""
    stored = run.load(folder)
    cell = recipe.parse(stored.recipe, f"of run {folder}")
    return stored, cell, restored(cell, stored.weights(), items=len(stored.item_ids())).eval()


def rows(name: str, overrides: list[str], out: Path, jobs: int, most: int) -> Iterator[dict[str, Any]]:
    """Train both forms of a recipe, as far as they are not there, and ask them late; one row per seed and lag.

    Of the queries at most `most` are asked.
    """
    folders = {}
    for history in ("full", "compressed"):
        chosen = [*overrides, f"history={history}", "baselines=[]"]
        grid = recipe.load(name, chosen).grid()
        train(name, grid, chosen, out, jobs)
        folders[history] = [out / name_of(cell) for cell in grid]
    for full, compressed in zip(folders["full"], folders["compressed"], strict=True):
        yield from cell_rows(full, compressed, most)


def cell_rows(full: Path, compressed: Path, most: int) -> Iterator[dict[str, Any]]:
    """One row per lag of a pair of runs."""
    stored, cell, model = opened(compressed)
    whole = opened(full)[2]
    data = carrying(run.open_log(stored.data, cell.split.name), cell)
    for unit, lags in LAGS.items():
        asked = np.flatnonzero(known(data, unit, max(lags)) >= 1)
        asked = np.sort(np.random.default_rng(0).permutation(asked)[:most])
        if not len(asked):
            print(f"{cell.name}: no query has anything to know {max(lags)} {unit} before it", flush=True)
            continue
        queries, fresh = data.test.take(asked), None
        for lag in lags:
            ends = known(data, unit, lag)[asked]
            values, beside = (late_values(one, data, queries, ends, cell) for one in (model, whole))
            fresh = values if fresh is None else fresh
            row = {
                "dataset": cell.name,
                "memory": cell.memory.kind,
                "write": cell.memory.write if cell.memory.kind == "recurrent" else None,
                "seed": cell.seeds[0],
                "updates": None,
                "unfolded_events": lag if unit == "events" else None,
                "unfolded_days": lag if unit == "days" else None,
                **rounded(intervals.mean(values, queries.user)._asdict(), "ndcg10"),
                "ndcg10_full": round(float(beside.mean()), 6),
                "unknown_events": round(float((queries.end - ends).mean()), 2),
                "queries": len(ends),
                "users": len(np.unique(queries.user)),
            }
            yield row | {
                f"of_fresh{bound}": round(value, 4)
                for bound, value in zip(
                    ("", "_low", "_high"), intervals.ratio([values], [fresh], queries.user), strict=True
                )
            }


def known(data: Prepared, unit: str, lag: int) -> Ints:
    """(Q,) events that the record of each test query's user holds; 0 or less where there is none."""
    end = data.test.end
    if unit == "events":
        return end - lag
    if data.times is None:
        return np.zeros_like(end)
    first = data.offsets[data.test.user]
    asked = data.times[first + end] - lag * DAY
    spans = zip(first, end, asked, strict=True)
    found = (np.searchsorted(data.times[start : start + count], time, side="right") for start, count, time in spans)
    return np.fromiter(found, dtype=np.int64, count=len(end)) if lag else end


def late_values(model: Model, data: Prepared, queries: Queries, ends: Ints, cell: Recipe) -> npt.NDArray[np.float64]:
    """The metric of each query (Q,), with `ends` (Q,) events before its targets."""
    return evaluate(model, lagging(data, queries, ends), protocol(cell)).values(METRIC)


def lagging(data: Prepared, queries: Queries, ends: Ints) -> Prepared:
    """A log with a user for each query, who has had `ends` events and then the query's targets."""
    counts = ends + queries.size
    offsets = np.concatenate([[0], np.cumsum(counts)])
    user = np.repeat(np.arange(len(ends)), counts)
    within = np.arange(len(user)) - offsets[user]
    skipped = np.where(within < ends[user], 0, (queries.end - ends)[user])
    place = data.offsets[queries.user][user] + within + skipped
    fields = ("items", "times", "ratings", "weights", "dwells", "events")
    taken: dict[str, Any] = {
        name: None if getattr(data, name) is None else getattr(data, name)[place] for name in fields
    }
    test = Queries(np.arange(len(ends)), ends, queries.size)
    return replace(data, offsets=offsets, train_end=np.zeros_like(ends), test=test, **taken)
