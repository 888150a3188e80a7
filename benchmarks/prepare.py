"""What preparing a log costs: `persrec prepare` against a bare Polars read, stable sort and group_by of the same file.

    python benchmarks/prepare.py --json benchmarks/results/prepare.json

The file is globo-news/clicks.parquet (2.99 million clicks) in data/raw, or where PERSREC_DATASETS points. Each round
runs both, in turn, each in a process of its own: from its start to its end, imports included, for persrec also the
SHA-256 of the source and of what is written. The first round only warms the file cache. Seconds are medians with the
extremes beside them, peak memory is the largest resident size of the process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine

CHECKOUT = Path(__file__).resolve().parent.parent
DATASETS = Path(os.environ.get("PERSREC_DATASETS", CHECKOUT / "data" / "raw"))
SOURCE = DATASETS / "globo-news" / "clicks.parquet"
COLUMNS = {"item_id": "click_article_id", "timestamp": "click_timestamp"}

POLARS = """
import sys
import polars as pl
user, item, time = "user_id", "click_article_id", "click_timestamp"
log = pl.scan_parquet(sys.argv[1]).select(user, item, time).sort([user, time], maintain_order=True)
print(log.group_by(user, maintain_order=True).agg(item, time).collect().select(pl.col(item).list.len().sum()).item())
"""
COMMAND = "from persrec.cli import main; main()"
FUNCTION = """
import json, sys
from persrec.interactions.prepare import prepare
prepare(json.loads(sys.argv[1]), "globo", "data/prepared")
"""


def child(what: str, through: str, folder: Path) -> list[str]:
    """The command line of one process."""
    section = {"source": "table", "path": str(SOURCE), "columns": COLUMNS}
    if what == "polars":
        return [sys.executable, "-c", POLARS, str(SOURCE)]
    if through == "function":
        return [sys.executable, "-c", FUNCTION, json.dumps(section)]
    recipe = folder / "globo.yaml"
    recipe.write_text(json.dumps({"name": "globo", "data": section}), encoding="utf-8")  # JSON is YAML
    return [sys.executable, "-c", COMMAND, "prepare", str(recipe)]


def measure(what: str, through: str) -> tuple[float, float]:
    """Wall seconds and peak MiB of one process, in an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        command = child(what, through, Path(name))
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=name, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{what} failed with exit code {process.returncode}")
        if what == "persrec" and not list(Path(name).glob("data/prepared/globo-*/prepared.json")):
            raise SystemExit("persrec wrote no data/prepared/globo-*")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Run all rounds and write one row for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--through", choices=("command", "function"), default="command", help="what of persrec is run")
    arguments = parser.parse_args()
    if not SOURCE.exists():
        raise SystemExit(f"{SOURCE} does not exist; set PERSREC_DATASETS to the folder of the real logs")
    found: dict[str, list[tuple[float, float]]] = {"polars": [], "persrec": []}
    for round_number in range(arguments.repeats + 1):
        for what, runs in found.items():
            seconds, peak = measure(what, arguments.through)
            print(f"round {round_number} {what:8s} {seconds:6.2f} s {peak:6.0f} MiB", file=sys.stderr)
            runs += [(seconds, peak)] if round_number else []
    rows = [row(what, runs, arguments.through) for what, runs in found.items()]
    ratios = [rows[1][key] / rows[0][key] for key in ("seconds", "peak_mb")]
    print(f"persrec / polars: {ratios[0]:.2f} in seconds, {ratios[1]:.2f} in peak memory", file=sys.stderr)
    machine.write(arguments.json, rows)


def row(what: str, runs: list[tuple[float, float]], through: str) -> dict[str, Any]:
    """One flat row."""
    import polars as pl

    seconds = [run[0] for run in runs]
    return {
        "what": what,
        "events": pl.scan_parquet(SOURCE).select(pl.len()).collect().item(),
        "seconds": round(statistics.median(seconds), 3),
        "peak_mb": round(statistics.median(run[1] for run in runs), 1),
        "least_seconds": round(min(seconds), 3),
        "most_seconds": round(max(seconds), 3),
        "repeats": len(runs),
        "threads": pl.thread_pool_size(),
        "through": through if what == "persrec" else "script",
    }


if __name__ == "__main__":
    main()
