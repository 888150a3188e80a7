"""persrec beside RecTools 0.19: speed, memory and quality, in turn, on the same targets, one thread each.

    python benchmarks/peers.py ml-100k ml-1m --json benchmarks/results/peers.json
    python benchmarks/peers.py amazon-beauty --json benchmarks/results/peers.json --append

RecTools runs in an environment of its own, `--hosts`, which is made if it is not there, as `make test-hosts` does. Each
model is trained and asked in a process of its own, first RecTools', then persrec's. The same for both: width, blocks,
heads, dropout, length, sequences of a step, epochs, which loss over which items, and whether a row knows when it is
asked (HSTU with times: it does; SASRec: it does not). But compressed histories are of any length, as only then memories
are folded once and kept, and their rows say so; no step of theirs reads more events than one of RecTools' can. Of
either library the weights of the best epoch by validation answer: the ten best of the whole catalogue but for all seen
items, scored by one function. Optimizer, schedule and scores are each library's own. A cell that is in `--out` is not
trained again. `--append` keeps the rows of other data sets in the file.

Seconds per epoch are medians, without validation. `seconds_to_target` is when the validation NDCG@10 first reached that
of RecTools' last epoch. `peak_mb` is the largest resident size of the process. Answers are timed as the best of three
rounds: lists for all users as a frame, from histories that are in memory, or from a store of memories, whose lists are
held against those from histories that are asked at the same times, the users' last events; and Recall and NDCG of the
lists, by each library's own functions.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks import machine, peers_shared
from benchmarks.peers_rows import Measured, rows, show
from benchmarks.peers_shared import Asked, Log, Settings, ndcg, recall
from persrec import api
from persrec.prepared import Prepared, open_prepared
from persrec.recipe import recipe

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Preset:
    """How a data set is compared unless the command line says otherwise."""

    recipe: str
    epochs: int
    models: tuple[str, ...]  # model/sampling
    histories: tuple[str, ...]
    overrides: tuple[str, ...] = ()  # of persrec's recipe
    published: tuple[float, float] | None = None  # best Recall@10 and NDCG@10 of eSASRec's benchmark (arXiv 2508.06450)


QUICK = (  # for a few hundred steps; what is read while training is the default
    "training.learning_rate=0.004",
    "training.warmup_steps=10",
    "training.ema=null",
    "memory.reads=0.3",
)
BOTH = ("hstu/negatives", "sasrec/softmax")
PRESETS = {
    "ml-100k": Preset("ml-100k", 20, BOTH, ("full", "compressed"), QUICK),
    "ml-1m": Preset("ml-1m", 4, BOTH, ("full", "compressed"), QUICK),
    "amazon-beauty": Preset("amazon-beauty", 30, ("sasrec/negatives",), ("full",), (), (0.0928, 0.0531)),
    "amazon-sports": Preset("amazon-sports", 30, ("sasrec/negatives",), ("full",), (), (0.0569, 0.0323)),
}


class Cell(NamedTuple):
    """One model of one library."""

    library: str
    settings: Settings
    place: Path


def interpreter(hosts: Path) -> Path:
    """RecTools' Python; its environment is made by the rule of the Makefile where there is none."""
    hosts = hosts.absolute()
    if not (hosts / "bin" / "python").exists():
        subprocess.run(["make", f"HOSTS={hosts}", f"{hosts}/.installed"], check=True, cwd=ROOT)
    return hosts / "bin" / "python"


def log_of(data: Prepared) -> Log:
    """A prepared log as plain arrays."""
    items = data.items.astype(np.int64)
    asked = [Asked(queries.user, queries.end) for queries in (data.validation, data.test)]
    return Log(data.offsets, items, data.times, data.train_end, *asked)


def cells(name: str, arguments: argparse.Namespace, folder: Path) -> Iterator[Cell]:
    """Everything to train on a data set, RecTools first."""
    preset = PRESETS[name]
    overrides = (*preset.overrides, *arguments.overrides)
    chosen = recipe.load(preset.recipe, overrides)
    if chosen.time == "last":
        raise SystemExit("time: got last, expected none or next: RecTools' HSTU knows when it is asked, or no time")
    for seed in arguments.seeds:
        for what in arguments.models or preset.models:
            model, sampling = what.split("/")
            common = Settings(
                model=model,
                sampling=sampling,
                negatives=arguments.negatives,
                time=chosen.time if model == "hstu" else "none",
                width=chosen.model.width,
                layers=chosen.model.layers,
                heads=chosen.model.heads,
                dropout=chosen.model.dropout,
                length=chosen.length or 200,
                batch=chosen.training.batch_users or 128,
                events=None,
                epochs=arguments.epochs or preset.epochs,
                seed=seed,
                folder=str(folder),
                recipe=preset.recipe,
                overrides=overrides,
                history="full",
            )
            theirs: dict[str, Any] = {"overrides": (), "epochs": arguments.rectools_epochs or common.epochs}
            longer = {"length": None, "events": common.batch * (common.length or 0)}
            own: list[tuple[str, dict[str, Any]]] = [
                ("persrec", {"history": history} | (longer if history == "compressed" else {}))
                for history in arguments.histories or preset.histories
            ]
            for library, changed in [("rectools", theirs), *own]:
                settings = replace(common, **changed)
                file = f"{name}-{library}-{model}-{sampling}-{settings.history}-seed{seed}.npz"
                yield Cell(library, settings, arguments.out / file)


def train(cell: Cell, log: Path, pythons: dict[str, Path]) -> None:
    """Train and ask a model in a process of its own, unless that has been done."""
    given = json.dumps(asdict(cell.settings))
    if cell.place.exists():
        before = peers_shared.found(cell.place)[1]["settings"]
        if before | {"folder": ""} != json.loads(given) | {"folder": ""}:
            raise SystemExit(
                f"{cell.place}: was trained with other settings, {before}; remove it or choose another --out"
            )
        return
    script = ROOT / "benchmarks" / f"peers_{cell.library}.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    print(f"{cell.place.stem}:", flush=True)
    subprocess.run([pythons[cell.library], script, log, cell.place, given], check=True, env=environment)


def measured(cell: Cell, log: Log) -> Measured:
    """Score the lists of a cell."""
    lists, about = peers_shared.found(cell.place)
    targets = log.targets(log.test)
    return Measured(cell.library, cell.settings, about, ndcg(lists, targets), recall(lists, targets))


def published(name: str) -> list[dict[str, Any]]:
    """What others report on a data set."""
    best = PRESETS[name].published
    if best is None:
        return []
    cell = {"dataset": name, "library": "published", "model": "best cell of arXiv 2508.06450"}
    return [cell | dict(zip(("recall10", "ndcg10"), best, strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", choices=PRESETS)
    parser.add_argument("--models", nargs="+", metavar="MODEL/SAMPLING", help="hstu or sasrec / negatives or softmax")
    parser.add_argument("--histories", nargs="+", choices=("full", "compressed"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rectools-epochs", type=int, help="of RecTools, where it is to have another number")
    parser.add_argument("--negatives", type=int, default=128, help="for each position, uniform")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of persrec")
    parser.add_argument("--hosts", type=Path, default=Path(".venv-hosts"), help="environment with RecTools")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--append", action="store_true", help="keep what the file has of other data sets")
    parser.add_argument("--named", action="store_true", help="no test figure of the recipe was seen before")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pythons = {"persrec": Path(sys.executable), "rectools": interpreter(arguments.hosts)}
    found = []
    for name in arguments.datasets:
        folder = api.prepare(PRESETS[name].recipe)
        log, file = log_of(open_prepared(folder)), arguments.out / f"{name}.npz"
        log.save(file)
        todo = list(cells(name, arguments, folder))
        for cell in todo:
            train(cell, file, pythons)
        done = [measured(cell, log) for cell in todo]
        found += list(rows(name, done, log.test.user, named=arguments.named))
        found += published(name)
    machine.write(arguments.json, found, keep=others(arguments.json, arguments.datasets) if arguments.append else [])
    show(found)


def others(path: str | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a file that are of other data sets."""
    return [row for row in machine.rows_of(path) if row["dataset"] not in names]


if __name__ == "__main__":
    main()
