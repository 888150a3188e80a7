"""RecTools in benchmarks/peers.py: one model in RecTools' own training, and its answers.

`python benchmarks/peers_rectools.py LOG.npz CELL.npz SETTINGS` in RecTools' environment, with settings as JSON.
"""

import copy
import json
import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.metrics import NDCG, Recall, calc_metrics
from rectools.models import HSTUModel, SASRecModel

from benchmarks.peers_shared import Asked, Ints, K, Log, Settings, Stopwatch, fastest, keep, lists_of, ndcg

TEMPERATURE = 0.05  # of HSTU's cosine scores
VERSIONS = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")


def frame(log: Log, names: Ints, user: Ints, end: Ints) -> pd.DataFrame:
    """The first `end` events of users, under the names (Q,); without times they are a second apart."""
    query, place = log.events(user, end)
    times = place * 1000 if log.times is None else log.times[place]
    columns = {"user_id": names[query], "item_id": log.items[place], "weight": 1.0}
    return pd.DataFrame(columns | {"datetime": pd.to_datetime(times, unit="ms")})


class Questions:
    """What is known of the users who are asked, as RecTools wants it, and its answers."""

    def __init__(self, log: Log, asked: Asked) -> None:
        self.names, self.targets = np.arange(len(asked.user)), log.targets(asked)
        self.known, self.context = Dataset.construct(frame(log, self.names, *asked)), log.at(asked)

    def recommend(self, model: Any) -> pd.DataFrame:
        """The ten best items of everybody."""
        options: dict[str, Any] = {"k": K, "filter_viewed": True}
        if self.context is not None:
            when = pd.to_datetime(self.context, unit="ms")
            options["context"] = pd.DataFrame({"user_id": self.names, "datetime": when, "weight": 1.0})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # queries without any known item
            return model.recommend(self.names, self.known, **options)

    def lists(self, model: Any) -> Ints:
        """(Q, 10) of them."""
        answers = self.recommend(model)
        return lists_of(answers["user_id"], answers["rank"], answers["item_id"], len(self.names))

    def measure(self, answers: pd.DataFrame) -> dict[str, float]:
        """RecTools' own metrics."""
        wanted = pd.DataFrame({"user_id": self.names, "item_id": self.targets})
        return calc_metrics({"recall": Recall(k=K), "ndcg": NDCG(k=K)}, reco=answers, interactions=wanted)


class Epochs(Callback):
    """Times and validates every epoch, and keeps the weights of the best one."""

    def __init__(self, watch: Stopwatch, questions: Questions) -> None:
        self.watch, self.questions = watch, questions
        self.model: Any = None
        self.best: dict[str, torch.Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Epochs":
        return self  # a model copies its trainer before it fits

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the watch."""
        self.watch.go()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Ask the validation's questions while the watch stands."""
        self.watch.pause()
        self.model.is_fitted = True  # `recommend` refuses a model in training
        value = float(ndcg(self.questions.lists(self.model), self.questions.targets).mean())
        self.model.is_fitted = False
        pl_module.train()
        if value > max(self.watch.validation, default=-1.0):
            self.best = copy.deepcopy(pl_module.torch_model.state_dict())
        self.watch.lap(value)
        self.watch.go()


def model_of(settings: Settings, epochs: Epochs) -> Any:
    """An untrained model; what is not set here has RecTools' default, a learning rate of 0.001 among it."""
    options: dict[str, Any] = {
        "n_blocks": settings.layers,
        "n_heads": settings.heads,
        "n_factors": settings.width,
        "dropout_rate": settings.dropout,
        "session_max_len": settings.length,
        "batch_size": settings.batch,
        "recommend_torch_device": "cpu",
        "get_trainer_func": lambda: Trainer(
            max_epochs=settings.epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[epochs],
        ),
    }
    sampled = {"loss": "sampled_softmax", "n_negatives": settings.negatives}
    options |= sampled if settings.sampling == "negatives" else {"loss": "softmax"}
    if settings.model == "sasrec":
        return SASRecModel(**options)
    timed = settings.time != "none"
    return HSTUModel(relative_time_attention=timed, lightning_module_kwargs={"logits_t": TEMPERATURE}, **options)


def main() -> None:
    log_file, cell, given = sys.argv[1:]
    settings = Settings(**json.loads(given))
    torch.set_num_threads(1)
    log = Log.load(Path(log_file), timed=settings.time != "none")
    watch = Stopwatch()
    epochs = Epochs(watch, Questions(log, log.validation))
    users = np.arange(len(log.train_end))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        seed_everything(settings.seed, verbose=False)
        epochs.model = model = model_of(settings, epochs)
        model.fit(Dataset.construct(frame(log, users, users, log.train_end)))
    model.torch_model.load_state_dict(epochs.best)
    questions = Questions(log, log.test)
    answers, recommending = fastest(lambda: questions.recommend(model))
    _, measuring = fastest(lambda: questions.measure(answers))
    lists = lists_of(answers["user_id"], answers["rank"], answers["item_id"], len(questions.names))
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}}
    about = {"recommend_seconds": recommending, "metrics_seconds": measuring, "versions": versions}
    keep(Path(cell), settings, lists, watch.about() | about)


if __name__ == "__main__":
    main()
