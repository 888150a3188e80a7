"""Data whose answer is known by construction: chains are learned, chance stays chance, a memory carries old signal."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import persrec
from persrec.evaluation.evaluate import EvaluationSettings, evaluate
from persrec.models import compressor
from persrec.models import memory as memories
from persrec.models.interfaces import Memory
from persrec.serving.recommender import Recommender

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


KINDS, ASK = 4, 4  # items 0 to 3 are answers, 4 asks; then four items for each taste, then eight of noise
TASTE, NOISE = 5, 5 + 4 * KINDS
OLD, SEGMENT, RECENT = 12, 6, 6  # 6 to 11 clear events; questions come 14 events or more after the last hint


def old_signal(users: int) -> np.ndarray:
    """Twelve events of a user's taste, then noise; after each question the answer is the user's taste.

    Questions are 14 events apart, at one of two places, so that half of the users are asked by the test target and the
    other half by the validation target.
    """
    random = np.random.default_rng(0)
    histories = random.integers(NOISE, NOISE + 8, size=(users, 57))
    kind, late, user = random.integers(KINDS, size=users), random.integers(2, size=users), np.arange(users)
    histories[:, :OLD] = TASTE + 4 * kind[:, None] + random.integers(4, size=(users, OLD))
    for question in (26, 40, 54):
        histories[user, question + late] = ASK
        histories[user, question + late + 1] = kind
    return histories


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the three histories on the old signal."""
    folder = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fitted(
            folder / "runs",
            old_signal(300),
            "history=[full,recent,compressed]",
            "model.width=16",
            f"memory.segment={SEGMENT}",
            f"memory.recent={RECENT}",
            "memory.tokens=2",
            "memory.reads=all",
            "training.epochs=9",
            "training.batch_events=500",
            "training.learning_rate=0.01",
            "training.warmup_steps=20",
        )
    return folder / "runs"


def answered(folder: Path, history: str) -> float:
    """Share of the questions whose answer is ranked first."""
    recommender = Recommender.load(folder / f"{history}-seed0")
    keys = recommender.recipe.evaluation.model_dump() | {"split": "leave-one-out", "recent": 10}
    found = evaluate(recommender.model, recommender.prepared(), EvaluationSettings(time="none", length=None, **keys))
    answers = recommender.item_ids.to_numpy()[found.targets.item - 1] < KINDS
    assert 100 < answers.sum() < 200
    return float((found.rank[answers] == 1).mean())


def spoil_memory(monkeypatch: pytest.MonkeyPatch, change: Callable[[Memory], Memory]) -> None:
    """Let the reads of a finished model see other memories than those that were folded."""
    read = compressor.read

    def spoiled(*values: Any, **named: Any) -> Any:
        *before, memory = values
        return read(*before, change(memory), **named)

    monkeypatch.setattr(compressor, "read", spoiled)


def test_an_old_signal_reaches_full_and_compressed_but_not_recent(asked: Path) -> None:
    assert answered(asked, "full") > 0.8
    assert answered(asked, "compressed") > 0.8
    assert answered(asked, "recent") < 0.45  # chance is 0.25


def test_without_its_memory_a_model_is_at_chance(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_memory(monkeypatch, lambda memory: replace(memory, valid=torch.zeros_like(memory.valid)))
    assert answered(asked, "compressed") < 0.45


def test_with_the_memory_of_another_user_a_model_answers_for_that_one(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_memory(monkeypatch, lambda memory: memories.take(memory, torch.arange(len(memory.count)).roll(1)))
    assert answered(asked, "compressed") < 0.45


def test_the_memory_as_it_is_changes_nothing(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way in which the tests above spoil memories does no harm by itself."""
    spoil_memory(monkeypatch, lambda memory: memory)
    assert answered(asked, "compressed") > 0.8
