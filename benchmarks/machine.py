"""What every benchmark writes beside its figures: command, commit, hardware, versions, date."""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from persrec.errors import whole
from persrec.figures_json import finite

PACKAGES = ("torch", "lightning", "polars", "pyarrow", "numpy", "faiss-cpu")


def _commit() -> str:
    """Of this checkout, wherever the process runs."""
    if shutil.which("git") is None:
        return "unknown"
    command, root = ["git", "describe", "--always", "--dirty"], Path(__file__).resolve().parent.parent
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    return result.stdout.strip() or "unknown"


COMMIT = _commit()  # of the code that was loaded; the checkout may be another one when the figures are there


def describe() -> dict[str, Any]:
    """Where and with what this process runs."""
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_portable, sys.argv[1:])]),
        "commit": COMMIT,
        "hardware": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, no GPU used",
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "date": datetime.date.today().isoformat(),
    }


def file_for_rows(text: str) -> str:
    """The type of `--json`: refuses at once, not after hours, a file that cannot be written."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"got {text}, but {path.parent} is no folder; make it or name another file")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"got {text}, which is a folder; name a file")
    return text


def rows_of(path: str | None) -> list[dict[str, Any]]:
    """The rows of a file that may not be there yet."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if path and Path(path).exists() else []


def write(path: str | None, rows: list[dict[str, Any]], *, keep: list[dict[str, Any]] | None = None) -> None:
    """Write flat rows to a JSON file, each with the description of this machine; print them where no file is given.

    Rows to `keep`, which have theirs, stand before them. Figures that are not finite, as ratios to nothing, are null.
    """
    about = describe()
    every = [*(keep or []), *(row | about for row in rows)]
    text = "[\n" + ",\n".join(json.dumps(finite(row), allow_nan=False) for row in every) + "\n]\n"
    if path is None:
        print(text)
    else:
        with whole(Path(path), "--json") as place:
            place.write_text(text, encoding="utf-8")


def peak_kib() -> int:
    """Largest resident size of this process so far."""
    return _status("VmHWM")


def resident_kib() -> int:
    """Resident size of this process now."""
    return _status("VmRSS")


def anonymous_kib(process: int) -> int:
    """What a process has allocated and not given back: without the pages of files that it has mapped."""
    return _status("RssAnon", process)


def _status(key: str, process: int | str = "self") -> int:
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{process}/status has no {key}; this benchmark needs Linux")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _portable(argument: str) -> str:
    """An argument without the folders of this machine: an absolute path is left with its name."""
    return Path(argument).name if argument.startswith("/") else argument
