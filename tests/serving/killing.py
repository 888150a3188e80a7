"""A real process that updates a store, killed at random moments and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from persrec.serving.disk import DATA, current
from persrec.serving.packing import Layout, unpack
from persrec.serving.recommender import Recommender
from persrec.serving.store import Store
from tests.small import START, run_of

COMMAND = [sys.executable, "-c", "from persrec.cli import main; main()", "update"]
ALONE = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}  # the same sums in every process


class Contents(NamedTuple):
    """What is in a store."""

    records: dict[bytes, bytes]
    rows: int  # of the file that its cursor says are committed
    events: int  # that its records hold


class Killed(NamedTuple):
    """What was seen at the kills."""

    kills: int
    lost_committed: int  # kills after which less was in the store than its cursor had said before or says now
    applied_twice: int  # kills after which there was more


def stores_of(folder: Path, *, users: int, events: int) -> tuple[Path, Path, Path]:
    """A run, a store of a log's first half and a file with its second; so many events in each.

    Duplicates stay, as dropping them would hide an event that is applied twice.
    """
    chance = np.random.default_rng(0)
    columns = {"user_id": chance.integers(0, users, 2 * events), "item_id": chance.integers(0, 50, 2 * events)}
    log = pl.DataFrame({**columns, "timestamp": START + 1000 * np.arange(2 * events)})
    data = {"source": "table", "path": str(folder / "log.csv"), "deduplicate": False}
    run, store, file = run_of(folder, log, data=data), folder / "store", folder / "new.csv"
    with Recommender.load(run, store) as kept:
        kept.compress(log.head(events))
    log.tail(events).write_csv(file)
    return run, store, file


def update(run: Path, store: Path, file: Path, rows: int) -> "subprocess.Popen[bytes]":
    """The command, started."""
    command = [*COMMAND, str(run), "--store", str(store), str(file), "--rows", str(rows)]
    return subprocess.Popen(command, env=os.environ | ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a command has done its work."""
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(said.decode())


def contents(store: Path) -> Contents:
    """What is in a store now."""
    with Store.open(store) as opened:
        layout = Layout(**opened.about()["layout"])
        records = dict(opened.records())
        files = [value for key, value in opened.cursors().items() if key.startswith("file ")]
    held = sum(unpack(data, layout).events for data in records.values())
    return Contents(records, int(files[0]["rows"]) if files else 0, held)


def kill_and_resume(run: Path, store: Path, file: Path, rows: int, kills: int, seed: int) -> Killed:
    """Update to the end, with so many kills in the first half; each comes after a random number of further commits.

    Nobody's events may be dropped or come twice in the file, so that records and cursor must agree.
    """
    chance = random.Random(seed)
    total = pl.scan_csv(file).select(pl.len()).collect().item()
    before = contents(store)
    first, killed, lost, twice = before.events - before.rows, 0, 0, 0
    stops = np.sort(np.array(chance.sample(range(total // rows // 2), kills))) * rows
    for stop in stops.tolist():
        process = update(run, store, file, rows)
        reached = _watch(process, store, stop)
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        now = contents(store)
        lost += now.rows < reached or now.events < first + now.rows
        twice += now.events > first + now.rows
    finish(update(run, store, file, rows))
    return Killed(killed, lost, twice)


def _watch(process: "subprocess.Popen[bytes]", store: Path, stop: int) -> int:
    """Rows that are committed once they are `stop` or more, and the process has written, or is at its end."""
    written = (current(store) / DATA).stat().st_mtime_ns
    with Store.open(store) as opened:
        while process.poll() is None:
            rows = max((value["rows"] for key, value in opened.cursors().items() if key.startswith("file ")), default=0)
            if rows >= stop and (current(store) / DATA).stat().st_mtime_ns != written:
                return int(rows)
            time.sleep(0.001)
    return 0
