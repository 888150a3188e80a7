"""Items from their texts: ids, texts and both, with HSTU or a decoder; all targets, rare items, items never trained on.

    python benchmarks/hllm.py amazon-games-text --json benchmarks/results/hllm.json
    python benchmarks/hllm.py amazon-games-text --read --json benchmarks/results/hllm.json --append
    python benchmarks/hllm.py amazon-games-text --encode --json benchmarks/results/hllm.json --append

Each variant is fitted for every history and seed of the recipe as in `quality.py`; what is complete is kept. Buckets:
`all`; `tail`, targets whose item has fewer training events than the median item; `cold`: a share of the items, 5%, is
taken out of the log, a model is fitted on the rest, the items are put into the run by their texts, and users whose
last event is one of them are asked, all items ranked. Pairs of models are differences over the same targets and seeds,
with intervals over both, and their ratio; pairs of histories are ratios, with the retention. `--read` measures a read
of 64 users with 1,024 events, S = R = 32, with all events and from memories. `--encode` measures what reading the
items of a recipe takes, table and all, into a cache of vectors that is empty, and again from there. With `--append` a
file keeps its rows of other data sets and other kinds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from benchmarks import machine, quality
from persrec import Recommender, api, metrics, run
from persrec.batches import Batch, History
from persrec.cells import name_of
from persrec.evaluation import intervals
from persrec.interactions.schema import ITEM, TIME, USER
from persrec.items import load as item_texts
from persrec.items.add import add
from persrec.models.build import build
from persrec.models.compressor import read
from persrec.models.item_encoders import Texts
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe

ALONE = "items.text_head=null"
HEAD = "id+text+hstu, whitened, text head"
VARIANTS: dict[str, list[str]] = {
    "id": ["items.use=id", "loss.logit_adjustment=null", ALONE],
    "id, adjusted": ["items.use=id", ALONE],  # with the recipe's logit_adjustment, where it has one
    "text+hstu": ["items.use=text", ALONE],
    "id+text+hstu": ["items.use=id+text", "items.whiten=false", ALONE],
    "id+text+hstu, whitened": ["items.use=id+text", "items.whiten=true", ALONE],
    HEAD: ["items.use=id+text", "items.whiten=true"],  # the recipe's, where it has one
    "text+decoder": [  # which knows no times, so that no row is after a break
        "items.use=text",
        "model.kind=decoder",
        "time=none",
        "loss.break_hours=null",
        "loss.break_target=first",
        ALONE,
    ],
}
PAIRS = (
    ("id+text+hstu", "id"),
    ("id+text+hstu, whitened", "id"),
    ("id+text+hstu, whitened", "id, adjusted"),
    ("id+text+hstu, whitened", "id+text+hstu"),
    (HEAD, "id"),
    (HEAD, "id+text+hstu, whitened"),
    ("text+hstu", "id"),
)
METRICS = {"recall10": "recall@10", "ndcg10": "ndcg@10"}
READERS, EVENTS = 64, 1024
TEXT = 384  # width of the text model in `--read`

Rows = list[dict[str, Any]]


def buckets(done: run.Run) -> dict[str, npt.NDArray[np.bool_]]:
    """Which targets of a run are in which bucket."""
    events = done.targets().column("item_events").to_numpy()
    trained = run.open_log(done.data, recipe.parse(done.recipe, "").split.name).training_events_per_item[1:]
    return {"all": np.ones(len(events), bool), "tail": events < np.median(trained[trained > 0])}


def values(done: run.Run, part: npt.NDArray[np.bool_]) -> tuple[dict[str, npt.NDArray[np.float64]], Any]:
    """Recall@10 and NDCG@10 of each query that has targets in a part, and the query's user."""
    table = done.targets()
    user, end, rank = (table.column(name).to_numpy()[part] for name in ("user", "end", "rank"))
    new = np.append(True, (user[1:] != user[:-1]) | (end[1:] != end[:-1]))[: len(user)]
    first = np.flatnonzero(new)
    found = metrics.per_user(rank, np.diff([*first, len(user)]), (10,))
    return {ours: found[theirs] for ours, theirs in METRICS.items()}, user[first]


def row(done: Recipe, model: str, bucket: str, found: dict[str, Any], users: Any, named: bool) -> dict[str, Any]:
    """The flat row of a model in a bucket."""
    interval = intervals.mean(found["ndcg10"], users)
    return {
        "dataset": done.name,
        "protocol": f"{done.split.name}, full ranking",
        "model": model.partition(",")[0],
        "logit_adjustment": done.loss.logit_adjustment or 0.0,
        "history": done.history,
        "bucket": bucket,
        "whiten": done.items.whiten and done.items.use != "id",
        "text_head": None if done.items.use == "id" else done.items.text_head,
        "seed": done.seeds[0],
        "queries": len(users),
        "recall10": round(float(found["recall10"].mean()), 6),
        "ndcg10": round(interval.mean, 6),
        "low": round(interval.low, 6),
        "high": round(interval.high, 6),
        "named": named,
    }


def warm(name: str, variants: list[str], arguments: argparse.Namespace) -> Rows:
    """Rows of `all` and `tail`, and their pairs."""
    rows: Rows = []
    scores: dict[tuple[str, str, str], list[Any]] = {}
    users: dict[tuple[str, str], Any] = {}
    for variant in variants:
        overrides = [*arguments.overrides, *VARIANTS[variant], "baselines=[]"]
        cells = recipe.load(name, overrides).grid()
        out = arguments.out / cells[0].name / variant.replace(", ", "-")
        quality.train(name, cells, overrides, out, arguments.jobs)
        runs = [run.load(out / name_of(cell)) for cell in cells]
        ratios = quality.pair_rows(runs, arguments.named)
        rows += [pair | {"model": variant.partition(",")[0], "bucket": "all"} for pair in ratios]
        for cell, done in zip(cells, runs, strict=True):
            for bucket, part in buckets(done).items():
                history: str = cell.histories[0]
                found, users[history, bucket] = values(done, part)
                rows.append(row(cell, variant, bucket, found, users[history, bucket], arguments.named))
                scores.setdefault((variant, history, bucket), []).append(found["ndcg10"])
    for over, under in PAIRS:
        for (variant, history, bucket), above in scores.items():
            if variant == over and (under, history, bucket) in scores:
                sides = [above, scores[under, history, bucket]]
                (top, tops), (bottom, bottoms) = intervals.paired(sides, users[history, bucket])
                difference = intervals.interval(top - bottom, tops - bottoms)
                interval = {key: round(value, 6) for key, value in difference._asdict().items()}
                ratio = intervals.quotient(top, tops, bottom, bottoms)
                interval |= {"ratio": round(ratio.mean, 4), "ratio_low": round(ratio.low, 4)}
                pair = {"dataset": cells[0].name, "history": history, "bucket": bucket, "pair": f"{over} - {under}"}
                rows.append({**pair, **interval, "seeds": len(above), "named": arguments.named})
    return rows


def cold(name: str, variant: str, arguments: argparse.Namespace) -> Rows:
    """Rows of items that were taken out of the log before the fit, and put in by their texts; without one, missed."""
    chosen = recipe.load(name, [*arguments.overrides, *VARIANTS[variant], "baselines=[]", "history=compressed"])
    if chosen.time == "next":
        raise SystemExit("got time: next, expected last or none: cold items are asked for at everybody's last event")
    log = log_of(chosen)
    ids = log[ITEM].unique().sort()
    out = ids.sample(fraction=arguments.share, seed=0).implode()
    last = pl.int_range(pl.len()).over(USER) == pl.len().over(USER) - 1
    asked = log.filter(last & pl.col(ITEM).is_in(out))
    histories = log.filter(~last & ~pl.col(ITEM).is_in(out)).join(asked.select(USER), on=USER, how="semi")
    asked = asked.join(histories.select(USER).unique(), on=USER, how="semi")
    if asked.is_empty():
        raise SystemExit(f"--share {arguments.share}: got no query for an item that is left out; leave out more")
    kept = log.filter(~pl.col(ITEM).is_in(out))
    rows = []
    for cell in chosen.grid():
        folder = arguments.out / chosen.name / f"{variant}, cold" / name_of(cell)
        if not (folder / run.MANIFEST).exists():
            api.fit(cell, frame=kept, out=folder, resume=folder.exists(), progress=False)
        if not pl.Series(run.load(folder).item_ids()).is_in(out).any():
            add(folder, str(cell.items.path), say=print)
        listed = Recommender.load(folder).recommend(k=10, histories=histories)
        ranks = asked.join(listed.select(USER, ITEM, "rank"), on=[USER, ITEM], how="left", maintain_order="left")[
            "rank"
        ]
        found = metrics.per_user(ranks.fill_null(np.inf).cast(pl.Float64).to_numpy(), np.ones(len(ranks), int), (10,))
        ours = {key: found[theirs] for key, theirs in METRICS.items()}
        chance = {"chance_recall10": round(10 / len(ids), 6), "cold_items": len(out[0])}
        rows.append(row(cell, variant, "cold", ours, np.arange(len(ranks)), arguments.named) | chance)
    return rows


def log_of(chosen: Recipe) -> pl.DataFrame:
    """The prepared log of a recipe as rows of events, in order."""
    folder = api.prepare(chosen)
    data = run.open_log(
        {"folder": folder, "hash": run.open_prepared(folder, chosen.split.name).hash}, chosen.split.name
    )
    users = np.repeat(np.arange(data.users), np.diff(data.offsets))
    ids = {USER: pl.Series(USER, data.user_ids()), ITEM: pl.Series(ITEM, data.item_ids())}
    frame = {USER: ids[USER].gather(users), ITEM: ids[ITEM].gather(data.items - 1)}
    if data.times is not None:  # as moments, which are no numbers in the recipe's unit
        frame[TIME] = pl.Series(TIME, data.times).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(frame)


@torch.no_grad()
def reads(kind: str) -> dict[str, Any]:
    """Milliseconds of a read of 64 users with 1,024 events, all of them clear, and from memories of 31 segments."""
    torch.manual_seed(0)
    values = {"items": {"use": "text", "path": "-", "encoder": "-"}, "memory": {"segment": 32, "recent": 32}}
    texts = Texts(torch.randn(5001, TEXT), torch.ones(5001, dtype=torch.bool))
    position = torch.arange(EVENTS).expand(READERS, -1)
    item, valid = torch.randint(1, 5001, position.shape), torch.ones(position.shape, dtype=torch.bool)
    batch = Batch(History(item, position, position, item, position, valid), position[:, -1] + 1, position[:, 0])
    found: dict[str, Any] = {}
    for history in ("full", "compressed"):
        chosen = recipe.parse(values | {"model": {"kind": kind}, "history": history}, "of a read")
        model = build(chosen, items=5000, texts=texts).eval()
        whole = model.read_out(batch)
        closed = model.rule.closed(batch.events)

        def once(model: Any = model, memory: Any = whole.memory, closed: Any = closed) -> None:
            read(model.backbone, model.encode(), batch, closed, model.rule, memory)

        name = "read_ms_full" if history == "full" else "read_ms_cached"
        found[name] = round(1000 * _median(once, 3 if history == "full" else 20), 2)
    shape = {"users": READERS, "events": EVENTS, "S": 32, "R": 32, "threads": torch.get_num_threads()}
    return {"dataset": "random", "model": f"text+{kind}", **shape, **found, "named": True}


def encoding(name: str, overrides: list[str]) -> dict[str, Any]:
    """Seconds in which the items of a recipe are read, from its table to their vectors, the first time and again."""
    chosen = recipe.load(name, overrides)
    data = run.open_prepared(api.prepare(chosen), chosen.split.name)
    with tempfile.TemporaryDirectory() as folder:
        item_texts.encoded(chosen.items, ["a text"], accelerator="cpu", say=print, root=Path(folder) / "of imports")
        seconds, counts = [], []
        for _ in range(2):
            started = time.perf_counter()
            known = item_texts.load(chosen.items, data, accelerator="cpu", say=print, root=Path(folder))
            seconds.append(time.perf_counter() - started)
            counts.append(known.counts)
    assert counts[1]["new texts"] == 0
    texts = counts[0]["new texts"]
    return {
        "dataset": chosen.name,
        "texts": texts,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds[0], 3),
        "texts_per_second": round(texts / seconds[0], 1),
        "padding": round(counts[0]["padding"], 4),
        "second_seconds": round(seconds[1], 4),
        "second_share": round(seconds[1] / seconds[0], 5),
    }


def _median(once: Any, rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped name or a .yaml file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--models", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument(
        "--cold", nargs="*", default=["text+hstu", "id+text+hstu, whitened", HEAD], choices=list(VARIANTS)[2:]
    )
    parser.add_argument("--share", type=float, default=0.05, help="of the items that are taken out as cold ones")
    parser.add_argument("--read", action="store_true", help="measure reads, and nothing else")
    parser.add_argument("--encode", action="store_true", help="measure how items are read, and nothing else")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/hllm"))
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    parser.add_argument("--append", action="store_true", help="keep what the file has of other data sets and kinds")
    parser.add_argument("--named", action="store_true", help="no test figure of the recipe was seen before")
    arguments = parser.parse_args()
    rows = measured(arguments)
    before = machine.rows_of(arguments.json) if arguments.append else []
    replaced = {kind_of(row) for row in rows}
    machine.write(arguments.json, rows, keep=[row for row in before if kind_of(row) not in replaced])


def measured(arguments: argparse.Namespace) -> Rows:
    """The rows that were asked for."""
    if arguments.read:
        return [reads(kind) for kind in ("hstu", "decoder")]
    if arguments.encode:
        return [encoding(arguments.recipe, arguments.overrides)]
    for variant in {*arguments.models, *arguments.cold}:  # before anything is trained
        recipe.load(arguments.recipe, [*arguments.overrides, *VARIANTS[variant]])
    chosen = recipe.load(arguments.recipe, arguments.overrides)
    there = {"id, adjusted": chosen.loss.logit_adjustment, HEAD: chosen.items.text_head}
    rows = warm(arguments.recipe, [variant for variant in arguments.models if there.get(variant, True)], arguments)
    for variant in [variant for variant in arguments.cold if there.get(variant, True)]:
        rows += cold(arguments.recipe, variant, arguments)
    return rows


def kind_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Data set and kind of a row: those of the same are written together."""
    return row["dataset"], next((mark for mark in ("second_seconds", "read_ms_full") if mark in row), "quality")


if __name__ == "__main__":
    main()
