"""persrec in benchmarks/peers.py: one model in persrec's own training; its answers, from histories and from a store.

`python benchmarks/peers_persrec.py LOG.npz CELL.npz SETTINGS`, with settings as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import faiss
import lightning as L
import numpy as np
import polars as pl
import torch

from benchmarks import machine
from benchmarks.peers_shared import Ints, K, Log, Settings, Stopwatch, fastest, keep, lists_of
from persrec import metrics
from persrec.batches import evaluation_windows
from persrec.cells import protocol
from persrec.evaluation.evaluate import item_vectors, read_users
from persrec.interactions.schema import ITEM, TIME, USER
from persrec.models.build import build
from persrec.models.model import Model
from persrec.prepared import Prepared, open_prepared
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe
from persrec.retrieval.seen import Seen
from persrec.serving.answers import Known, best
from persrec.serving.histories import Histories
from persrec.serving.recommender import Recommender
from persrec.training.module import Data, Fitting, plan_of
from persrec.training.settings import loss_settings, training_settings
from persrec.training.trainer import BEST, quiet_lightning, trainer_of
from persrec.training.validation import METRIC, Validation


class Epochs(L.Callback):
    """Times every epoch."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the watch."""
        self.watch.go()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The watch stands during validation."""
        self.watch.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An epoch is over."""
        self.watch.lap(float(trainer.callback_metrics[METRIC]))
        self.watch.go()


def cell_of(settings: Settings) -> Recipe:
    """The recipe with the settings of both libraries; learning rate, schedule and scores are the recipe's own."""
    sampled = ["loss.kind=sampled", f"loss.negatives={settings.negatives}", "loss.per=row"]
    shared = {
        "model.kind": settings.model,
        "model.layers": settings.layers,
        "model.width": settings.width,
        "model.heads": settings.heads,
        "model.dropout": settings.dropout,
        "length": "null" if settings.length is None else settings.length,
        "time": settings.time,
        "history": settings.history,
        "seeds": settings.seed,
        "training.batch_users": settings.batch,
        "training.batch_events": "null" if settings.events is None else settings.events,
        "training.epochs": settings.epochs,
        "training.patience": "null",
        "baselines": "[]",
    }
    chosen = sampled if settings.sampling == "negatives" else ["loss.kind=full"]
    given = [*settings.overrides, *(f"{key}={value}" for key, value in shared.items()), *chosen]
    return recipe.load(settings.recipe, given).grid()[0]


def trained(cell: Recipe, data: Prepared, watch: Stopwatch) -> Model:
    """A model with the best weights by validation."""
    settings = training_settings(cell)
    model = build(cell, items=data.items_count, seed=cell.seeds[0])
    plan = plan_of(model, data, settings)
    options: dict[str, Any] = {"length": cell.length, "time": cell.time, "exclude_seen": True}
    validation = Validation(data, data.validation, plan.budget, **options)
    fitting = Fitting(model, loss_settings(cell), settings, total_steps=len(plan) * settings.epochs)
    with tempfile.TemporaryDirectory() as place, quiet_lightning():
        trainer = trainer_of(settings, Path(place), batches=len(plan), first=0, progress=False)
        trainer.callbacks.append(Epochs(watch))  # type: ignore[attr-defined]
        trainer.fit(fitting, datamodule=Data(plan, validation, workers=0))
        kept = torch.load(Path(place) / "checkpoints" / BEST, weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): value for name, value in kept.items()})
    model.compressor.maker = model.maker()  # type: ignore[attr-defined]
    return model.eval()


class Questions:
    """Histories of the users who are asked, under the names 0, 1, ..., and their answers; items are named 1..V."""

    def __init__(self, log: Log, cell: Recipe, items: int) -> None:
        self.cell, self.asked, self.targets, self.at = cell, log.test, log.targets(log.test), log.at(log.test)
        self.query, place = log.events(*log.test)
        self.names, self.item_ids = pl.Series(USER, np.arange(len(log.test.user))), pl.Series(np.arange(1, items + 1))
        offsets = np.append(0, np.cumsum(log.test.end))
        times = None if log.times is None else log.times[place]
        self.histories = Histories(self.names, offsets, log.items[place].astype(np.int32), times)

    def frame(self) -> pl.DataFrame:
        """The histories as a log."""
        columns = {USER: self.query, ITEM: self.histories.items}
        if self.histories.times is None:
            return pl.DataFrame(columns)
        return pl.DataFrame(columns | {TIME: pl.Series(self.histories.times).cast(pl.Datetime("ms", "UTC"))})

    def recommend(self, model: Model, *, at_last: bool = False) -> pl.DataFrame:
        """The ten best items of everybody, from their histories.

        Under `time: next` they are asked when the target comes, or with `at_last` at the time of their last event.
        """
        windows = evaluation_windows(np.arange(len(self.names)), self.asked.end, length=self.cell.length)
        at = self.at if self.cell.time == "next" and not at_last else None
        read = read_users(model, self.histories, windows, self.cell.time, at=at)
        index = protocol(self.cell).index(item_vectors(model))
        return best(Known(self.names, read.queries, None, self._seen()), K, index, self.cell, self.item_ids)

    def lists(self, answers: pl.DataFrame) -> Ints:
        """The items (Q, 10) of a frame."""
        return lists_of(answers[USER], answers["rank"], answers[ITEM], len(self.names))

    def measure(self, answers: pl.DataFrame) -> dict[str, float]:
        """persrec's own metrics of a frame's lists."""
        found = self.lists(answers) == self.targets[:, None]
        ranks = np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.inf)
        values = metrics.per_user(ranks, np.ones(len(ranks), dtype=np.int64), (K,))
        return {name: float(value.mean()) for name, value in values.items()}

    def _seen(self) -> Seen:
        return Seen.from_ranges(self.histories.items, self.histories.offsets[:-1], self.histories.offsets[1:])


def from_store(model: Model, cell: Recipe, questions: Questions) -> dict[str, float]:
    """Seconds of `recommend` from a store of memories, and how much of the lists agrees with those from histories.

    Both are asked at the time of each user's last event. Raises RuntimeError where nothing was folded.
    """
    lists = questions.lists(questions.recommend(model, at_last=True))
    with tempfile.TemporaryDirectory() as place:
        data = {"hash": "peers", "folder": ""}
        store = {"item_ids": questions.item_ids, "data": data, "store": Path(place) / "store"}
        with Recommender(model=model, recipe=cell, **store) as recommender:  # type: ignore[arg-type]
            recommender.compress(questions.frame())
            if not recommender.stats()["memory_bytes"]:
                raise RuntimeError("the store keeps raw events, and is no store of memories: nothing was folded")
            answers, seconds = fastest(lambda: recommender.recommend(None, K))
    same = float((questions.lists(answers) == lists).mean())
    return {"recommend_seconds_from_memory": seconds, "same_from_memory": same}


def main() -> None:
    log_file, place, given = sys.argv[1:]
    settings = Settings(**json.loads(given))
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    cell, watch = cell_of(settings), Stopwatch()
    data = open_prepared(settings.folder)
    model = trained(cell, data, watch)
    questions = Questions(Log.load(Path(log_file), timed=settings.time != "none"), cell, data.items_count)
    answers, recommending = fastest(lambda: questions.recommend(model))
    own, measuring = fastest(lambda: questions.measure(answers))
    about = {"recommend_seconds": recommending, "metrics_seconds": measuring, "own": own}
    about |= {"peak_mb": machine.peak_kib() / 1024}  # of training and answers; a store is no part of the comparison
    if settings.history == "compressed":
        about |= from_store(model, cell, questions)
    keep(Path(place), settings, questions.lists(answers), watch.about() | about)


if __name__ == "__main__":
    main()
