"""What all hosts of benchmarks/plug.py share, and RecTools: training, tuning, the ten best items, timing.

Shapes: U users, E events, Q queries, V items.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from persrec import plug

Ints = npt.NDArray[np.int64]
ROUNDS = 5  # a timing is the best of so many


@dataclass(frozen=True)
class Log:
    """Histories, and what is asked at their ends; the arrays of a file written by `benchmarks/plug.py export`."""

    name: str
    protocol: str
    offsets: Ints  # (U+1,)
    items: Ints  # (E,) 1..V
    times: Ints  # (E,) ms; one hour apart where the log has none
    timed: bool
    seen: bool  # whether items of the history may be recommended
    train_end: Ints  # (U,)
    user: Ints  # (Q,)
    end: Ints  # (Q,) events that are known
    size: Ints  # (Q,) events after them that are asked for

    def stretch(self, user: int, start: int, end: int) -> slice:
        """Where events [start, end) of a user stand."""
        return slice(int(self.offsets[user]) + start, int(self.offsets[user]) + end)

    def targets(self, query: int) -> set[int]:
        """The items that a query asks for."""
        end = int(self.end[query])
        return set(self.items[self.stretch(int(self.user[query]), end, end + int(self.size[query]))].tolist())


@dataclass(frozen=True)
class Settings:
    """What all hosts of a run have in common."""

    length: int
    segment: int
    recent: int
    tokens: int
    epochs: int
    batch: int  # histories per step
    learning_rate: float
    width: int
    timed_users: int

    def rule(self, history: str) -> dict[str, Any]:
        """Arguments of `attach` for a history."""
        tokens = 0 if history == "recent" else self.tokens
        return {"segment": self.segment, "recent": self.recent, "tokens": tokens}


class Timing(dict[str, float]):
    """Seconds by what was timed."""


def fastest(act: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class RecTools:
    """RecTools' HSTUModel in RecTools' own training; the compressed one by constructor arguments."""

    def __init__(self, log: Log, settings: Settings) -> None:
        from rectools.dataset import Dataset

        self.log, self.settings = log, settings
        users, queries = np.arange(len(log.train_end)), np.arange(len(log.user))
        self.train = Dataset.construct(self._frame(users, users, log.train_end))
        known = self._frame(queries, log.user, log.end)
        self.asked = Dataset.construct(known)
        when = log.times[log.offsets[log.user] + log.end]
        self.context = pd.DataFrame({"user_id": queries, "datetime": pd.to_datetime(when, unit="ms"), "weight": 1.0})

    def fit(self, history: str, seed: int) -> Any:
        """A fitted model."""
        from pytorch_lightning import seed_everything
        from rectools.models import HSTUModel

        from persrec.plug.rectools import compressed

        chosen = {} if history == "full" else compressed(**self.settings.rule(history))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on workers
            seed_everything(seed, verbose=False)
            model = HSTUModel(
                n_blocks=2,
                n_heads=2,
                n_factors=self.settings.width,
                session_max_len=self.settings.length,
                relative_time_attention=self.log.timed,
                loss="sampled_softmax",
                n_negatives=128,
                lightning_module_kwargs={"logits_t": 0.05},
                epochs=self.settings.epochs,
                batch_size=self.settings.batch,
                lr=self.settings.learning_rate,
                recommend_torch_device="cpu",
                **chosen,
            )
            return model.fit(self.train)

    def attached(self, model: Any, seed: int) -> Any:
        """The full model with a compressor."""
        torch.manual_seed(seed)
        return plug.attach(model, **self.settings.rule("tuned"))

    def tune(self, model: Any) -> None:
        """One epoch of RecTools' training."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit_partial(self.train, min_epochs=1, max_epochs=1)

    def best(self, model: Any) -> Ints:
        """(Q, 10) items by rank, 0 where there are fewer."""
        frame = self._recommended(model, np.arange(len(self.log.user)))
        found = np.zeros((len(self.log.user), 10), dtype=np.int64)
        found[frame["user_id"].to_numpy(), frame["rank"].to_numpy() - 1] = frame["item_id"].to_numpy()
        return found

    def timing(self, model: Any) -> Timing:
        """Forward pass and `recommend`, from whole histories or from memories, of the first users."""
        users = np.arange(min(self.settings.timed_users, len(self.log.user)))
        timing = Timing(
            forward_seconds=self._forward(model, users),
            recommend_seconds=fastest(lambda: self._recommended(model, users)),
        )
        if not hasattr(model.torch_model, "plugged"):
            return timing
        from persrec.plug.rectools_model import _reading

        memories = plug.compress(model, self.asked, users)
        with _reading(model, memories):
            timing["forward_seconds_from_memory"] = self._forward(model, users)
        timing["recommend_seconds_from_memory"] = fastest(lambda: self._recommended(model, users, memories))
        return timing

    def _recommended(self, model: Any, users: Ints, memories: Any = None) -> pd.DataFrame:
        options: dict[str, Any] = {"k": 10, "filter_viewed": not self.log.seen}
        if self.log.timed:
            options["context"] = self.context.iloc[users].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # queries without any known item
            if memories is None:
                return model.recommend(users, self.asked, **options)
            return plug.read(model, memories, users, self.asked, **options)

    def _forward(self, model: Any, users: Ints) -> float:
        """Seconds of the torch model over the batches that `recommend` makes."""
        preparator, backbone = model.data_preparator, model.torch_model.eval()
        context = self.context.iloc[users].copy() if self.log.timed else None
        known = preparator.transform_dataset_u2i(self.asked, users, context)
        batches = list(preparator.get_dataloader_recommend(known, model.recommend_batch_size))
        with torch.no_grad():
            item_embs = backbone.item_model.get_all_embeddings()
            return fastest(lambda: [backbone.encode_sessions(batch, item_embs) for batch in batches])

    def _frame(self, names: Ints, users: Ints, ends: Ints) -> pd.DataFrame:
        """The first events of some users, under some names."""
        places = [
            np.arange(self.log.offsets[user], self.log.offsets[user] + end)
            for user, end in zip(users, ends, strict=True)
        ]
        place = np.concatenate(places)
        return pd.DataFrame(
            {
                "user_id": np.repeat(names, ends),
                "item_id": self.log.items[place],
                "weight": 1.0,
                "datetime": pd.to_datetime(self.log.times[place], unit="ms"),
            }
        )
