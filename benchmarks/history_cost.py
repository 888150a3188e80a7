"""What a long history costs: the best `full` we can write against folding it, and a read from memory.

    python benchmarks/history_cost.py --json benchmarks/results/history_cost.json

One thread, B = 4 users, d = 64, 2 heads, 2 layers, time bias, S = R = 128, K = 4, memory capped at 8 segments. Every
figure is the median over rounds in which all cases run in turn, each in a process of its own; peak memory is that
process's largest resident size minus the size before the first forward pass. Forward and backward, but for `read`,
which is a forward pass without gradient from memories that are there already.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import machine
from persrec.batches import Batch, History
from persrec.models import attention, hstu
from persrec.models.compressor import loop, read
from persrec.models.hstu import HSTU
from persrec.models.layered import Layered
from persrec.models.recent import Recent
from persrec.models.segments import SegmentRule

USERS, WIDTH, HEADS, LAYERS, SEGMENT, RECENT, TOKENS, CAP, ITEMS = 4, 64, 2, 2, 128, 128, 4, 8, 5000
CASES = [
    *[("full_naive", "none", events) for events in (512, 1024, 2048, 4096)],
    *[("full", "none", events) for events in (512, 1024, 2048, 4096, 8192)],
    *[("loop", reads, events) for reads in ("none", "all") for events in (512, 1024, 2048, 4096, 8192)],
    *[("read", "none", events) for events in (512, 2048, 8192)],
]
REPEATS = {"full_naive": 1, "full": 1, "loop": 3, "read": 20}


def histories(events: int) -> Batch:
    """Users with `events` random events each, at times that look like a log's."""
    position = torch.arange(events).expand(USERS, -1)
    clock = torch.exp(torch.randn(USERS, events) * 3 + 9).long().cumsum(dim=1)
    item = torch.randint(1, ITEMS + 1, (USERS, events))
    history = History(item, clock, clock, item, position, torch.ones_like(item, dtype=torch.bool))
    return Batch(history, torch.full((USERS,), events), torch.arange(USERS))


class Bench:
    """The model of this benchmark and its four forms."""

    def __init__(self, events: int) -> None:
        torch.manual_seed(0)
        self.batch = histories(events)
        self.table = torch.randn(ITEMS + 1, WIDTH, requires_grad=True)
        self.backbone = HSTU(
            width=WIDTH,
            layers=LAYERS,
            heads=HEADS,
            exact=SEGMENT + RECENT,
            timed=True,
            dropout=0.0,
            divisor=SEGMENT + RECENT,
        )
        self.layered = Layered(tokens=TOKENS, width=WIDTH, layers=LAYERS, cap=CAP)
        self.recent = Recent(width=WIDTH, layers=LAYERS)
        self.rule = SegmentRule(SEGMENT, RECENT)

    def encode(self, items: Tensor) -> Tensor:
        return F.embedding(items, self.table)

    def full(self) -> None:
        """Row blocks, the invisible half skipped, scores computed again in the backward pass."""
        self.backbone.recompute, self.backbone.row_block = True, 128  # the fastest of 48 to 192
        self._train(self.recent, SegmentRule(SEGMENT, None), reads_all=False)

    def full_naive(self) -> None:
        """One dense square under a mask, left to autograd."""
        self.backbone.row_block = len(self.batch.history.item[0])
        fast = hstu.pointwise_attention
        hstu.pointwise_attention = lambda *a, recompute, **k: attention.reference_attention(*a, **k)
        try:
            self._train(self.recent, SegmentRule(SEGMENT, None), reads_all=False)
        finally:
            hstu.pointwise_attention = fast

    def loop(self, *, reads_all: bool) -> None:
        """Fold every segment, read the rest."""
        self._train(self.layered, self.rule, reads_all=reads_all)

    def _train(self, compressor: Any, rule: SegmentRule, *, reads_all: bool) -> None:
        def score(hidden: Tensor, history: History) -> Tensor:
            return hidden.square().mean(dim=-1).sum()

        looped = loop(
            self.backbone,
            compressor,
            self.encode,
            self.batch,
            rule,
            score=score,
            reads_all=reads_all,
            checkpointed=rule.recent is not None,
        )
        torch.stack(looped.scored).sum().backward()

    def reader(self) -> Callable[[], None]:
        """A read on memories that are there already."""
        with torch.no_grad():
            looped = loop(self.backbone, self.layered, self.encode, self.batch, self.rule, score=lambda *_: None)

        def once() -> None:
            with torch.no_grad():
                closed = self.rule.closed(self.batch.events)
                read(self.backbone, self.encode, self.batch, closed, self.rule, looped.memory)

        return once


def measure(form: str, reads: str, events: int) -> dict[str, Any]:
    """Seconds of one case, and its peak memory above what stood before."""
    torch.set_num_threads(1)
    bench = Bench(events)
    if form == "loop":
        run: Callable[[], None] = lambda: bench.loop(reads_all=reads == "all")  # noqa: E731
    else:
        run = bench.reader() if form == "read" else getattr(bench, form)
    before = machine.resident_kib()
    run()
    seconds = []
    for _ in range(REPEATS[form]):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "peak_mb": (machine.peak_kib() - before) / 1024}


def check() -> None:
    """The blocked `full` is the naive one, gradients included; a `full` that were wrong would be no yardstick."""
    found = []
    for form in ("full", "full_naive"):
        bench = Bench(600)
        getattr(bench, form)()
        found.append([bench.table.grad, *[p.grad for p in bench.backbone.parameters()]])
    for blocked, naive in zip(*found, strict=True):
        torch.testing.assert_close(blocked, naive, atol=1e-4, rtol=1e-3)


def ratios(rows: list[dict[str, Any]]) -> None:
    """Print the comparisons that the rows are for."""
    at = {(row["form"], row["reads"], row["events"]): row for row in rows}

    def ratio(name: str, over: tuple, under: tuple, key: str = "seconds", scale: float = 1.0) -> None:
        if over in at and under in at:
            print(f"{name:60s} {at[over][key] / at[under][key] * scale:8.2f}")

    for events in (2048, 4096, 8192):
        for reads in ("none", "all"):
            ratio(f"full / loop (reads {reads}), {events} events", ("full", "none", events), ("loop", reads, events))
            ratio(
                f"naive / loop (reads {reads}), {events} events",
                ("full_naive", "none", events),
                ("loop", reads, events),
            )
    for reads in ("none", "all"):
        long, short, middle = (("loop", reads, events) for events in (8192, 1024, 2048))
        ratio(f"loop seconds per event (reads {reads}), 8192 / 1024", long, short, scale=1 / 8)
        ratio(f"loop peak memory (reads {reads}), 8192 / 2048", long, middle, "peak_mb")
    ratio("read, 8192 / 512", ("read", "none", 8192), ("read", "none", 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        form, reads, events = arguments.case
        print(json.dumps(measure(form, reads, int(events))))
        return
    check()
    found: dict[tuple, list[dict[str, Any]]] = {case: [] for case in CASES}
    for _ in range(arguments.rounds):
        for case in CASES:
            command = [sys.executable, __file__, "--case", *map(str, case)]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            found[case].append(json.loads(result.stdout))
    rows = [
        {
            "form": form,
            "reads": reads,
            "events": events,
            "seconds": round(statistics.median(one["seconds"] for one in ones), 5),
            "peak_mb": round(statistics.median(one["peak_mb"] for one in ones), 1),
            "threads": 1,
        }
        for (form, reads, events), ones in found.items()
    ]
    machine.write(arguments.json, rows)
    ratios(rows)


if __name__ == "__main__":
    main()
