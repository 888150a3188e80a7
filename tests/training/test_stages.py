"""Losses that training needs more for: counts of targets for samplers, and a second stage with the full softmax."""

import csv
from pathlib import Path

import polars as pl
import pytest
from lightning.pytorch.callbacks import EarlyStopping

from persrec.models.build import build
from persrec.prepared import Prepared
from persrec.recipe.recipe import Recipe
from persrec.training.module import Fitted, TrainingSettings, fit, target_counts
from persrec.training.objective import LossSettings
from persrec.training.stages import LateStopping, first_full_epoch
from tests.small import events, prepared_of

SETTINGS = TrainingSettings(
    seed=1,
    reads=(1.0, 1.0),
    time="last",
    length=None,
    random_first_segment=False,
    epochs=4,
    batch_events=None,
    batch_users=100,
    learning_rate=1e-12,  # so that an epoch's loss says what loss it was
    warmup_steps=0,
    weight_decay=0.0,
    clip=None,
    ema=None,
    patience=None,
    validate_every=1,
    validation_users=None,
    checkpoint_minutes=5.0,
    workers=0,
    accelerator="cpu",
    exclude_seen=False,
)
SAMPLED = LossSettings(negatives=64)
FULL = LossSettings(kind="full")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Prepared]:
    model = {"layers": 2, "width": 8, "heads": 2, "dropout": 0.0}
    return prepared_of(tmp_path_factory.mktemp("log"), events(), model=model)


def trained(world: tuple[Recipe, Prepared], folder: Path, loss: LossSettings, **changes: object) -> Fitted:
    recipe, data = world
    settings = TrainingSettings(**{**vars(SETTINGS), **changes})
    folder.mkdir(exist_ok=True)
    return fit(build(recipe, items=data.items_count), data, loss, settings, folder=folder, progress=False)


def losses(folder: Path) -> list[float]:
    """Of each epoch."""
    rows = csv.DictReader((folder / "training.csv").read_text().splitlines())
    return [float(row["train_loss"]) for row in rows if row["train_loss"]]


def test_the_full_softmax_takes_over_at_its_share_of_the_epochs(world: tuple[Recipe, Prepared], tmp_path: Path) -> None:
    both = SAMPLED._replace(full_from=0.5)
    for name, loss in (("sampled", SAMPLED), ("full", FULL), ("both", both)):
        trained(world, tmp_path / name, loss)
    sampled, full, found = (losses(tmp_path / name) for name in ("sampled", "full", "both"))
    assert found == pytest.approx(sampled[:2] + full[2:], rel=1e-5)
    assert min(abs(one - other) for one, other in zip(sampled, full, strict=True)) > 0.1


def test_weights_that_are_all_alike_change_no_loss_that_is_written(
    world: tuple[Recipe, Prepared], tmp_path: Path
) -> None:
    """Every row is one after a break of 0 ms, and counts ten times."""
    trained(world, tmp_path / "plain", FULL, time="next", epochs=1)
    trained(world, tmp_path / "tenfold", FULL._replace(break_ms=0, break_weight=10.0), time="next", epochs=1)
    assert losses(tmp_path / "tenfold") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    plain, tenfold = ((tmp_path / name / "clear_events.csv").read_text().split() for name in ("plain", "tenfold"))
    for one, other in zip(plain[1:], tenfold[1:], strict=True):
        assert [float(part) for part in one.split(",")] == pytest.approx(
            [float(part) for part in other.split(",")], rel=1e-4
        )


def test_the_last_epoch_is_validated_too(world: tuple[Recipe, Prepared], tmp_path: Path) -> None:
    """Every third of four epochs: the third and the last one."""
    found = trained(world, tmp_path / "run", FULL, validate_every=3, learning_rate=0.01)
    rows = csv.DictReader((tmp_path / "run" / "training.csv").read_text().splitlines())
    assert [row["epoch"] for row in rows if row["val_ndcg@10"]] == ["2", "3"]
    assert found.epochs == 4
    assert found.best_epoch == 3, "it learns, so the last weights are the best"


def test_nobody_loses_patience_before_the_second_stage(world: tuple[Recipe, Prepared], tmp_path: Path) -> None:
    """Nothing is learned, so that patience 1 ends training in the second epoch in which it is looked at."""
    patient = SAMPLED._replace(full_from=0.5)
    assert trained(world, tmp_path / "one", SAMPLED, patience=1, epochs=8).epochs == 2
    assert trained(world, tmp_path / "two", patient, patience=1, epochs=8).epochs == 6


def test_checkpoints_name_the_callback_as_lightning_does() -> None:
    late = LateStopping("val_ndcg@10", first=0, patience=1)
    assert late.state_key == EarlyStopping("val_ndcg@10", mode="max").state_key


@pytest.mark.parametrize(
    ("share", "epochs", "first"), [(None, 10, 10), (0.8, 10, 8), (0.8, 50, 40), (0.9, 3, 2), (0.5, 1, 0)]
)
def test_the_last_epoch_at_least_is_full(share: float | None, epochs: int, first: int) -> None:
    assert first_full_epoch(LossSettings(full_from=share), epochs) == first
    assert first_full_epoch(FULL, epochs) == 0


def test_targets_are_the_events_that_follow_another_one_in_training(tmp_path: Path) -> None:
    items = {"a": "pqpqr", "b": "qqp", "c": "r"}  # leave-one-out: the last two events of a and b are asked for
    rows = [(user, item, 60 * time) for user, history in items.items() for time, item in enumerate(history)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    _, data = prepared_of(tmp_path, frame)
    names = data.item_ids().to_pylist()
    counts = target_counts(data)
    assert counts[0] == 0
    assert dict(zip(names, counts[1:].tolist(), strict=True)) == {"p": 1, "q": 1, "r": 0}


@pytest.mark.parametrize(
    "loss",
    [
        LossSettings(sampler="mixed", corrected=True, negatives=16),
        LossSettings(sampler="popularity", corrected=True, negatives=16),
        LossSettings(sampler="in-batch", negatives=16, per_row=True),
        LossSettings(kind="gbce", calibration=0.75, negatives=16),
        LossSettings(sampler="popularity", kind="bpr", negatives=16),
    ],
    ids=["mixed", "popularity", "in-batch, per row", "gbce", "bpr"],
)
def test_every_loss_learns_a_chain(tmp_path: Path, loss: LossSettings) -> None:
    """Item n is followed by item n + 1, of 20."""
    rows = [(user, f"{(user + time) % 20}", 60 * time) for user in range(60) for time in range(24)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    model = {"layers": 2, "width": 16, "heads": 2, "dropout": 0.0}
    world = prepared_of(tmp_path, frame, model=model)
    found = trained(world, tmp_path / "run", loss, learning_rate=0.02, batch_users=10, epochs=10)
    assert found.validation > 0.9  # chance is about 0.2
