"""What `persrec probe` finds in each log at hand: is anything in old events that recent ones do not say?

    python benchmarks/probes.py --json benchmarks/results/probes.json
    python benchmarks/probes.py globo-news --json benchmarks/results/probes.json --append

Rows are those of `persrec probe --json`: one per log, with its advice and the seconds from the log to the rows, then
one per question, group and R. `--append` keeps the rows of other logs in the file.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from persrec import api

RAW = "${PERSREC_DATASETS}"
LOGS: dict[str, tuple[str, list[str]]] = {  # recipe, and what is set in it
    "ml-100k": ("ml-100k", []),
    "ml-1m": ("ml-1m", []),
    "ml-latest-small": ("ml-100k", [f"data.path={RAW}/ml-latest-small/ratings.csv"]),
    "amazon-games": ("amazon-games-text", ["items.use=id"]),
    "amazon-beauty": ("amazon-beauty", []),
    "amazon-sports": ("amazon-sports", []),
    "globo-news": ("ml-100k", [f"data.path={RAW}/globo-news", "data.source=globo-news"]),
    "online-retail": ("online-retail", []),
    "synthetic-causes": ("synthetic-causes", []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="*", metavar="LOG", help=f"of {', '.join(LOGS)}; all of them unless given")
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--append", action="store_true", help="keep what the file has of other logs")
    arguments = parser.parse_args()
    logs = arguments.logs or list(LOGS)
    if unknown := [name for name in logs if name not in LOGS]:
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(LOGS)}")
    rows = []
    for name in logs:
        recipe, overrides = LOGS[name]
        began = time.perf_counter()
        found = api.probe(recipe, [*overrides, f"name={name}"])
        about, *gains = found.rows
        rows += [about | {"seconds": round(time.perf_counter() - began, 1)}, *gains]
        print(found)
    before = machine.rows_of(arguments.json) if arguments.append else []
    machine.write(arguments.json, rows, keep=[row for row in before if row["name"] not in logs])


if __name__ == "__main__":
    main()
