"""A fit does not look at what the test asks for."""

import csv
from pathlib import Path

import polars as pl
import pytest

from persrec import api
from persrec.run import load
from tests.small import events, recipe_of

CHANGES = {
    "history": "compressed",
    "time": "next",
    "memory": {"segment": 6, "recent": 5, "tokens": 2, "kind": "layered", "reads": 0.3},
    "loss": {"negatives": 8, "sampler": "mixed", "logit_adjustment": 0.5},
    "training": {"epochs": 3, "batch_users": 8, "warmup_steps": 0, "ema": 0.9, "patience": 1, "threads": 1},
}


def training_log(run: Path) -> list[dict[str, str]]:
    """What was written of the epochs, apart from how long they took."""
    with (run / "training.csv").open() as file:
        return [{**row, "epoch_seconds": ""} for row in csv.DictReader(file)]


def test_weights_and_log_stay_when_only_the_test_events_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two logs that differ in each user's last event alone, in its item and its time."""
    monkeypatch.chdir(tmp_path)
    last = pl.int_range(1, pl.len() + 1).over("user_id") == pl.len().over("user_id")
    asked = last & (pl.len().over("user_id") > 2)
    log = events(users=20)
    changed = log.with_columns(
        pl.when(asked).then(pl.col("item_id").first().over("user_id")).otherwise("item_id").alias("item_id"),
        pl.col("timestamp") + 3_600_000 * asked.cast(pl.Int64),
    )
    for name, frame in (("one", log), ("other", changed)):
        api.fit(recipe_of(Path("log.csv"), **CHANGES), frame=frame, out=name, progress=False)
    one, other = load("one"), load("other")
    assert one.item_ids().equals(other.item_ids())
    assert not one.targets().equals(other.targets()), "the test itself has changed"
    for file in ("weights.safetensors", "clear_events.csv"):
        assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()
    assert training_log(one.folder) == training_log(other.folder)
    assert one.metrics["validation_ndcg@10"] == other.metrics["validation_ndcg@10"] > 0
