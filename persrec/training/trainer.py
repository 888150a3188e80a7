"""Lightning's trainer as a recipe asks for it: devices, precision, checkpoints, patience, logs, progress."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from persrec.errors import UserError
from persrec.training.loggers import Kind, loggers
from persrec.training.progress import TrainingProgress
from persrec.training.stages import LastValidation, LateStopping
from persrec.training.validation import METRIC

BEST, LAST = "best.ckpt", "last.ckpt"
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a model is fitted; the meaning of each field is the recipe's key of the same name."""

    seed: int
    reads: tuple[float, float]  # share of batches whose events are scored as they would be served, first and last
    time: str
    length: int | None
    random_first_segment: bool
    epochs: int
    batch_events: int | None
    batch_users: int | None
    learning_rate: float
    warmup_steps: int
    text_learning_rate: float | None = None  # of a text model that is trained with the rest
    weight_decay: float
    clip: float | None
    ema: float | None
    patience: int | None
    validate_every: int
    validation_users: int | None
    checkpoint_minutes: float
    workers: int
    accelerator: str
    exclude_seen: bool
    seen_odds: float | None = None
    draw_after_ms: int | None = None  # a target after such a gap is any of the events up to the next one
    accumulate: int = 1
    precision: Precision = "32-true"
    devices: int = 1
    nodes: int = 1
    logger: Kind = "csv"
    weight_by: str | dict[str, float] | None = None  # what a target counts, or by type
    types: tuple[str, ...] = ()  # of events, in the order of their numbers
    minutes: float | None = None  # after which training ends wherever it is

    @property
    def ranks(self) -> int:
        """How many processes train together, one per device."""
        return self.devices * self.nodes

    @property
    def batches_per_step(self) -> int:
        """Batches whose mean loss a step minimises."""
        return self.accumulate * self.ranks


class TimedCheckpoint(ModelCheckpoint):
    """A checkpoint from time to time, between steps: gradients that are being added up are in none."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if it is time to."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def check_accelerator(settings: TrainingSettings) -> None:
    """Raise UserError where there is no GPU that is asked for."""
    if settings.accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError(
            "training.accelerator: got gpu, but torch finds none here; set cpu, or auto, which takes a GPU where there "
            "is one, or install a torch that is built for yours"
        )


def trainer_of(settings: TrainingSettings, folder: Path, *, batches: int, first: int, progress: bool) -> L.Trainer:
    """The trainer of a run folder; `batches` of an epoch are a device's, before epoch `first` nobody loses patience."""
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=_strategy(settings),
        use_distributed_sampler=False,
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulate,
        max_epochs=settings.epochs,
        max_time=None if settings.minutes is None else timedelta(minutes=settings.minutes),
        gradient_clip_val=settings.clip,
        callbacks=_callbacks(settings, folder / "checkpoints", first=first, progress=progress),
        logger=loggers(settings.logger, folder),
        check_val_every_n_epoch=settings.validate_every,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, min(50, batches // settings.accumulate)),
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def _strategy(settings: TrainingSettings) -> Any:
    """A batch without closed segments asks nothing of some parameters; buffers are alike from the start."""
    if settings.ranks == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def _callbacks(settings: TrainingSettings, checkpoints: Path, *, first: int, progress: bool) -> list[Callback]:
    every = timedelta(minutes=settings.checkpoint_minutes)
    best, last = Path(BEST).stem, Path(LAST).stem
    callbacks: list[Callback] = [
        LastValidation(),
        ModelCheckpoint(checkpoints, best, monitor=METRIC, mode="max", enable_version_counter=False),
        ModelCheckpoint(
            checkpoints, last, every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False
        ),
        TimedCheckpoint(checkpoints, last, train_time_interval=every, enable_version_counter=False),
    ]
    if settings.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=settings.ema, use_buffers=False))
    if settings.patience is not None:
        callbacks.append(LateStopping(METRIC, first=first, patience=settings.patience))
    if progress:
        callbacks.append(TrainingProgress(metric=METRIC))
    return callbacks


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep back what Lightning says that a person can do nothing about here."""
    talkers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in talkers]
    for logger in talkers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*Checkpoint directory .* exists and is not empty.*",
                ".*isinstance.treespec, LeafSpec.*",
                ".*find_unused_parameters=True was specified.*",
                ".*broadcast_buffers.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(talkers, levels, strict=True):
            logger.setLevel(level)
