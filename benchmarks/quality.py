"""Quality of full, recent and compressed history: trains every cell of a recipe's grid, then compares them in pairs.

    python benchmarks/quality.py ml-1m --json benchmarks/results/quality_ml-1m.json

Each history and seed is one `persrec fit` in a process of its own, `--jobs` of them at a time with one thread each; a
cell that is complete is kept, an interrupted one goes on. Rows: one per cell, with 95% intervals clustered by user; one
per pair of histories, the ratio of their mean NDCG@10 over the same users and seeds, paired, users and seeds resampled;
the retention; and one per memory test of the compressed models.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks import machine
from persrec import run
from persrec.cells import name_of
from persrec.evaluation import comparison
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
PAIRS = (("compressed", "full"), ("compressed", "recent"), ("full", "recent"))
METRIC = "ndcg@10"


def train(
    name: str, cells: list[Recipe], overrides: list[str], out: Path, jobs: int, start: Path | None = None
) -> None:
    """Fit every cell that is not complete, `jobs` at a time; those that start from a full model after all of these.

    With `start`, a folder of full models, all histories go on from the one of their seed there.
    """

    def fit(cell: Recipe) -> None:
        folder = out / name_of(cell)
        values = cell.dump()
        own = [f"{key}={json.dumps(values[key])}" for key in ("history", "seeds", "baselines")]
        chosen = [*overrides, *own, "training.threads=1"]
        sets = [part for value in chosen for part in ("--set", value)]
        code = "from persrec.cli import main; main()"
        command = [sys.executable, "-c", code, "fit", name, *sets, "--out", str(folder), "--resume"]
        models = start if start is not None and cell.histories else out if cell.tuned else None
        command += [] if models is None else ["--from", str(models / f"full-seed{cell.seeds[0]}")]
        out.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (out / f"{folder.name}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
        print(f"{time.strftime('%H:%M:%S')} {folder} is complete", flush=True)

    for late in (False, True):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(fit, [cell for cell in cells if cell.tuned == late]))


def cell_row(done: run.Run, named: bool) -> dict[str, Any]:
    """The flat row of a cell."""
    chosen, found = done.recipe, done.metrics
    validation = found.get("validation_ndcg@10")  # a baseline has none
    return common(done, named) | {
        "model": chosen["model"]["kind"] if chosen["history"] else None,
        "history": found["history"],
        "seed": found["seed"],
        "recall10": round(found["metrics"]["recall@10"]["mean"], 6),
        **rounded(found["metrics"][METRIC], "ndcg10"),
        "S": chosen["memory"]["segment"],
        "R": chosen["memory"]["recent"],
        "K": chosen["memory"]["tokens"],
        "past_set": chosen["memory"].get("past_set", 0.0),
        "layers": chosen["model"]["layers"],
        "bytes_per_user": round(found["bytes_per_user"], 1),
        "seconds": round(found["seconds"], 1),
        "epochs": found["epochs"],
        "validation_ndcg10": None if validation is None else round(validation, 6),
    }


def rounded(interval: dict[str, float], name: str) -> dict[str, float]:
    """A figure under its name, and its bounds."""
    return {name: round(interval["mean"], 6), "low": round(interval["low"], 6), "high": round(interval["high"], 6)}


def memory_rows(done: run.Run, named: bool) -> list[dict[str, Any]]:
    """The same model with its memories taken away, exchanged, and with other boundaries."""
    return [
        cell_row(done, named)
        | {"history": f"compressed, memory {test['memory']}", "of_compressed": round(test["ratio"]["mean"], 4)}
        | rounded(test[METRIC], "ndcg10")
        for test in done.metrics.get("memory_tests", [])
    ]


def common(done: run.Run, named: bool) -> dict[str, Any]:
    """What cells and pairs both say."""
    protocol, chosen = done.metrics["protocol"], done.recipe
    seen = "excluded" if protocol["exclude_seen"] else "included"
    return {
        "dataset": chosen["name"],
        "time": protocol["time"],
        "reads": chosen["memory"]["reads"],
        "protocol": f"{protocol['split']}, full ranking, seen items {seen}, length {protocol['length']}",
        "named": named,
    }


def pair_rows(done: list[run.Run], named: bool) -> list[dict[str, Any]]:
    """One row per pair of histories, and the retention where all three are there."""
    sides = comparison.load([one.folder for one in done])
    forms = {side.history: side for side in sides}
    rows = []
    for over, under in PAIRS:
        if over in forms and under in forms:
            found = comparison.pair(forms[over], forms[under], METRIC)
            row = {
                "pair": f"{over}/{under}",
                **rounded(found.ratio._asdict(), "mean"),
                "p": found.p,
                "seeds": found.seeds,
            }
            rows.append(common(done[0], named) | row)
    return rows + [
        common(done[0], named) | {"pair": "retention", **rounded(kept.kept._asdict(), "mean")}
        for kept in comparison.retention(sides, METRIC)
        if kept.kept is not None
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped name or a .yaml file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--named", action="store_true", help="no test figure of the recipe was seen before")
    arguments = parser.parse_args()
    chosen = recipe.load(arguments.recipe, arguments.overrides)
    out = arguments.out / chosen.name
    train(arguments.recipe, chosen.grid(), arguments.overrides, out, arguments.jobs)
    done = [run.load(out / name_of(cell)) for cell in chosen.grid()]
    named = arguments.named
    rows = [cell_row(one, named) for one in done]
    rows += [row for one in done for row in memory_rows(one, named)] + pair_rows(done, named)
    hours = sum(one.metrics["seconds"] for one in done) / 3600
    machine.write(arguments.json, [row | {"core_hours_of_all": round(hours, 2)} for row in rows])
    for row in rows:
        what = row.get("pair") or f"{row['history']}, seed {row['seed']}"
        value = row.get("mean", row.get("ndcg10"))
        print(f"{row['dataset']:24s} {what:44s} {value:.4f} [{row['low']:.4f}, {row['high']:.4f}]")
    forms = {
        form: np.mean([one.metrics["metrics"][METRIC]["mean"] for one in done if one.metrics["history"] == form])
        for form in chosen.histories
    }
    print(", ".join(f"{form} {mean:.4f}" for form, mean in forms.items()), f"in {hours:.2f} core-hours")


if __name__ == "__main__":
    main()
