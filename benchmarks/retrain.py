"""What a new model means for a store: memories made anew, against memories mapped from those of the model before.

    persrec fit synthetic-old-signal --set history=compressed --set seeds=1 --set memory.kind=recurrent --out runs/old
    persrec fit synthetic-old-signal --set history=compressed --set seeds=2 --set memory.kind=recurrent --out runs/new
    python benchmarks/retrain.py runs/old runs/new --json benchmarks/results/retrain.json

Both runs are of one log. The histories up to the test targets are folded by the old model, then by the new one
(`rebuild`), then the old store is mapped by `adopt` (the map is learned meanwhile, from `--learn` users). One thread.
NDCG@10 is of the ten best that each store recommends, beside that of the new model whose memory is emptied; intervals
are paired, over users. A million users: seconds of one user, times a million.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import faiss
import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from benchmarks import machine
from persrec import run
from persrec.evaluation import intervals
from persrec.prepared import Prepared
from persrec.serving.recommender import Recommender

Values = npt.NDArray[np.float64]


def before_the_targets(data: Prepared) -> pl.DataFrame:
    """The events that are known when the test targets are asked for, in the users' own ids."""
    place = np.arange(len(data.items)) - np.repeat(data.offsets[:-1], np.diff(data.offsets))
    user = np.repeat(np.arange(data.users), np.diff(data.offsets))
    end = np.zeros(data.users, dtype=np.int64)
    end[data.test.user] = data.test.end
    known = place < end[user]
    frame = {
        "user_id": pl.Series(data.user_ids()).gather(user[known]),
        "item_id": pl.Series(data.item_ids()).gather(data.items[known] - 1),
    }
    if data.times is not None:
        frame["timestamp"] = pl.Series(data.times[known]).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(frame)


def quality(one: Recommender, data: Prepared) -> Values:
    """NDCG@10 (Q,) of what a store recommends, by the user's one test target."""
    users, items = pl.Series(data.user_ids()), pl.Series(data.item_ids())
    asked = users.gather(data.test.user)
    wanted = items.gather(data.items[data.offsets[data.test.user] + data.test.end] - 1)
    best = one.recommend(asked.to_list(), 10)
    found = pl.DataFrame({"user_id": asked, "item_id": wanted}).join(
        best, on=["user_id", "item_id"], how="left", maintain_order="left"
    )
    return (1 / np.log2(found["rank"].cast(pl.Float64).fill_null(float("inf")).to_numpy() + 1)).astype(np.float64)


def measured(old: Path, new: Path, learn: int, folder: Path) -> dict[str, Any]:
    """Seconds and quality of both ways."""
    with Recommender.load(old, folder / "old") as before, Recommender.load(new, folder / "rebuilt") as rebuilt:
        data = rebuilt.prepared()
        log = before_the_targets(data)
        before.compress(log)
        started = time.perf_counter()
        rebuilt.compress(log)
        seconds = {"rebuild": time.perf_counter() - started}
        own = quality(rebuilt, data)
        with Recommender.load(new, folder / "adopted") as adopted:
            started = time.perf_counter()
            adapter = adopted.adopt(before, log, users=learn)
            seconds["adopt"] = time.perf_counter() - started
            mapped = quality(adopted, data)
    user, users = data.test.user, len(data.test.user)
    tests = {row["memory"]: row["ndcg@10"]["mean"] for row in run.load(new).metrics["memory_tests"]}
    kept = intervals.ratio([mapped], [own], user)
    return {
        "users": users,
        "events": len(log),
        "learned_from": adapter.users,
        "explained": round(adapter.explained, 4),
        **{f"{name}_seconds": round(value, 2) for name, value in seconds.items()},
        **{f"{name}_hours_for_a_million": round(value / users * 1e6 / 3600, 2) for name, value in seconds.items()},
        "ndcg10_rebuilt": round(float(own.mean()), 4),
        "ndcg10_adopted": round(float(mapped.mean()), 4),
        "ndcg10_emptied": round(tests["emptied"], 4),
        "pair": "adopted/rebuilt",
        **{name: round(value, 4) for name, value in kept._asdict().items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--learn", type=int, default=500, help="users that the map is learned from")
    parser.add_argument("--what", default="from scratch", help="how the new model came about")
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the row")
    parser.add_argument("--append", action="store_true", help="keep what the file has")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        row = measured(arguments.old, arguments.new, arguments.learn, Path(folder))
    before = machine.rows_of(arguments.json) if arguments.append else []
    machine.write(arguments.json, [{"new_model": arguments.what} | row], keep=before)


if __name__ == "__main__":
    main()
