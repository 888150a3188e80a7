"""Data whose answer is known by construction: chains are learned, chance stays chance, and a memory carries old signal."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import persrec
from persrec.evaluation import EvaluationSettings, evaluate
from persrec.models.interfaces import Memory
from persrec.serving.recommender import Recommender

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec.*", "ignore:.*smaller than the logging interval.*"
)

SETTINGS = ["training.threads=1", "training.ema=null", "training.patience=null", "loss.kind=full", "model.dropout=0"]
ITEMS = 40


def log_of(histories: np.ndarray) -> pl.DataFrame:
    """A row of items per user as a frame of events."""
    users, events = histories.shape
    user, time = np.repeat(np.arange(users), events), np.tile(np.arange(events), users)
    return pl.DataFrame({"user_id": user, "item_id": histories.ravel(), "timestamp": 1_700_000_000 + 60 * time})


def fitted(folder: Path, histories: np.ndarray, *settings: str) -> dict[str, dict[str, float]]:
    """Metrics by history of a fit on these histories; repeated items are ranked like any others."""
    changes = [*SETTINGS, "evaluation.exclude_seen=false", "evaluation.k=[1,10]", *settings]
    found = persrec.fit(log_of(histories), changes, out=folder, progress=False)
    return {row["history"]: {name: value["mean"] for name, value in row["metrics"].items()} for row in found.rows}


def test_a_deterministic_chain_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each item the same one always follows."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    follows = random.permutation(ITEMS)
    histories = np.empty((80, 30), dtype=np.int64)
    histories[:, 0] = random.integers(ITEMS, size=80)
    for event in range(1, 30):
        histories[:, event] = follows[histories[:, event - 1]]
    found = fitted(
        tmp_path / "run",
        histories,
        "history=[full,recent,compressed]",
        "model.width=16",
        "memory.segment=6",
        "memory.recent=4",
        "training.epochs=15",
        "training.batch_events=600",
        "training.learning_rate=0.02",
        "training.warmup_steps=5",
    )
    for history, metrics in found.items():
        assert metrics["ndcg@10"] > 0.95, history


def test_random_data_stay_at_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    histories = np.random.default_rng(0).integers(ITEMS, size=(400, 12))
    found = fitted(
        tmp_path / "run",
        histories,
        "model.width=8",
        "memory.segment=3",
        "memory.recent=2",
        "training.epochs=5",
        "training.batch_events=1000",
    )
    share, error = 10 / ITEMS, np.sqrt(10 / ITEMS * (1 - 10 / ITEMS) / 400)
    assert found["compressed"]["recall@10"] == pytest.approx(share, abs=4 * error)
    assert found["compressed"]["recall@1"] == pytest.approx(1 / ITEMS, abs=4 * np.sqrt(1 / ITEMS / 400))


# ---- an old signal ---------------------------------------------------------------------------------------------------

SIGNALS, ASK, NOISE = 8, 8, 12  # items 0 to 7 are signals, 8 asks for it, 9 to 20 are noise
SEGMENT, RECENT, EVENTS = 6, 6, 30


def old_signal() -> np.ndarray:
    """The first event is a signal; what follows is noise; whenever 8 comes up, the next event is the signal again.

    A question is answered 14 events or more after the signal and 12 after the last answer, which is outside the 6 to 11
    clear events: only a memory of older segments knows it.
    """
    random = np.random.default_rng(0)
    histories = random.integers(ASK + 1, ASK + 1 + NOISE, size=(600, EVENTS))
    signal = random.integers(SIGNALS, size=600)
    histories[:, 0] = signal
    for answer in (EVENTS - 1, EVENTS - 2 - 12, EVENTS - 3 - 12):
        histories[:, answer] = signal
    return histories
