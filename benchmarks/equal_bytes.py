"""What each way to compress a history keeps, at which bytes per user and at which cost of a read.

    python benchmarks/equal_bytes.py synthetic-old-signal --json benchmarks/results/equal_bytes.json --append

Eight models per recipe and seed are trained as in quality.py (complete cells are kept); those with a memory are then
evaluated in every encoding, without further training. Bytes are those of a store's records: memory with its scales,
open events, seen items, key and rest. `raw` is the full model with all events kept open: the whole history, packed, and
recomputed at each read. Milliseconds are from clear events and memory to the query of one user, one thread. Rows: one
per model, encoding and seed, then one per model and encoding with the retention over all seeds, paired over users.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import polars as pl
import torch

from benchmarks import machine
from benchmarks.quality import rounded, train
from persrec import run
from persrec.batches import evaluation_windows
from persrec.cells import name_of, protocol
from persrec.evaluation import intervals
from persrec.evaluation.evaluate import Evaluation, evaluate
from persrec.models.build import restored
from persrec.models.encodings import NAMES
from persrec.page.reading_cost import milliseconds
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe
from persrec.serving.recommender import Recommender

METRIC = "ndcg@10"
SAMPLE = 200  # users whose reads are timed
Found = dict[tuple[str, str], list[tuple[Evaluation, dict[str, float]]]]  # by way and encoding, one per seed


class Way(NamedTuple):
    """A model to train, and the encodings in which its memory is kept."""

    history: str
    memory: dict[str, Any]
    encodings: tuple[str, ...] = NAMES


WAYS = {
    "raw": Way("full", {}, ("float32",)),
    "recent": Way("recent", {}, ("float32",)),
    "layered": Way("compressed", {"kind": "layered", "tokens": 4}),
    "recurrent": Way("compressed", {"kind": "recurrent", "tokens": 4}),
    "recurrent, 3 tokens": Way(
        "compressed", {"kind": "recurrent", "tokens": 3, "encoding": "int4", "straight_through": True}, ("int4",)
    ),
    "decayed means": Way("compressed", {"kind": "decayed_mean", "tokens": 4}),
    "prototypes": Way("compressed", {"kind": "prototypes", "tokens": 16}),
    "merged neighbours": Way("compressed", {"kind": "merged_neighbours", "tokens": 16}),
}
NAMED = {("recurrent", "float32"): 1024, ("recurrent, 3 tokens", "int4"): 128}  # for so many bytes of memory at most


def cells(name: str, overrides: list[str], ways: list[str], out: Path, jobs: int) -> dict[str, list[Path]]:
    """Train what is not there yet; the run folders of each way, by seed."""
    found = {}
    for way in ways:
        history, memory, _ = WAYS[way]
        own = [f"memory.{key}={json.dumps(value)}" for key, value in memory.items()]
        chosen = [*overrides, *own, f"history={history}", "baselines=[]"]
        grid = recipe.load(name, chosen).grid()
        folder = out / way.replace(", ", "-").replace(" ", "-")
        train(name, grid, chosen, folder, jobs)
        found[way] = [folder / name_of(cell) for cell in grid]
    return found


def encoded(folder: Path, encoding: str, store: Path) -> Recommender:
    """The recommender of a run whose memories are kept in this encoding, with a store to be made."""
    stored = run.load(folder)
    changed = {**stored.recipe, "memory": {**stored.recipe["memory"], "encoding": encoding}}
    cell, item_ids = recipe.parse(changed, f"of run {folder}"), pl.Series("item_id", stored.item_ids())
    model = restored(cell, stored.weights(), items=len(item_ids))
    return Recommender(model=model, recipe=cell, item_ids=item_ids, data=stored.data, store=store)


def measured(folder: Path, way: str, encoding: str) -> tuple[Evaluation, dict[str, float]]:
    """Quality, bytes and cost of a read of one run in one encoding."""
    with tempfile.TemporaryDirectory() as place, encoded(folder, encoding, Path(place) / "store") as one:
        one.compress(raw=way == "raw")
        stats = one.stats()
    data = one.prepared()
    found = evaluate(one.model, data, protocol(one.recipe))
    users = np.random.default_rng(0).choice(len(data.test.user), min(SAMPLE, len(data.test.user)), replace=False)
    windows = evaluation_windows(data.test.user[users], data.test.end[users], length=one.recipe.length)
    spent = milliseconds(one.model, data, windows, one.recipe.time)
    return found, {
        "memory_bytes": round(stats["memory_bytes"] / stats["users"], 1),
        "total_bytes": round(stats["payload_bytes"] / stats["users"], 1),
        "read_ms": round(float(np.mean(spent)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped name or a .yaml file, with all three forms in its grid")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="raw and recent among them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="runs/equal_bytes/<name> unless given")
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--append", action="store_true", help="keep what the file has of other data sets")
    parser.add_argument("--named", action="store_true", help="no test figure of the recipe was seen before")
    arguments = parser.parse_args()
    chosen = recipe.load(arguments.recipe, arguments.overrides)
    out = arguments.out or Path("runs/equal_bytes") / chosen.name
    folders = cells(arguments.recipe, arguments.overrides, arguments.ways, out, arguments.jobs)
    torch.set_num_threads(1)
    found = {
        (way, encoding): [measured(folder, way, encoding) for folder in folders[way]]
        for way in folders
        for encoding in WAYS[way].encodings
    }
    rows = list(all_rows(chosen, found, named=arguments.named))
    before = machine.rows_of(arguments.json) if arguments.append else []
    machine.write(arguments.json, rows, keep=[row for row in before if row["dataset"] != chosen.name])


def all_rows(chosen: Recipe, found: Found, *, named: bool) -> Iterator[dict[str, Any]]:
    """One row per model, encoding and seed, and one over the seeds with the retention."""
    values = {key: [one.values(METRIC) for one, _ in several] for key, several in found.items()}
    users = next(iter(found.values()))[0][0].user
    for (way, encoding), several in found.items():
        shared = {
            "dataset": chosen.name,
            "protocol": chosen.split.name,
            "compressor": way,
            "encoding": encoding,
            "named": named,
            "named_for_bytes": NAMED.get((way, encoding)),
        }
        for seed, own, (_, costs) in zip(chosen.seeds, values[way, encoding], several, strict=True):
            yield shared | {"seed": seed} | rounded(intervals.mean(own, users)._asdict(), "ndcg10") | costs
        sides = [values[key] for key in ((way, encoding), ("recent", "float32"), ("raw", "float32"))]
        (mean, means), (recent, recents), (full, fulls) = intervals.paired(sides, users)
        kept = intervals.quotient(mean - recent, means - recents, full - recent, fulls - recents)
        gain = intervals.quotient(full, fulls, recent, recents)
        costs = {name: round(float(np.mean([cost[name] for _, cost in several])), 3) for name in several[0][1]}
        row = shared | {"seeds": len(several)} | rounded(intervals.interval(mean, means)._asdict(), "ndcg10") | costs
        bounds = kept if gain.low > 1 else (None, None, None)
        row |= {
            name: None if bound is None else round(bound, 6)
            for name, bound in zip(("retention", "retention_low", "retention_high"), bounds, strict=True)
        }
        print(f"{way:22s} {encoding:8s} {row}", flush=True)
        yield row


if __name__ == "__main__":
    main()
