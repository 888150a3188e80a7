"""What each option for the tokens of a memory brings, switched on, or off where it is on by default.

    python benchmarks/token_options.py synthetic-causes --set training.epochs=6 --json ...

The recipe as it is, and with each option changed, is trained with every seed (complete cells are kept). Rows: one per
option and seed, then one per option with the metric of `on` over that of `off` on the same queries and seeds. `slots`
trains nothing: models with `future_set`, each user's last event asked for from a store, `on` with tokens as queries.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks import machine
from benchmarks.quality import METRIC, rounded, train
from persrec import run
from persrec.cells import name_of
from persrec.evaluation import comparison, intervals
from persrec.recipe import recipe
from persrec.serving.recommender import Recommender

LIST = 10

OPTIONS: dict[str, tuple[float | bool, float | bool]] = {  # off, on
    "past_set": (0.0, 0.1),
    "future_set": (0.0, 0.1),
    "compete": (False, True),
    "own_projections": (False, True),
    "count_weight": (False, True),
}


def rows(name: str, overrides: list[str], options: list[str], out: Path, jobs: int) -> Iterator[dict[str, Any]]:
    """Train what is missing, then the rows of every option against the recipe as it is."""
    plain = [*overrides, "history=compressed", "baselines=[]"]
    default = recipe.load(name, plain)
    as_it_is = side(name, plain, out / "default", jobs)
    for option in options:
        off, on = OPTIONS[option]
        was = getattr(default.memory, option)
        changed = off if was == on else on
        other = side(name, [*plain, f"memory.{option}={json.dumps(changed)}"], out / option, jobs)
        sides = (other, as_it_is) if changed == on else (as_it_is, other)
        shared = {"dataset": default.name, "memory": default.memory.kind, "option": option, "by_default": was == on}
        for state, one in zip(("on", "off"), sides, strict=True):
            for seed, table in sorted(one.tables.items()):
                alone = comparison.Side(one.name, one.history, one.recipe, {seed: table})
                interval = comparison.mean(alone, METRIC)
                yield shared | {"state": state, "seed": seed, **rounded(interval._asdict(), "ndcg10")}
        pair = comparison.pair(*sides, METRIC)
        yield shared | {"pair": "on/off", **rounded(pair.ratio._asdict(), "mean"), "p": pair.p, "seeds": pair.seeds}
        if option == "future_set":
            cells = default.grid()
            yield from slot_rows([out / option / name_of(cell) for cell in cells], {"dataset": default.name})


def slot_rows(folders: list[Path], about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What tokens bring as queries of their own, by runs that were trained with `future_set`."""
    values: dict[str, list[npt.NDArray[np.float64]]] = {"on": [], "off": []}
    for folder in folders:
        with tempfile.TemporaryDirectory() as place, Recommender.load(folder, Path(place) / "store") as one:
            users, history, target = last_events(one)
            one.compress(history)
            for state, found in values.items():
                lists = one.recommend(users, LIST, slots=state == "on")
                ranked = lists.select("user_id", "item_id", "rank")
                hits = target.join(ranked, on=["user_id", "item_id"], how="left", maintain_order="left")
                found.append(1 / np.log2(1 + hits["rank"].cast(pl.Float64).fill_null(np.inf).to_numpy()))
    number = np.arange(len(users))
    for state, found in values.items():
        for folder, own in zip(folders, found, strict=True):
            seed = run.load(folder).recipe["seeds"][0]
            mean = intervals.mean(own, number)._asdict()
            yield about | {"option": "slots", "state": state, "seed": seed, **rounded(mean, "ndcg10")}
    ratio = intervals.ratio(values["on"], values["off"], number)
    yield about | {"option": "slots", "pair": "on/off", **rounded(ratio._asdict(), "mean"), "seeds": len(folders)}


def last_events(one: Recommender) -> tuple[list[Any], pl.DataFrame, pl.DataFrame]:
    """Users, the events of each before the last one, and that one's item."""
    data, ids = one.prepared(), pl.Series("user_id", one.prepared().user_ids())
    times = np.arange(len(data.items)) if data.times is None else data.times
    frame = pl.DataFrame(
        {
            "user_id": ids.gather(np.repeat(np.arange(data.users), np.diff(data.offsets))),
            "item_id": one.item_ids.gather(data.items - 1),
            "timestamp": pl.Series(times).cast(pl.Datetime("ms", "UTC")),  # no numbers in the recipe's unit
        }
    )
    last = pl.int_range(pl.len()).over("user_id") == pl.len().over("user_id") - 1
    return ids.to_list(), frame.filter(~last), frame.filter(last).drop("timestamp")


def side(name: str, overrides: list[str], out: Path, jobs: int) -> comparison.Side:
    """The trained cells of one form of the recipe."""
    cells = recipe.load(name, overrides).grid()
    train(name, cells, overrides, out, jobs)
    (found,) = comparison.load([out / name_of(cell) for cell in cells])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped name or a .yaml file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--options", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/token_options"))
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    arguments = parser.parse_args()
    found = list(rows(arguments.recipe, arguments.overrides, arguments.options, arguments.out, arguments.jobs))
    machine.write(arguments.json, found)


if __name__ == "__main__":
    main()
