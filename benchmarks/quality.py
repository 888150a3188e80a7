"""Quality of full, recent and compressed history: trains every cell of a recipe's grid, then compares them in pairs.

    python benchmarks/quality.py ml-1m --json benchmarks/results/quality_ml-1m.json

Each history and seed is one `persrec fit` in a process of its own, `--jobs` of them at a time with one thread each; a
cell that is complete is kept, an interrupted one goes on. Rows: one per cell, with 95% intervals clustered by user; one
per pair of histories, the ratio of their mean NDCG@10 over the same users and seeds, paired, users and seeds resampled.
`--memory-tests` adds rows of the compressed models with their memories emptied, and with those of another user.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks import machine
from persrec import intervals, recipe, run
from persrec.evaluation import Evaluation, EvaluationSettings, evaluate
from persrec.models.interfaces import Memory
from persrec.models.model import Model
from persrec.recipe import Recipe
from persrec.serving.recommender import Recommender

ROOT = Path(__file__).resolve().parent.parent
PAIRS = (("compressed", "full"), ("compressed", "recent"), ("full", "recent"))
METRIC = "ndcg@10"


def train(name: str, cells: list[Recipe], overrides: list[str], out: Path, jobs: int) -> None:
    """Fit every cell that is not complete, `jobs` at a time."""

    def fit(cell: Recipe) -> None:
        folder = out / f"{cell.history}-seed{cell.seeds[0]}"
        chosen = [*overrides, f"history={cell.history}", f"seeds=[{cell.seeds[0]}]", "training.threads=1"]
        sets = [part for value in chosen for part in ("--set", value)]
        code = "from persrec.cli import main; main()"
        command = [sys.executable, "-c", code, "fit", name, *sets, "--out", str(folder), "--resume"]
        out.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (out / f"{folder.name}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
        print(f"{time.strftime('%H:%M:%S')} {folder} is complete", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(fit, cells))


class Cell:
    """A trained history and seed, and what the test targets say of it."""

    def __init__(self, folder: Path) -> None:
        self.run = run.load(folder)
        self.recommender = Recommender.load(folder)
        self.recipe = self.recommender.recipe
        self.found = self.evaluate(self.recommender.model)

    def evaluate(self, model: Model) -> Evaluation:
        """Ranks of the test targets."""
        settings = EvaluationSettings(
            time=self.recipe.time, length=self.recipe.length, **self.recipe.evaluation.model_dump()
        )
        return evaluate(model, self.recommender.prepared(), settings)

    def row(self, found: Evaluation, named: bool, history: str) -> dict[str, Any]:
        """The flat row of some ranks of this cell."""
        means = {metric: intervals.mean(found.values(metric), found.user) for metric in ("recall@10", METRIC)}
        memory = self.recipe.memory
        return common(self.recipe, named) | {
            "model": "hstu",
            "history": history,
            "seed": self.recipe.seeds[0],
            "recall10": round(means["recall@10"].mean, 6),
            "ndcg10": round(means[METRIC].mean, 6),
            "low": round(means[METRIC].low, 6),
            "high": round(means[METRIC].high, 6),
            "S": memory.segment,
            "R": memory.recent,
            "K": memory.tokens,
            "layers": self.recipe.model.layers,
            "bytes_per_user": round(found.bytes_per_user, 1),
            "seconds": round(self.run.metrics["seconds"], 1),
            "epochs": self.run.metrics["epochs"],
            "validation_ndcg10": round(self.run.metrics["validation_ndcg@10"], 6),
        }


def common(chosen: Recipe, named: bool) -> dict[str, Any]:
    """What cells and pairs both say."""
    seen = "excluded" if chosen.evaluation.exclude_seen else "included"
    return {
        "dataset": chosen.name,
        "time": chosen.time,
        "reads": chosen.memory.reads,
        "protocol": f"{chosen.split}, full ranking, seen items {seen}, length {chosen.length}",
        "named": named,
    }


def pairs(cells: list[Cell], named: bool) -> Iterator[dict[str, Any]]:
    """One row per pair of histories that are there with the same seeds."""
    for over, under in PAIRS:
        sides = [{c.recipe.seeds[0]: c.found for c in cells if c.recipe.history == form} for form in (over, under)]
        seeds = sorted(sides[0].keys() & sides[1].keys())
        if not seeds:
            continue
        users = sides[0][seeds[0]].user
        above, below = ([side[seed].values(METRIC) for seed in seeds] for side in sides)
        ratio = intervals.ratio(above, below, users)
        yield common(cells[0].recipe, named) | {
            "pair": f"{over}/{under}",
            "mean": round(ratio.mean, 4),
            "low": round(ratio.low, 4),
            "high": round(ratio.high, 4),
            "seeds": len(seeds),
        }


def without_memory(model: Model, *, swapped: bool) -> Model:
    """The model with every memory emptied, or replaced by that of the next user of the batch, when it reads."""
    step = model.backbone.step

    def other(memory: Memory | None) -> Memory | None:
        if memory is None:
            return None
        if not swapped:
            return replace(memory, valid=torch.zeros_like(memory.valid))
        giver = torch.arange(len(memory.count))
        for count in memory.count.unique():  # of as many events, so that no memory lies in the reader's future
            same = (memory.count == count).nonzero().flatten()
            giver[same] = same.roll(1)
        moved = {name: getattr(memory, name)[giver] for name in ("states", "time", "position", "valid", "weight")}
        return replace(memory, **moved)

    def patched(
        rows: Any, memory: Memory | None = None, *, keep: Any = None, visible: Any = None, chain: Any = None
    ) -> Any:
        return step(rows, memory if keep is not None else other(memory), keep=keep, visible=visible, chain=chain)

    model.backbone.step = patched  # type: ignore[method-assign]
    return model


def memory_tests(cells: list[Cell], named: bool) -> Iterator[dict[str, Any]]:
    """The compressed models once more, with their memories taken away and with those of others."""
    for cell in cells:
        if cell.recipe.history != "compressed":
            continue
        for swapped in (False, True):
            fresh = Recommender.load(cell.run.folder).model
            found = cell.evaluate(without_memory(fresh, swapped=swapped))
            name = "compressed, memory of another user" if swapped else "compressed, memory emptied"
            kept = intervals.ratio([found.values(METRIC)], [cell.found.values(METRIC)], found.user)
            yield cell.row(found, named, name) | {"of_compressed": round(kept.mean, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped name or a .yaml file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--exploratory", action="store_true", help="the recipe was not named before the test")
    parser.add_argument("--memory-tests", action="store_true")
    arguments = parser.parse_args()
    chosen = recipe.load(arguments.recipe, arguments.overrides)
    out = arguments.out / chosen.name
    train(arguments.recipe, chosen.grid(), arguments.overrides, out, arguments.jobs)
    torch.set_num_threads(1)
    cells = [Cell(out / f"{cell.history}-seed{cell.seeds[0]}") for cell in chosen.grid()]
    named = not arguments.exploratory
    rows = [cell.row(cell.found, named, str(cell.recipe.history)) for cell in cells]
    rows += [*pairs(cells, named), *(memory_tests(cells, named) if arguments.memory_tests else [])]
    hours = sum(cell.run.metrics["seconds"] for cell in cells) / 3600
    machine.write(arguments.json, [row | {"core_hours_of_all": round(hours, 2)} for row in rows])
    for row in rows:
        what = row.get("pair") or f"{row['history']}, seed {row['seed']}"
        value = row.get("mean", row.get("ndcg10"))
        print(f"{row['dataset']:24s} {what:44s} {value:.4f} [{row['low']:.4f}, {row['high']:.4f}]")
    forms = {
        form: np.mean([c.found.values(METRIC).mean() for c in cells if c.recipe.history == form])
        for form in chosen.histories
    }
    print(", ".join(f"{form} {mean:.4f}" for form, mean in forms.items()), f"in {hours:.2f} core-hours")


if __name__ == "__main__":
    main()
