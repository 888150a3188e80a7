"""Does history help, and how much of that does a memory keep? Trains a recipe's grid and compares it group by group.

    python benchmarks/evidence.py online-retail --json benchmarks/results/evidence.json --append
    python benchmarks/evidence.py online-retail --set repeat=none --out runs/evidence/plain --json ... --append

Cells are trained as in quality.py. Rows: one per cell and group of the targets (`bucket`), and one per pair and group,
the ratio of the mean NDCG@10 over the same users and seeds with its 95% interval; where full differs from recent, the
pair compressed/full also holds the retention. Compressed models have a row per memory test, full models one per test on
recent events alone, all models the loss by number of clear events at the end of training. Baselines of the recipe stand
beside, and with `--window R` recent history with so many clear events, as dear to read as a memory (R of the recipe,
and the mean number of its rows). `--append` keeps the rows of other recipes, protocols and repeat heads in the file.
With `--from`, all histories go on from a trained full model: full itself too, so that none is trained for longer than
another. With `--beside`, models of other histories come from another folder of this script's, as full and recent
models are the same whatever the memory:

    python benchmarks/evidence.py synthetic-causes --set memory.kind=recurrent --set history=compressed \
        --beside runs/evidence/synthetic-causes-last-10-none --out runs/evidence/recurrent
"""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks import causes, machine
from benchmarks.quality import rounded, train
from persrec import metrics, run
from persrec.cells import evaluate_again, name_of
from persrec.evaluation import comparison
from persrec.evaluation.comparison import Side
from persrec.evaluation.intervals import means
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe

METRIC = "ndcg@10"
LONG = 60  # events before the target, above which a history is called long
MODELS = ("full", "recent", "compressed")
OF_MODELS = ("model", "reads", "repeat", "K", "memory", "begin", "past_set", "start")
GROUPS = ("history length", "last consumption of the item")
PAIRS = (("full", "recent"), ("compressed", "full"), ("compressed", "recent"))
WIDER = "recent-"  # and how many clear events
EARLIER = {"begin": "learned"}  # of rows from before there was a choice
CLEAR_EVENTS = "clear_events.csv"
Part = npt.NDArray[np.bool_]


def wider(arguments: argparse.Namespace, out: Path) -> Side:
    """Recent history with a window of its own, trained as the others are."""
    name = f"{WIDER}{arguments.window}"
    overrides = [*arguments.overrides, f"memory.recent={arguments.window}"]
    cells = recipe.load(arguments.recipe, [*overrides, "history=recent", "baselines=[]"]).grid()
    train(arguments.recipe, cells, overrides, out / name, arguments.jobs, arguments.start)
    (side,) = comparison.load([out / name / name_of(cell) for cell in cells])
    return replace(side, name=name, history=name)


def complete(out: Path, beside: Path | None) -> list[Path]:
    """The runs of a folder, and of another one those of histories, or seeds of them, that the first has not."""
    found: dict[str, Path] = {}
    for folder in [out] if beside is None else [beside, out]:
        own = sorted(path.parent for path in folder.glob(f"*/{run.MANIFEST}"))
        if not own:
            raise SystemExit(f"{folder}: got no complete run in it, expected those that this script has made there")
        found |= {one.name: one for one in own if folder == out or not one.name.startswith("compressed")}
    return sorted(found.values())


def parts_of(side: Side) -> list[tuple[str, Part | None]]:
    """All targets, then each group of them."""
    found: list[tuple[str, Part | None]] = [("all", None)]
    if side.recipe["data"]["source"] == "causes":
        found += causes.parts(side)
    for what in GROUPS:
        found += [(f"{what}: {name}", part) for name, part in comparison.groups(side, what)]
    long = next(iter(side.tables.values())).column("end").to_numpy() > LONG
    return [*found, (f"more than {LONG} events before", long)] if long.any() else found


def own(history: str) -> dict[str, Any]:
    """What the rows of a history say otherwise than those of the recipe."""
    if history in MODELS:
        return {}
    if history.startswith(WIDER):
        return {"R": int(history.removeprefix(WIDER))}
    return dict.fromkeys((*OF_MODELS, "S") if history == causes.CLEAR else (*OF_MODELS, "S", "R"))


def cell_rows(side: Side, bucket: str, part: Part | None) -> list[dict[str, Any]]:
    """One row per seed of a side."""
    targets = comparison.targets_of(side)
    chosen = np.ones(len(targets.query), dtype=bool) if part is None else part
    queries, counts = np.unique(targets.query[chosen], return_counts=True)
    rows = []
    for seed, table in sorted(side.tables.items()):
        values = metrics.per_user(table.column("rank").to_numpy()[chosen], counts, (10,))
        ndcg, recall = means(np.stack([values[METRIC], values["recall@10"]]), targets.queries.user[queries])
        figures = {**rounded(ndcg._asdict(), "ndcg10"), "recall10": round(recall.mean, 6)}
        rows.append({"bucket": bucket, "queries": len(queries), "history": side.history, "seed": seed, **figures})
    return [row | own(side.history) for row in rows]


def gap_row(side: Side, known: list[Side], bucket: str, part: Part | None) -> dict[str, Any]:
    """The mean over seeds of a side between the two oracles."""
    over = comparison.mean(side, METRIC, part)
    row = {"bucket": bucket, "history": side.history, "seeds": len(side.tables), **rounded(over._asdict(), "ndcg10")}
    return row | causes.closed(side, known, METRIC, part) | own(side.history)


def pair_rows(sides: dict[str, Side], bucket: str, part: Part | None) -> list[dict[str, Any]]:
    """One row per pair of histories, and of full and compressed against personal frequency, with and without decay."""
    counting = [name for name in sides if name.startswith("personal_frequency")]
    wanted = [*PAIRS, *((model, name) for model in ("full", "compressed") for name in counting)]
    wanted += [("compressed", name) for name in sides if name.startswith(WIDER)]
    kept = comparison.retention(list(sides.values()), METRIC, part)
    rows = []
    for over, under in wanted:
        if over not in sides or under not in sides:
            continue
        found = comparison.pair(sides[over], sides[under], METRIC, part)
        row = {"bucket": bucket, "pair": f"{over}/{under}", "history": over, "against": under, "seeds": found.seeds}
        row |= rounded(found.ratio._asdict(), "mean") | {"p": found.p}
        if (over, under) == ("compressed", "full") and kept and kept[0].kept is not None:
            row |= {"retention": round(kept[0].kept.mean, 4), "retention_low": round(kept[0].kept.low, 4)}
        rows.append(row)
    return rows


def worth_rows(done: run.Run) -> list[dict[str, Any]]:
    """A full model on recent events alone; a compressed one with its memories taken away, exchanged, and with other
    boundaries. Full models of before there was such a test are asked now."""
    found = done.metrics
    if found["history"] == "full" and "history_tests" not in found:
        found = evaluate_again(done.folder, ())[2]
    asked = [("full", f"full, {test['history']}", test) for test in found.get("history_tests", [])]
    asked += [("compressed", f"compressed, memory {test['memory']}", test) for test in found.get("memory_tests", [])]
    return [
        {"bucket": "all", "history": name, "seed": done.metrics["seed"], f"of_{model}": round(test["ratio"]["mean"], 4)}
        | {f"of_{model}_{end}": round(test["ratio"][end], 4) for end in ("low", "high")}
        | {key: test[key] for key in ("queries", "got_none") if key in test}
        | rounded(test[METRIC], "ndcg10")
        for model, name, test in asked
    ]


def loss_rows(done: run.Run, recent: int, segment: int) -> list[dict[str, Any]]:
    """Training loss in the last epoch by number of clear events: below R, in the halves of R to R+S-1, and above."""
    if not (done.folder / CLEAR_EVENTS).is_file():
        return []
    table = pl.read_csv(done.folder / CLEAR_EVENTS).filter(pl.col("epoch") == pl.col("epoch").max())
    edges = [recent, recent + segment // 2, recent + segment]
    names = [f"clear events: below {edges[0]}", *(f"clear events: {a}-{b - 1}" for a, b in pairwise(edges))]
    place = np.searchsorted(edges, table["clear_events"].to_numpy(), side="right")
    rows = []
    for number, name in enumerate([*names, f"clear events: {edges[-1]} or more"]):
        losses, weights = (table[column].to_numpy()[place == number] for column in ("loss", "rows"))
        if weights.sum():
            loss = round(float(np.average(losses, weights=weights)), 6)
            rows.append({"bucket": name, "loss": loss} | {key: done.metrics[key] for key in ("history", "seed")})
    return rows


def common(chosen: Recipe, named: bool, start: Path | None) -> dict[str, Any]:
    """What all rows of a recipe say."""
    return {
        "dataset": chosen.name,
        "protocol": chosen.split.name,
        "gap_hours": chosen.split.gap_hours,
        "model": chosen.model.kind,
        "reads": chosen.memory.reads,
        "repeat": chosen.repeat,
        "S": chosen.memory.segment,
        "R": chosen.memory.recent,
        "K": chosen.memory.tokens,
        "memory": chosen.memory.kind,
        "begin": chosen.memory.begin,
        "past_set": chosen.memory.past_set,
        "start": None if start is None else "full",
        "data": hashlib.sha256(chosen.data.model_dump_json(exclude={"path"}).encode()).hexdigest()[:8],
        "named": named,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped name or a .yaml file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--window", type=int, metavar="R", help="clear events of recent history as dear as a memory")
    parser.add_argument("--from", dest="start", type=Path, metavar="FOLDER", help="of full models to go on from")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="of runs of the other histories")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="runs/evidence/<name>-<split>-<repeat> unless given")
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--append", action="store_true", help="keep what the file has of other settings")
    parser.add_argument("--named", action="store_true", help="no test figure of the recipe was seen before")
    arguments = parser.parse_args()
    chosen = recipe.load(arguments.recipe, arguments.overrides)
    out = arguments.out or Path("runs/evidence") / f"{chosen.name}-{chosen.split.name}-{chosen.repeat}"
    train(arguments.recipe, chosen.grid(), arguments.overrides, out, arguments.jobs, arguments.start)
    folders = complete(out, arguments.beside)
    sides = {side.name: side for side in comparison.load(folders)}
    if arguments.window is not None:
        sides[f"{WIDER}{arguments.window}"] = wider(arguments, out)
    shared = common(chosen, arguments.named, arguments.start)
    done = [run.load(folder) for folder in folders]
    hours = round(sum(one.metrics["seconds"] for one in done) / 3600, 2)
    whole = shared | {"settings": digest(shared), "core_hours_of_all": hours}
    whole |= causes.settings(chosen) if chosen.data.source == "causes" else {}
    rows = [whole | row for one in done for row in worth_rows(one)]
    rows += [whole | row for one in done for row in loss_rows(one, chosen.memory.recent, chosen.memory.segment)]
    known = causes.oracles(next(iter(sides.values()))) if chosen.data.source == "causes" else []
    for bucket, part in parts_of(next(iter(sides.values()))):
        found = [row for side in (*sides.values(), *known) for row in cell_rows(side, bucket, part)]
        found += [gap_row(side, known, bucket, part) for side in sides.values() if known]
        rows += [whole | row for row in found + pair_rows(sides, bucket, part)]
    for row in (row for row in rows if "loss" not in row):
        what = row.get("pair") or f"{row['history']}, {'seed ' + str(row['seed']) if 'seed' in row else 'mean'}"
        value = row.get("mean", row.get("ndcg10"))
        closes = f"  closes {row['gap_closed']:.2f} of the gap" if "gap_closed" in row else ""
        kept = f"  retention {row['retention']:.2f} (>= {row['retention_low']:.2f})" if "retention" in row else ""
        print(f"{row['bucket']:52s} {what:44s} {value:.4f} [{row['low']:.4f}, {row['high']:.4f}]{kept}{closes}")
    machine.write(arguments.json, rows, keep=others(arguments, shared) if arguments.append else [])


def others(arguments: argparse.Namespace, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the file that are of other recipes or settings; older rows tell theirs one by one."""
    rows, settings = machine.rows_of(arguments.json), digest(shared)
    return [row for row in rows if (row["settings"] != settings if "settings" in row else _differs(row, shared))]


def _differs(row: dict[str, Any], shared: dict[str, Any]) -> bool:
    return any(row.get(key, EARLIER.get(key)) != value for key, value in shared.items())


def digest(shared: dict[str, Any]) -> str:
    """What is the same in all rows of a recipe with its settings."""
    return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:8]


if __name__ == "__main__":
    main()
