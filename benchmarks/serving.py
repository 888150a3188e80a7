"""What an answer costs from a store: read, step and search end to end, beside recomputing the history.

    python benchmarks/serving.py --json benchmarks/results/serving.json

One thread, d = 64, 2 layers, 2 heads, K = 4, S = R = 40, random weights, 10,000 items, time known, seen items excluded,
the ten best of one user or 64 at a time. A store of 100,000 users holds the records of `--distinct` users, again and
again, under new ids. Beside it, of the same events: `full`, the whole history through the blocked model; `full_kv`,
the last event alone on the kept inputs of all layers at all rows before it, whose bytes are `bytes_full_kv`; and the
window of recent events that costs as much as the answer from the store. Updates: one new event of each of 10,000 users
at a time, folds and a synced commit included. Then the size of a store of a million users, as it was written and after
it was compacted, of the bytes of its keys and records.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import faiss
import numpy as np
import polars as pl
import torch

from benchmarks import machine
from persrec.batches import Batch, History
from persrec.models.build import build
from persrec.models.interfaces import Memory
from persrec.models.model import Model
from persrec.models.rows import rows_of
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe
from persrec.serving.entries import key_of
from persrec.serving.recommender import Recommender
from persrec.serving.store import Store

ITEMS, SEGMENT, RECENT, TOKENS = 10_000, 40, 40, 4
START = 1_700_000_000_000  # ms
MEMORIES = ("recurrent", "layered, merged", "layered, 8 segments", "recent")


def recipe_of(memory: str) -> Recipe:
    """The settings of a case."""
    kind = {
        "recurrent": ["memory.kind=recurrent"],
        "layered, merged": ["memory.merge=true"],
        "layered, 8 segments": ["memory.cap=8"],
        "recent": [],
        "full": [],
    }[memory]
    history = memory if memory in ("recent", "full") else "compressed"
    sizes = [f"memory.segment={SEGMENT}", f"memory.recent={RECENT}", f"memory.tokens={TOKENS}"]
    return recipe.load(
        "synthetic-old-signal", [*kind, *sizes, f"history={history}", "time=last", "evaluation.exclude_seen=true"]
    )


def recommender_of(chosen: Recipe, store: Path | None) -> Recommender:
    """A recommender of random weights."""
    model = build(chosen, items=ITEMS)
    model.compressor.maker = model.maker()  # type: ignore[attr-defined]
    ids = pl.Series("item_id", np.arange(1, ITEMS + 1))
    return Recommender(model=model, recipe=chosen, item_ids=ids, data={"hash": "made up", "folder": ""}, store=store)


def log_of(users: int, events: int) -> pl.DataFrame:
    """Users with so many random events, minutes to days apart, or up to S - 1 fewer, so that few fold together."""
    random = np.random.default_rng(0)
    gaps = np.exp(random.normal(10, 3, (users, events))).astype(np.int64) + 1
    counts = events - random.integers(0, SEGMENT, users) if users > 1 else np.array([events])
    there = np.arange(events) < counts[:, None]
    return pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), counts),
            "item_id": random.integers(1, ITEMS + 1, counts.sum()),
            "timestamp": pl.Series((START + gaps.cumsum(axis=1))[there]).cast(pl.Datetime("ms", "UTC")),
        }
    )


def filled(place: Path, memory: str, events: int, users: int, distinct: int) -> Recommender:
    """A recommender on a store of so many users."""
    made = recommender_of(recipe_of(memory), place)
    made.compress(log_of(distinct, events))
    made.close()
    with Store.open(place, write=True) as store:
        records = [data for _, data in sorted(store.records())]
        for start in range(distinct, users, 10_000):
            numbers = range(start, min(start + 10_000, users))
            store.write({key_of(number): records[number % distinct] for number in numbers})
    return made


def spent(work: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each repeat, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - started))
    return found[1:]


def read_rows(one: Recommender, memory: str, events: int, users: int, costs: dict[str, float]) -> list[dict[str, Any]]:
    """Answers for one user and for 64 users at a time, and updates."""
    random, rows = np.random.default_rng(1), []
    stats = one.stats()
    for batch, repeats in ((1, 300), (64, 40)):
        asked = iter(random.integers(0, users, (repeats + 1, batch)).tolist())
        times = spent(lambda asked=asked: one.recommend(next(asked), 10), repeats)  # type: ignore[misc]
        p50, p99 = np.percentile(times, [50, 99])
        rows.append(
            {
                "memory": memory,
                "S": SEGMENT,
                "R": RECENT,
                "history_events": events,
                "batch": batch,
                "p50_ms": round(float(p50), 3),
                "p99_ms": round(float(p99), 3),
                "per_second": round(1000 * batch / float(np.mean(times)), 1),
                "bytes_per_user": round(stats["payload_bytes"] / stats["users"], 1),
                "users": users,
                **({name: round(value, 3) for name, value in costs.items()} if batch == 1 else {}),
            }
        )
    late = START + 10**12  # after everything, in the year 2055
    moments = iter(range(4))
    events_of = min(10_000, users)

    folds = []

    def update() -> None:
        frame = {
            "user_id": random.choice(users, events_of, replace=False),
            "item_id": random.integers(1, ITEMS + 1, events_of),
            "timestamp": pl.Series([late + next(moments)] * events_of).cast(pl.Datetime("ms", "UTC")),
        }
        folds.append(one.update(pl.DataFrame(frame)).folded)

    rows[0]["updates_per_second"] = round(events_of / (np.median(spent(update, 3)) / 1000), 1)
    rows[0]["folds_per_update"] = round(float(np.mean(folds)) / events_of, 4)
    return rows


def size_row(users: int, events: int, distinct: int) -> dict[str, Any]:
    """The file of a store of many users, of the bytes in it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "store"
        with filled(place, "recurrent", events, users, distinct) as one:
            stats = one.stats()
        with Store.open(place, write=True) as store:
            started = time.perf_counter()
            store.compact()
            seconds = time.perf_counter() - started
            compacted = store.file_bytes()
    return {
        "memory": "recurrent",
        "history_events": events,
        "users": users,
        "bytes_per_user": round(stats["payload_bytes"] / users, 1),
        "file_of_payload_written": round(stats["file_bytes"] / stats["payload_bytes"], 3),
        "file_of_payload": round(compacted / stats["payload_bytes"], 3),
        "compact_seconds": round(seconds, 1),
    }


@torch.no_grad()
def recompute(events: int) -> dict[str, float]:
    """Milliseconds of one user from the events themselves, the search among the items included."""
    one = recommender_of(recipe_of("full"), None)
    histories = log_of(1, events)
    repeats = 20 if events <= 4096 else 3
    model, batch = one.model, batch_of(histories)
    whole = np.median(spent(lambda: answer(one, model.queries(batch)), repeats))
    kept = states(model, batch)
    last = Batch(batch.history.part(1, events - 1, events), torch.tensor([1]), batch.user)
    step = np.median(spent(lambda: answer(one, stepped(model, last, kept)), repeats))
    return {"full_ms": float(whole), "full_kv_ms": float(step), "bytes_full_kv": 4.0 * kept.states.numel()}


def batch_of(log: pl.DataFrame) -> Batch:
    """One user's events as a batch."""
    item = torch.tensor(log["item_id"].to_list())[None]
    time_ = torch.tensor(log["timestamp"].dt.epoch("ms").to_list())[None]
    position = torch.arange(item.shape[1])[None]
    history = History(item, time_, time_, torch.zeros_like(item), position, torch.ones_like(item, dtype=torch.bool))
    return Batch(history, torch.tensor([item.shape[1]]), torch.tensor([0]))


def answer(one: Recommender, queries: torch.Tensor) -> None:
    """The ten best of the catalogue."""
    one._catalogue().search(queries.numpy(), 10)


def states(model: Model, batch: Batch) -> Memory:
    """Every layer's input at all rows but the last."""
    rows = rows_of(batch.history.part(1, 0, batch.history.item.shape[1] - 1), model.items)
    _, kept = model.backbone.step(rows, keep=torch.arange(rows.x.shape[1]))
    assert kept is not None
    ones = torch.ones(rows.valid.shape)
    return Memory(
        kept[:, : model.backbone.layers], rows.time, rows.position, rows.valid, ones, torch.tensor([len(ones)])
    )


def stepped(model: Model, batch: Batch, kept: Memory) -> torch.Tensor:
    """The query after one event on the kept rows."""
    return model.query(model.backbone.step(rows_of(batch.history, model.items), kept)[0][:, -1])


def window_for(milliseconds: float) -> int:
    """Events of a window through the full model that cost as much as a read from memory."""
    for events in (60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 2048):
        if recompute(events)["full_ms"] > milliseconds:
            return events
    return 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=200)
    parser.add_argument("--events", type=int, nargs="+", default=[256, 2048, 16384])
    parser.add_argument("--many", type=int, default=1_000_000, help="users of the store whose size is asked for")
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows = []
    for events in arguments.events:
        costs = recompute(events)
        for memory in MEMORIES:
            with tempfile.TemporaryDirectory() as place:
                distinct = min(arguments.distinct, max(20, 400_000 // events))
                one = filled(Path(place) / "store", memory, events, arguments.users, distinct)
                with one:
                    found = read_rows(one, memory, events, arguments.users, costs)
            found[0]["equal_window_events"] = window_for(found[0]["p50_ms"])
            rows += found
            for row in found:
                print(json.dumps(row), flush=True)
    rows.append(size_row(arguments.many, 256, arguments.distinct))
    print(json.dumps(rows[-1]), flush=True)
    machine.write(arguments.json, rows)


if __name__ == "__main__":
    main()
