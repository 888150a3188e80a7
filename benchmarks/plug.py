"""What compression costs and keeps in models that people already have: plain, attached, and attached after training.

    persrec prepare ml-1m
    python benchmarks/plug.py export data/prepared/ml-1m-... --out ml-1m.npz
    .venv-hosts/bin/python benchmarks/plug.py run ml-1m.npz --json benchmarks/results/plug.json

`export` writes histories and test queries of a prepared folder to one file; `run` needs the environment of the foreign
hosts only (`make test-hosts` makes it). Histories: `full`, the host alone on the last `--length` events; `recent`, the
same host and segments with nothing remembered; `compressed`, trained jointly; `tuned`, the full one, attached and
trained for some more epochs. Of the epochs the best on validation is chosen (the first event after those that are
trained on), and training ends where it has not been bettered for `--patience` epochs; each epoch of tuning has a row
of its own besides. Seconds of answers are measured apart, models of one epoch taking turns. Cells and seconds that are
in `--out` already are not made again, and are refused where they were made with other settings; `--append` keeps the
rows of other logs and hosts.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from persrec.errors import whole

Values = npt.NDArray[np.float64]
PAIRS = (
    ("compressed", "full"),
    ("compressed", "recent"),
    ("full", "recent"),
    ("tuned", "compressed"),
    ("tuned", "full"),
)
HOUR = 3_600_000
SETTINGS = "settings"  # of what is kept: under this name beside its values


def export(folder: Path, split: str, out: Path, *, seen: bool, sample: int | None) -> None:
    """Histories and test queries of a prepared folder as plain arrays."""
    from persrec.prepared import open_prepared

    data = open_prepared(folder, split)
    queries = np.arange(len(data.test.user))
    if sample is not None and sample < len(queries):
        queries = np.sort(np.random.default_rng(0).choice(queries, sample, replace=False))
    had = 0 if seen else sum(_had(data, int(query)) for query in queries)
    if had:
        raise SystemExit(
            f"{folder}: {had:,} of {len(queries):,} queries ask for an item that their user had, which is never "
            "listed where seen items are excluded; expected none, say --seen"
        )
    place = np.arange(len(data.items)) - np.repeat(data.offsets[:-1], np.diff(data.offsets))
    np.savez(
        out,
        name=folder.name.rpartition("-")[0],
        protocol=f"{split}, full ranking, seen items {'included' if seen else 'excluded'}",
        offsets=data.offsets,
        items=data.items.astype(np.int64),
        times=place * HOUR if data.times is None else data.times,
        timed=data.times is not None,
        seen=seen,
        train_end=data.train_end,
        user=data.test.user[queries],
        end=data.test.end[queries],
        size=data.test.size[queries],
    )


def _had(data: Any, query: int) -> bool:
    """Whether a test query of prepared data asks for an item that its user had before."""
    first = data.offsets[data.test.user[query]]
    end = first + data.test.end[query]
    return bool(np.isin(data.items[end : end + data.test.size[query]], data.items[first:end]).any())


def ndcg(log: Any, asked: Any, best: npt.NDArray[np.int64]) -> Values:
    """NDCG@10 of each query (Q,) that is asked, against the best order of its set of items."""
    gains = 1 / np.log2(np.arange(2, 12))
    values = np.zeros(len(best))
    for query, ranked in enumerate(best.tolist()):
        targets = log.targets(asked, query)
        found = sum(gains[rank] for rank, item in enumerate(ranked) if item in targets)
        values[query] = found / gains[: len(targets)].sum()
    return values


class Cells:
    """Cells by (history, epoch, seed), epoch 0 being the chosen one: values of the queries, and seconds of training.

    `settings` is what they depend on, by name; a folder with files of other settings is refused (SystemExit).
    """

    def __init__(
        self, folder: Path, host: Any, log: Any, *, epochs: int, patience: int, settings: dict[str, Any]
    ) -> None:
        self.folder, self.host, self.log, self.epochs, self.patience = folder, host, log, epochs, patience
        self._timings, self._timed = folder / "timings.json", settings
        self._trained = {name: value for name, value in settings.items() if name != "timed_users"}
        folder.mkdir(parents=True, exist_ok=True)
        self._check()

    def _check(self) -> None:
        """Refuse what was made with other settings, and say how many files do not tell theirs."""
        kept = {path: _settings_of(path) for path in sorted(self.folder.glob("*.npz"))}
        for path, before in kept.items():
            _refuse_difference(path, before, self._trained)
        if self._timings.exists():
            kept[self._timings] = json.loads(self._timings.read_text(encoding="utf-8")).get(SETTINGS)
            _refuse_difference(self._timings, kept[self._timings], self._timed)
        untold = sum(before is None for before in kept.values())
        if untold:
            print(f"{self.folder}: {untold} of {len(kept)} files do not tell their settings; taken for those of now")

    def train(self, histories: list[str], seed: int, tuned: int) -> None:
        """Everything of one seed that is not there yet; tuning starts from the full model."""
        if "tuned" in histories and not self.path("tuned", 0, seed).exists():
            full = self._fit("full", seed, self.host.start("full", seed), self.epochs)
            self._fit("tuned", seed, self.host.attached(full, seed), tuned, each=True)
        for history in histories:
            if not self.path(history, 0, seed).exists():
                self._fit(history, seed, self.host.start(history, seed), self.epochs)

    def _fit(self, history: str, seed: int, model: Any, epochs: int, *, each: bool = False) -> Any:
        """The model of the best epoch on validation, tested; `each` epoch is tested too."""
        seconds, best = [], -1.0
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            self.host.epoch(model)
            seconds.append(time.perf_counter() - start)
            asked = self.log.validation
            found = float(ndcg(self.log, asked, self.host.best(model, asked)).mean())
            print(f"{time.strftime('%H:%M:%S')} {history} epoch {epoch}: validation {found:.4f}", flush=True)
            if each:
                self._keep(history, epoch, seed, model, {"seconds_per_epoch": seconds[-1], "epochs": epoch})
            if found > best:
                best, chosen, weights = found, epoch, deepcopy(self.host.module(model).state_dict())
            if epoch - chosen >= self.patience:
                break
        self.host.module(model).load_state_dict(weights)
        self._keep(history, 0, seed, model, {"seconds_per_epoch": statistics.median(seconds), "epochs": chosen})
        return model

    def _keep(self, history: str, epoch: int, seed: int, model: Any, about: dict[str, float]) -> None:
        values = ndcg(self.log, self.log.test, self.host.best(model, self.log.test))
        stored: dict[str, Any] = {"values": values, "about": json.dumps(about), SETTINGS: json.dumps(self._trained)}
        with whole(self.path(history, epoch, seed), "--out") as place, place.open("wb") as file:
            np.savez(file, **stored)
        print(f"{time.strftime('%H:%M:%S')} {history} {epoch or ''} seed {seed}: {values.mean():.4f}", flush=True)

    def path(self, history: str, epoch: int, seed: int) -> Path:
        """Where a cell is kept."""
        return self.folder / f"{history}{epoch or ''}-seed{seed}.npz"

    def timings(self, histories: list[str]) -> dict[str, dict[str, float]]:
        """Seconds of each form (tuned models have that of compressed ones), kept on disk once measured.

        Models of one epoch are asked in turn; the fastest of some rounds counts.
        """
        import torch

        forms = [history for history in histories if history != "tuned"]
        kept = json.loads(self._timings.read_text(encoding="utf-8")) if self._timings.exists() else {}
        found: dict[str, dict[str, float]] = {name: value for name, value in kept.items() if name != SETTINGS}
        if set(forms) - found.keys():
            acts = {}
            for history in forms:
                model = self.host.start(history, 0)
                self.host.epoch(model)
                acts[history] = self.host.timed(model)
            found = {history: dict.fromkeys(acts[history], float("inf")) for history in forms}
            for _ in range(ROUNDS):
                for history in forms:
                    for name, act in acts[history].items():
                        start = time.perf_counter()
                        with torch.no_grad():
                            act()
                        found[history][name] = min(found[history][name], time.perf_counter() - start)
            text = json.dumps({SETTINGS: self._timed, **found})
            with whole(self._timings, "--out") as place:
                place.write_text(text, encoding="utf-8")
        return found | ({"tuned": found["compressed"]} if "compressed" in found else {})

    def epochs_of(self, history: str, seed: int) -> list[int]:
        """The epochs that were tested one by one."""
        return [epoch for epoch in range(1, 1000) if self.path(history, epoch, seed).exists()]

    def load(self, history: str, epoch: int, seed: int) -> tuple[Values, dict[str, float]]:
        """Values (Q,) of a cell, and its seconds."""
        with np.load(self.path(history, epoch, seed)) as found:
            return found["values"], json.loads(str(found["about"]))


def _settings_of(cell: Path) -> dict[str, Any] | None:
    """What a cell was made with; None where it does not tell."""
    with np.load(cell) as found:
        return json.loads(str(found[SETTINGS])) if SETTINGS in found else None


def _refuse_difference(path: Path, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    if before is None:
        return
    changed = sorted(name for name in now if before.get(name) != now[name])
    if changed:
        then, wanted = (", ".join(f"{name} {one.get(name)}" for name in changed) for one in (before, now))
        raise SystemExit(
            f"{path}: was made with other settings, got {then}, expected {wanted}; remove it or choose another --out"
        )


def rows(cells: Cells, histories: list[str], seeds: list[int], common: dict[str, Any]) -> Iterator[dict]:
    """One row per cell, with its retention where full is above recent, and one per pair, over queries and seeds."""
    from persrec.evaluation import intervals

    users = cells.log.user
    forms = {history: [cells.load(history, 0, seed) for seed in seeds] for history in histories}
    timings = cells.timings(histories)
    values = {history: [found for found, _ in several] for history, several in forms.items()}
    pairs = [(over, under) for over, under in PAIRS if over in forms and under in forms]
    ratios = {(over, under): intervals.ratio(values[over], values[under], users) for over, under in pairs}
    matters = ("full", "recent") in ratios and ratios["full", "recent"].low > 1  # there is something to retain
    for history, several in forms.items():
        for place, seed in enumerate(seeds):
            kept = None
            if history in ("compressed", "tuned") and matters:
                kept = retention(*(each[place][0].mean() for each in (several, forms["full"], forms["recent"])))
            shared = common | {"history": history, "seed": seed}
            seconds = {name: round(value, 4) for name, value in timings.get(history, {}).items()}
            yield shared | told(*several[place], users) | seconds | {"retention": kept, "chosen": True}
            for epoch in cells.epochs_of(history, seed):
                yield shared | told(*cells.load(history, epoch, seed), users) | {"retention": None, "chosen": False}
    for (over, under), ratio in ratios.items():
        named = {"mean": round(ratio.mean, 4), "low": round(ratio.low, 4), "high": round(ratio.high, 4)}
        yield common | {"pair": f"{over}/{under}", "seeds": len(seeds)} | named


def told(values: Values, about: dict[str, float], users: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """NDCG@10 with its interval over users, and what training took."""
    from persrec.evaluation import intervals

    mean = intervals.mean(values, users)
    quality = {"ndcg10": round(mean.mean, 6), "low": round(mean.low, 6), "high": round(mean.high, 6)}
    return quality | dict.fromkeys(SECONDS) | {name: round(value, 4) for name, value in about.items()}


ROUNDS = 5  # a timing is the fastest of so many
SECONDS = (
    "seconds_per_epoch",
    "forward_seconds",
    "forward_seconds_from_memory",
    "recommend_seconds",
    "recommend_seconds_from_memory",
)


def retention(one: float, full: float, recent: float) -> float | None:
    """What is kept of that which full has over recent; None where it has nothing over it."""
    return round(float((one - recent) / (full - recent)), 4) if full > recent else None


def run(arguments: argparse.Namespace) -> None:
    """Train, test and time every cell, and write the rows."""
    import torch

    from benchmarks.plug_hosts import Log, RecTools, Settings
    from benchmarks.plug_llama import Llama

    torch.set_num_threads(1)
    with np.load(arguments.log) as stored:
        log = Log(**{name: stored[name][()] for name in stored.files})
    settings = Settings(
        length=arguments.length,
        segment=arguments.segment,
        recent=arguments.recent,
        tokens=arguments.tokens,
        reads=arguments.reads,
        epochs=arguments.epochs,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        width=arguments.width,
        negatives=arguments.negatives,
        timed_users=arguments.timed_users,
    )
    host = (Llama if arguments.host == "llama" else RecTools)(log, settings)
    folder, patience = arguments.out / f"{log.name}-{arguments.host}", arguments.patience
    about = {"protocol": str(log.protocol), "queries": len(log.user), "patience": patience, "tune": arguments.tune}
    cells = Cells(folder, host, log, epochs=settings.epochs, patience=patience, settings=asdict(settings) | about)
    for seed in arguments.seeds:
        cells.train(arguments.histories, seed, arguments.tune)
    common = {
        "dataset": str(log.name),
        "protocol": f"{log.protocol}, length {settings.length}",
        "host": arguments.host,
        "negatives": settings.negatives if arguments.host == "rectools-hstu" else None,
        "S": settings.segment,
        "R": settings.recent,
        "K": settings.tokens,
        "reads": settings.reads,
        "queries": len(log.user),
        "named": arguments.named,
    }
    versions = "torch", "numpy", "rectools", "pytorch-lightning", "transformers"  # what is here
    machine.PACKAGES = versions  # type: ignore[assignment]
    found = list(rows(cells, arguments.histories, arguments.seeds, common))
    before = machine.rows_of(arguments.json) if arguments.append else []
    keep = [row for row in before if kind_of(row) != kind_of(common)]
    machine.write(arguments.json, found, keep=keep)


def kind_of(row: dict[str, Any]) -> tuple[str, str, float]:
    """Log, host and way of training of a row: those of the same are written together."""
    return row["dataset"], row["host"], row.get("reads", 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("export")
    first.add_argument("folder", type=Path, help="a prepared folder")
    first.add_argument("--split", default="leave-one-out")
    first.add_argument("--seen", action="store_true", help="items of the history may be recommended")
    first.add_argument("--sample", type=int, help="ask so many queries only")
    first.add_argument("--out", type=Path, required=True)
    second = verbs.add_parser("run")
    second.add_argument("log", type=Path, help="a file that export wrote")
    second.add_argument("--host", default="rectools-hstu", choices=("rectools-hstu", "llama"))
    second.add_argument("--histories", nargs="+", default=["full", "recent", "compressed", "tuned"])
    second.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    sizes = {"length": 200, "segment": 40, "recent": 40, "tokens": 4, "width": 64, "negatives": 128}
    for name, value in sizes.items():
        second.add_argument(f"--{name}", type=int, default=value)
    second.add_argument("--reads", type=float, default=0.3, help="share of the training passes with rows as served")
    second.add_argument("--epochs", type=int, default=20, help="most epochs of training")
    second.add_argument(
        "--patience", type=int, default=5, help="epochs without a better one, after which training ends"
    )
    second.add_argument("--batch", type=int, default=16, help="histories per step")
    second.add_argument("--learning-rate", type=float, default=0.001)
    second.add_argument("--tune", type=int, default=20, help="most epochs of tuning")
    second.add_argument("--timed-users", type=int, default=600)
    second.add_argument("--out", type=Path, default=Path("runs/plug"))
    second.add_argument("--json", type=machine.file_for_rows, help="file for the rows")
    second.add_argument(
        "--append", action="store_true", help="keep what the file has of other logs, hosts and shares of reads"
    )
    second.add_argument("--named", action="store_true", help="no test figure of the recipe was seen before")
    arguments = parser.parse_args()
    if arguments.verb == "export":
        export(arguments.folder, arguments.split, arguments.out, seen=arguments.seen, sample=arguments.sample)
    else:
        run(arguments)


if __name__ == "__main__":
    main()
