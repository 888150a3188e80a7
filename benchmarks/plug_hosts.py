"""What all hosts of benchmarks/plug.py share, and RecTools: training, tuning, the ten best items, timing.

Shapes: U users, E events, Q queries, V items.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from persrec import plug

Ints = npt.NDArray[np.int64]
MOST = 1000  # queries of a validation


class Asked(NamedTuple):
    """Queries, each on the first events of a user."""

    user: Ints  # (Q,)
    end: Ints  # (Q,) events that are known
    size: Ints  # (Q,) events after them that are asked for


@dataclass(frozen=True, eq=False)
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

    @cached_property
    def test(self) -> Asked:
        """What models are compared by."""
        return Asked(self.user, self.end, self.size)

    @cached_property
    def validation(self) -> Asked:
        """The first event after those that are trained on, of some users."""
        there = np.flatnonzero((self.train_end > 0) & (self.train_end < np.diff(self.offsets)))
        some = np.sort(np.random.default_rng(0).permutation(there)[:MOST])
        return Asked(some, self.train_end[some], np.ones(len(some), dtype=np.int64))

    def stretch(self, user: int, start: int, end: int) -> slice:
        """Where events [start, end) of a user stand."""
        return slice(int(self.offsets[user]) + start, int(self.offsets[user]) + end)

    def targets(self, asked: Asked, query: int) -> set[int]:
        """The items that a query asks for."""
        end = int(asked.end[query])
        return set(self.items[self.stretch(int(asked.user[query]), end, end + int(asked.size[query]))].tolist())


@dataclass(frozen=True)
class Settings:
    """What all hosts of a run have in common."""

    length: int
    segment: int
    recent: int
    tokens: int
    reads: float  # of `attach`
    epochs: int  # at most; the one that is best on validation counts
    batch: int  # histories per step
    learning_rate: float
    width: int
    negatives: int  # per position, of RecTools
    timed_users: int

    def rule(self, history: str) -> dict[str, Any]:
        """Arguments of `attach` for a history."""
        tokens = 0 if history == "recent" else self.tokens
        return {"segment": self.segment, "recent": self.recent, "tokens": tokens, "reads": self.reads}


Acts = dict[str, Callable[[], object]]  # by what is timed


class Known(NamedTuple):
    """What RecTools is told of some queries."""

    events: Any  # a Dataset whose users are the queries
    context: pd.DataFrame  # when they are asked


class RecTools:
    """RecTools' HSTUModel in RecTools' own training; the compressed one by constructor arguments."""

    def __init__(self, log: Log, settings: Settings) -> None:
        from rectools.dataset import Dataset

        self.log, self.settings = log, settings
        users = np.arange(len(log.train_end))
        self.train = Dataset.construct(self._frame(users, users, log.train_end))
        self._dataset, self.known = Dataset, dict[int, Known]()

    def start(self, history: str, seed: int) -> Any:
        """A model that is not trained yet."""
        from pytorch_lightning import seed_everything
        from rectools.models import HSTUModel

        from persrec.plug.rectools import compressed

        chosen = {} if history == "full" else compressed(**self.settings.rule(history))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on workers
            seed_everything(seed, verbose=False)
            return HSTUModel(
                n_blocks=2,
                n_heads=2,
                n_factors=self.settings.width,
                session_max_len=self.settings.length,
                relative_time_attention=self.log.timed,
                loss="sampled_softmax",
                n_negatives=self.settings.negatives,
                lightning_module_kwargs={"logits_t": 0.05},
                epochs=self.settings.epochs,
                batch_size=self.settings.batch,
                lr=self.settings.learning_rate,
                recommend_torch_device="cpu",
                **chosen,
            )

    def attached(self, model: Any, seed: int) -> Any:
        """The full model with a compressor."""
        torch.manual_seed(seed)
        return plug.attach(model, **self.settings.rule("tuned"))

    def epoch(self, model: Any) -> None:
        """One epoch of RecTools' training."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit_partial(self.train, min_epochs=1, max_epochs=1)

    def module(self, model: Any) -> torch.nn.Module:
        """What holds the weights."""
        return model.torch_model

    def best(self, model: Any, asked: Asked) -> Ints:
        """(Q, 10) items by rank, 0 where there are fewer."""
        frame = self._recommended(model, self._known(asked), np.arange(len(asked.user)))
        found = np.zeros((len(asked.user), 10), dtype=np.int64)
        found[frame["user_id"].to_numpy(), frame["rank"].to_numpy() - 1] = frame["item_id"].to_numpy()
        return found

    def timed(self, model: Any) -> Acts:
        """Forward pass and `recommend`, from whole histories or from memories, of the first users."""
        users, known = np.arange(min(self.settings.timed_users, len(self.log.user))), self._known(self.log.test)
        acts: Acts = {
            "forward_seconds": self._forward(model, known, users),
            "recommend_seconds": lambda: self._recommended(model, known, users),
        }
        if not hasattr(model.torch_model, "plugged"):
            return acts
        from persrec.plug.rectools_model import _reading

        memories = plug.compress(model, known.events, users)
        with _reading(model, memories):
            forward = self._forward(model, known, users)

        def forward_from_memory() -> None:
            with _reading(model, memories):
                forward()

        acts["forward_seconds_from_memory"] = forward_from_memory
        acts["recommend_seconds_from_memory"] = lambda: self._recommended(model, known, users, memories)
        return acts

    def _known(self, asked: Asked) -> Known:
        """The data set and context of queries, which are its users."""
        if (known := self.known.get(id(asked))) is None:
            queries = np.arange(len(asked.user))
            when = self.log.times[self.log.offsets[asked.user] + asked.end]
            context = {"user_id": queries, "datetime": pd.to_datetime(when, unit="ms"), "weight": 1.0}
            events = self._dataset.construct(self._frame(queries, asked.user, asked.end))
            self.known[id(asked)] = known = Known(events, pd.DataFrame(context))
        return known

    def _recommended(self, model: Any, known: Known, users: Ints, memories: Any = None) -> pd.DataFrame:
        # who has only items that the model dropped from training gets nothing, and that is a miss
        options: dict[str, Any] = {"k": 10, "filter_viewed": not self.log.seen, "on_unsupported_targets": "ignore"}
        if self.log.timed:
            options["context"] = known.context.iloc[users].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # queries without any known item
            if memories is None:
                return model.recommend(users, known.events, **options)
            return plug.read(model, memories, users, known.events, **options)

    def _forward(self, model: Any, known: Known, users: Ints) -> Callable[[], object]:
        """The torch model over the batches that `recommend` makes."""
        preparator, backbone = model.data_preparator, model.torch_model.eval()
        context = known.context.iloc[users].copy() if self.log.timed else None
        sessions = preparator.transform_dataset_u2i(known.events, users, context)
        batches = list(preparator.get_dataloader_recommend(sessions, model.recommend_batch_size))
        with torch.no_grad():
            item_embs = backbone.item_model.get_all_embeddings()

        @torch.no_grad()
        def forward() -> None:
            for batch in batches:
                backbone.encode_sessions(batch, item_embs)

        return forward

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
