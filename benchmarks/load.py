"""The service under load: how much it answers, how fast, and whether it grows or fails meanwhile.

    python benchmarks/load.py --seconds 600 --json benchmarks/results/load.json

`persrec serve` runs as a process of its own on a store of 20,000 users (d = 64, 2 layers, recurrent memory of K = 4,
S = R = 40, 10,000 items; untrained, as answers cost the same). So many connections ask again and again, each once it
has its answer: 90 of 100 times the ten best items of one user, 5 times scores of 20 candidates, 5 times an update with
one new event. Client and service share the machine. Memory is what the service has allocated (`RssAnon` of Linux), as
the pages of the store that it has mapped are the kernel's to take back; its growth is a line through the second half.
"""

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import polars as pl

from benchmarks import machine
from persrec.serving.recommender import Recommender
from tests.small import START, run_of

USERS, ITEMS, EVENTS = 20_000, 10_000, range(100, 180)  # events of a user, so that 1 to 3 segments are folded
MEMORY = {"kind": "recurrent", "segment": 40, "recent": 40, "tokens": 4}
MODEL = {"layers": 2, "width": 64, "heads": 2}


class Answered(NamedTuple):
    """One request."""

    path: str
    status: int
    seconds: float
    at: float


def stored(folder: Path) -> tuple[Path, Path]:
    """A run and its store."""
    chance = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), chance.integers(EVENTS.start, EVENTS.stop, USERS))
    size = len(user)
    log = pl.DataFrame(
        {
            "user_id": user,
            "item_id": np.concatenate([np.arange(ITEMS), chance.integers(0, ITEMS, size - ITEMS)]),
            "timestamp": START + 1000 * np.arange(size),
        }
    )
    run = run_of(folder, log, model=MODEL, memory=MEMORY)
    with Recommender.load(run, folder / "store") as recommender:
        assert recommender.compress().folded >= USERS
    return run, folder / "store"


def started(run: Path, store: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """The service, when it answers, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from persrec.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "serve", run, "--store", store, "--port", str(port)])
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise RuntimeError("the service did not start")


def request(chance: random.Random, moment: int) -> tuple[str, bytes]:
    """A path and a body."""
    user, kind = chance.randrange(USERS), chance.random()
    if kind < 0.9:
        return "/recommend", json.dumps({"users": [user], "k": 10}).encode()
    if kind < 0.95:
        return "/score", json.dumps({"users": [user], "candidates": chance.sample(range(ITEMS), 20)}).encode()
    event = {"user_id": user, "item_id": chance.randrange(ITEMS), "timestamp": moment}
    return "/update", json.dumps({"events": [event]}).encode()


async def ask(port: int, until: float, seed: int, found: list[Answered]) -> None:
    """One connection: a request after the other until it is time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    chance = random.Random(seed)
    while (begun := time.perf_counter()) < until:
        path, body = request(chance, START + 10**10 + int(1000 * begun))
        sizes = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: persrec\r\n{sizes}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        ended = time.perf_counter()
        found.append(Answered(path, int(answer.split(b" ", 2)[1]), ended - begun, ended))
    writer.close()


async def watch(process: "subprocess.Popen[bytes]", until: float) -> list[tuple[float, float]]:
    """Seconds and MiB that the service has allocated, every few seconds."""
    found = []
    while time.perf_counter() < until:
        found.append((time.perf_counter(), machine.anonymous_kib(process.pid) / 1024))
        await asyncio.sleep(2)
    return found


async def under_load(
    process: "subprocess.Popen[bytes]", port: int, connections: int, seconds: float
) -> tuple[list[Answered], list[tuple[float, float]]]:
    """All requests, and the memory meanwhile."""
    found: list[Answered] = []
    until = time.perf_counter() + seconds
    watching = asyncio.create_task(watch(process, until))
    await asyncio.gather(*(ask(port, until, seed, found) for seed in range(connections)))
    return found, await watching


def row(found: list[Answered], memory: list[tuple[float, float]], connections: int, seconds: float) -> dict[str, Any]:
    """What was seen."""
    milliseconds = 1000 * np.array([one.seconds for one in found if one.path == "/recommend"])
    late = np.array(memory[len(memory) // 2 :])
    return {
        "connections": connections,
        "seconds": seconds,
        "requests": len(found),
        "per_second": round(len(found) / seconds, 1),
        "errors": sum(one.status != 200 for one in found),
        "recommend_p50_ms": round(float(np.percentile(milliseconds, 50)), 2),
        "recommend_p99_ms": round(float(np.percentile(milliseconds, 99)), 2),
        "mb_after_a_tenth": round(memory[len(memory) // 10][1], 1),
        "mb_at_the_end": round(memory[-1][1], 1),
        "mb_per_minute": round(60 * float(np.polyfit(late[:, 0], late[:, 1], 1)[0]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the row")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, port = started(*stored(Path(folder)))
        try:
            seen = asyncio.run(under_load(process, port, arguments.connections, arguments.seconds))
        finally:
            process.terminate()
            process.wait()
    machine.write(arguments.json, [row(*seen, arguments.connections, arguments.seconds)])


if __name__ == "__main__":
    main()
