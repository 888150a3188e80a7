"""What a log larger than memory costs: to generate, to prepare, and to train on.

    python benchmarks/scale.py 1000000 10000000 100000000 --json benchmarks/results/scale.json

For each number of events, each stage in a process of its own:

* `generate`: synthetic logs of `USERS` users, about 300 events each, one after the other into one parquet file, each
  with a chain of its own. Users and items are text, and the order of users' names is not that of the file.
* `prepare`: `persrec.prepare` of that file, from its hash to the last byte written.
* `train`: `STEPS` steps of what `persrec fit` trains on the prepared log (synthetic-old-signal, compressed), with the
  batches of a whole epoch planned, the validation queries of 1,000 users and the counts of items at hand.
* `train_repeats`: the same with a repeat head, and targets after a break that count more and are drawn from baskets.

`seconds` are those of the whole process. `peak_mb` is its largest resident size, in which pages of mapped files count,
though the system takes these back when it needs room; `peak_private_mb` is the largest size without them (RssAnon,
looked at every 20 ms). The files need about 50 bytes per event below --folder, of which most are temporary.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine

CHECKOUT = Path(__file__).resolve().parent.parent
MEDIAN = 300  # events of a user
USERS = 10_000  # generated at a time
STEPS = 20
REPEATS = ("repeat=head", "time=next", "loss.break_hours=12", "loss.break_weight=2", "loss.break_target=any")
LOG, PREPARED = "log.parquet", "prepared"
LOOK = 0.02  # seconds


def generate(folder: Path, events: int) -> None:
    """The log as parquet."""
    import polars as pl
    import pyarrow.parquet as pq

    from persrec.datasets.synthetic import synthetic

    done, writer = 0, None
    for seed in count():
        frame = synthetic(users=USERS, events=MEDIAN, seed=seed).head(events - done)
        scattered = pl.format("user-{}-{}", pl.col("user_id").hash(seed), seed)
        table = frame.with_columns(scattered.alias("user_id")).collect().to_arrow()
        writer = writer or pq.ParquetWriter(folder / LOG, table.schema)
        writer.write_table(table)
        done += len(table)
        if done == events:
            writer.close()
            return


def prepare(folder: Path, events: int) -> None:
    """The prepared folder of the log."""
    from persrec.interactions.prepare import prepare as prepared

    prepared({"source": "table", "path": str(folder / LOG)}, "scale", folder / PREPARED)


def train(folder: Path, events: int, changes: Sequence[str] = ()) -> None:
    """A few steps on the prepared log."""
    import torch

    from persrec.models.build import build
    from persrec.prepared import open_prepared
    from persrec.recipe import recipe
    from persrec.training.module import Fitting, Validation, plan_of, target_counts, validation_queries
    from persrec.training.settings import loss_settings, training_settings

    (made,) = (folder / PREPARED).iterdir()
    settled = ["history=compressed", "seeds=1", "training.validation_users=1000"]
    cell = recipe.load("synthetic-old-signal", [*settled, *changes])
    data, settings = open_prepared(made), training_settings(cell)
    model = build(cell, items=data.items_count, seed=0)
    plan = plan_of(model, data, settings)
    queries = validation_queries(data, users=settings.validation_users, seed=settings.seed)
    asked: dict[str, Any] = {"length": cell.length, "time": cell.time, "exclude_seen": settings.exclude_seen}
    asked["repeats"] = plan.repeats
    validation = Validation(data, queries, plan.budget, **asked)
    fitting = Fitting(model, loss_settings(cell), settings, total_steps=STEPS, counts=target_counts(data))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    for number, windows in zip(range(STEPS), plan, strict=False):
        optimizer.zero_grad()
        fitting.loss_of(plan[windows], number=number).loss.backward()
        optimizer.step()
    with torch.no_grad():
        model.eval().read_out(validation[0][0])


STAGES: dict[str, Callable[..., None]] = {
    "generate": generate,
    "prepare": prepare,
    "train": train,
    "train_repeats": partial(train, changes=REPEATS),
}


def measure(stage: str, folder: Path, events: int) -> dict[str, Any]:
    """One row: a process that does one stage, and what it takes."""
    command = [sys.executable, __file__, str(events), "--stage", stage, "--folder", str(folder)]
    start, private = time.perf_counter(), 0
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        private = max(private, anonymous(process.pid))
        time.sleep(LOOK)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{stage} of {events:,} events failed with exit code {process.returncode}")
    row = {"stage": stage, "events": events, "seconds": round(seconds, 1)}
    row |= {"peak_mb": round(usage.ru_maxrss / 1024, 1), "peak_private_mb": round(private / 1024, 1)}
    print(row, file=sys.stderr, flush=True)
    return row


def anonymous(process: int) -> int:
    """Resident KiB of a process that no file stands behind; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def main() -> None:
    """Run one stage, or measure all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the logs are made")
    parser.add_argument("--stage", choices=STAGES, help="only this one, in this process, without measuring")
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    arguments = parser.parse_args()
    if arguments.stage:
        STAGES[arguments.stage](arguments.folder, arguments.events[0])
        return
    rows = []
    for events in arguments.events:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            rows += [measure(stage, Path(folder), events) for stage in STAGES]
    machine.write(arguments.json, rows)


if __name__ == "__main__":
    main()
