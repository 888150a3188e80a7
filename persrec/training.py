"""Training on Lightning: the step, validation, checkpoints, and a resume that repeats an unbroken run.

Shapes: B users, D width, V items. Whatever is random in step s is drawn after seeding by (seed, s), and the batches of
an epoch are a function of (seed, epoch); so a checkpoint needs the state of no generator.
"""

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from persrec import metrics
from persrec.baskets import Baskets
from persrec.batches import Batch, Budget, EpochLoader, Plan, Windows, collate, evaluation_windows
from persrec.constants import PAD
from persrec.consumption import Repeats
from persrec.logs import AppendingCSV
from persrec.models.model import Model
from persrec.objective import LossSettings, objective
from persrec.prepared import Prepared, Queries
from persrec.progress import TrainingProgress
from persrec.stages import LateStopping, first_full_epoch
from persrec.targets import targets_of

METRIC = "val_ndcg@10"
LAST = "last.ckpt"
READS, DRAWS = 0, 1  # purposes of a step's seeds


def seed_of(*parts: int) -> int:
    """A 63-bit seed from a few numbers that are not negative."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a model is fitted; the meaning of each field is the recipe's key of the same name."""

    seed: int
    reads: float  # share of batches in which every event is scored as it would be served: `all` = 1, `none` = 0
    time: str
    length: int | None
    random_first_segment: bool
    epochs: int
    batch_events: int | None
    batch_users: int | None
    learning_rate: float
    warmup_steps: int
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
    draw_after_ms: int | None = None  # a target after such a gap is any of the events up to the next one


def target_counts(data: Prepared) -> Tensor:
    """(V+1,) how often each item is a target of training: all events that are trained on but each user's first."""
    first = data.items[data.offsets[:-1][data.train_end > 0]]
    return torch.from_numpy(data.training_events_per_item - np.bincount(first, minlength=data.items_count + 1))


class Fitting(L.LightningModule):
    """A model while it is trained."""

    counts: Tensor | None

    def __init__(
        self,
        model: Model,
        loss: LossSettings,
        settings: TrainingSettings,
        *,
        total_steps: int,
        counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("counts", counts, persistent=False)  # (V+1,) of items as targets, for samplers
        self.model, self.loss, self.settings, self.total_steps = model, loss, settings, total_steps
        self.seconds = 0.0  # spent on training and validation, runs that were interrupted included
        self._clock = self._started = time.monotonic()
        self._tally: Tensor | None = None

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch."""
        step = self.global_step
        torch.manual_seed(seed_of(self.settings.seed, step, DRAWS))
        reads_all = seed_of(self.settings.seed, step, READS) / 2**63 < self.settings.reads
        full = self.current_epoch >= first_full_epoch(self.loss, self.settings.epochs)
        loss = self.loss._replace(sampled=False) if full else self.loss
        found = objective(self.model, batch, loss, reads_all=reads_all, counts=self.counts)
        self._count(found.by_clear_events)
        events = int(found.by_clear_events[1].sum())
        self.log("loss", found.rows, on_step=True, prog_bar=True, batch_size=max(events, 1))
        return found.loss

    def on_train_epoch_start(self) -> None:
        """Start the epoch's clock."""
        self._started = time.monotonic()

    def _count(self, tally: Tensor) -> None:
        """Add (2, W) sums by number of clear events to the epoch's; show the speed."""
        if self._tally is None:
            self._tally = tally.new_zeros(2, 0)
        width = max(tally.shape[1], self._tally.shape[1])
        before, added = (torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (self._tally, tally))
        self._tally = before + added
        speed = float(self._tally[1].sum()) / max(time.monotonic() - self._started, 1e-9)
        self.log("events/s", speed, prog_bar=True, logger=False)

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._clock = time.monotonic()

    def on_fit_end(self) -> None:
        """Stop the clock."""
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the time spent so far."""
        self._tick()
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the time that was spent before."""
        self.seconds = checkpoint["seconds"]

    def on_train_epoch_end(self) -> None:
        """Write the epoch's speed and its loss by number of clear events."""
        if self._tally is None:
            return
        seconds = time.monotonic() - self._started
        rows = self._tally[1]
        mean = self._tally[0].sum() / rows.sum()
        self.log_dict({"train_loss": mean, "epoch_seconds": seconds, "epoch_events": rows.sum()})
        if isinstance(self.logger, AppendingCSV):
            self.logger.clear_events(self.current_epoch, (self._tally[0] / rows).tolist(), rows.long().tolist())
        self._tally = None

    def validation_step(self, batch: tuple[Batch, Tensor, Tensor], index: int) -> None:
        """NDCG@10 of the validation queries by full ranking; ties count half."""
        histories, targets, excluded = batch
        ranks = rank(self.model, histories, targets, excluded).double().cpu().numpy()
        counts = torch.bincount(targets[0], minlength=len(histories.events)).cpu().numpy()
        value = float(np.mean(metrics.per_user(ranks, counts, (10,))["ndcg@10"]))
        self.log(METRIC, value, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(counts))

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay to zero; biases and tables of biases are not decayed."""
        matrices = [p for name, p in self.model.named_parameters() if p.dim() > 1 and "_bias" not in name]
        others = [p for name, p in self.model.named_parameters() if p.dim() <= 1 or "_bias" in name]
        groups = [
            {"params": matrices, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        """Share of the learning rate at a step."""
        warmup = min(self.settings.warmup_steps, self.total_steps // 2)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, self.total_steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def rank(model: Model, histories: Batch, targets: Tensor, excluded: Tensor) -> Tensor:
    """Rank (T,) of each target, (2, T) pairs of query and item, among all items but (2, n) excluded pairs.

    Ties count half, and a target is never excluded for itself.
    """
    query, item = targets
    reading = model.read_out(histories)
    scores = reading.query @ model.vectors().T  # (B, V+1)
    if reading.bonus is not None:
        scores.index_put_((reading.bonus.row, reading.bonus.item), reading.bonus.value, accumulate=True)
    wanted = scores[query, item]
    scores[excluded[0], excluded[1]] = float("-inf")
    scores[:, PAD] = float("-inf")
    among = scores[query].index_put((torch.arange(len(query), device=query.device), item), wanted.new_tensor(-math.inf))
    above = (~(among <= wanted[:, None])).sum(dim=1)  # scores that are not numbers count against the model
    equal = (among == wanted[:, None]).sum(dim=1)
    return 1.0 + above + 0.5 * equal


class Validation(torch.utils.data.Dataset):
    """Batches of validation queries, with their targets and the items that are not to be ranked."""

    def __init__(
        self,
        data: Prepared,
        queries: Queries,
        budget: Budget,
        *,
        length: int | None,
        time: str,
        exclude_seen: bool,
        repeats: Repeats | None = None,
    ) -> None:
        self.data, self.time, self.exclude_seen, self.repeats = data, time, exclude_seen, repeats
        self.windows = evaluation_windows(queries.user, queries.end, length=length)
        self.batches = budget.cut(self.windows)
        self.targets = targets_of(data, queries)
        self._first = np.searchsorted(self.targets.query, np.arange(len(queries.user) + 1))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Batch, Tensor, Tensor]:
        rows = self.batches[index]
        windows = self.windows.take(rows)
        batch = collate(self.data, windows, time=self.time, repeats=self.repeats, last=True)
        return batch, self._targets(rows), self._excluded(windows)

    def _targets(self, rows: np.ndarray) -> Tensor:
        """Pairs (2, T) of query in the batch and target."""
        items = [self.targets.item[self._first[row] : self._first[row + 1]] for row in rows]
        return _pairs(items)

    def _excluded(self, windows: Windows) -> Tensor:
        """Pairs (2, n) of query in the batch and item seen before it, over the whole history."""
        if not self.exclude_seen:
            return torch.zeros(2, 0, dtype=torch.int64)
        first = self.data.offsets[windows.user]
        return _pairs([self.data.items[begin : begin + end] for begin, end in zip(first, windows.end, strict=True)])


def _pairs(items: list[np.ndarray]) -> Tensor:
    """Pairs (2, n) of row and item."""
    rows = np.repeat(np.arange(len(items)), [len(some) for some in items])
    return torch.from_numpy(np.stack([rows, np.concatenate(items).astype(np.int64)]))


class Data(L.LightningDataModule):
    """Training and validation batches."""

    def __init__(self, plan: Plan, validation: Validation, *, workers: int) -> None:
        super().__init__()
        self.plan, self.validation, self.workers = plan, validation, workers

    def train_dataloader(self) -> DataLoader:
        """The present epoch's batches."""
        assert self.trainer is not None
        self.plan.at(self.trainer.current_epoch)
        return EpochLoader(self.plan, workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        """Users at their validation targets."""
        return DataLoader(self.validation, batch_size=None, num_workers=self.workers)


@dataclass(frozen=True)
class Fitted:
    """What training left behind: the model holds the best weights."""

    epochs: int
    best_epoch: int
    validation: float  # NDCG@10 of the best weights
    seconds: float


def fit(
    model: Model,
    data: Prepared,
    loss: LossSettings,
    settings: TrainingSettings,
    *,
    folder: Path,
    resume: bool = False,
    progress: bool = True,
) -> Fitted:
    """Train `model` in place, with `checkpoints/` and CSV logs in `folder`; `resume` goes on from the last checkpoint.

    Raises FileNotFoundError when there is nothing to resume from.
    """
    budget = Budget(model.rule.segment, model.rule.recent, settings.batch_events, settings.batch_users)
    repeats = Repeats(data) if model.repeat is not None else None
    plan = Plan(
        data,
        seed=settings.seed,
        length=settings.length,
        budget=budget,
        random_first_segment=settings.random_first_segment,
        time=settings.time,
        repeats=repeats,
        baskets=None if settings.draw_after_ms is None else Baskets(data, settings.draw_after_ms),
    )
    validation = Validation(
        data,
        _validation_queries(data, settings),
        budget,
        length=settings.length,
        time=settings.time,
        exclude_seen=settings.exclude_seen,
        repeats=repeats,
    )
    counts = None if loss.sampler == "uniform" else target_counts(data)
    fitting = Fitting(model, loss, settings, total_steps=len(plan) * settings.epochs, counts=counts)
    checkpoints = folder / "checkpoints"
    last = checkpoints / LAST
    if resume and not last.exists():
        raise FileNotFoundError(last)
    best = ModelCheckpoint(checkpoints, "best", monitor=METRIC, mode="max", enable_version_counter=False)
    first = first_full_epoch(loss, settings.epochs) if loss.full_from else 0
    callbacks = _callbacks(settings, best, checkpoints, first=first, progress=progress)
    with _quiet_lightning():
        trainer = _trainer(settings, callbacks, folder, batches=len(plan), progress=progress)
        trainer.fit(
            fitting,
            datamodule=Data(plan, validation, workers=settings.workers),
            ckpt_path=last if resume else None,
            weights_only=True,
        )
    if trainer.interrupted:
        raise KeyboardInterrupt
    assert best.best_model_score is not None
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    fitting.load_state_dict(state["state_dict"])
    return Fitted(
        epochs=trainer.current_epoch,
        best_epoch=int(state["epoch"]),
        validation=float(best.best_model_score),
        seconds=fitting.seconds,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
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
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(talkers, levels, strict=True):
            logger.setLevel(level)


def _validation_queries(data: Prepared, settings: TrainingSettings) -> Queries:
    """The validation queries of all users, or of a fixed random part of them."""
    users = np.unique(data.validation.user)
    if settings.validation_users is None or settings.validation_users >= len(users):
        return data.validation
    chosen = np.random.default_rng(settings.seed).choice(users, settings.validation_users, replace=False)
    return data.validation.take(np.isin(data.validation.user, chosen))


def _callbacks(
    settings: TrainingSettings, best: Callback, checkpoints: Path, *, first: int, progress: bool
) -> list[Callback]:
    """`first` is the epoch before which nobody loses patience."""
    every = timedelta(minutes=settings.checkpoint_minutes)
    callbacks = [
        best,
        ModelCheckpoint(
            checkpoints, "last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False
        ),
        ModelCheckpoint(checkpoints, "last", train_time_interval=every, enable_version_counter=False),
    ]
    if settings.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=settings.ema, use_buffers=False))
    if settings.patience is not None:
        callbacks.append(LateStopping(METRIC, first=first, patience=settings.patience))
    if progress:
        callbacks.append(TrainingProgress(metric=METRIC))
    return callbacks


def _trainer(
    settings: TrainingSettings, callbacks: list[Callback], folder: Path, *, batches: int, progress: bool
) -> L.Trainer:
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_epochs=settings.epochs,
        gradient_clip_val=settings.clip,
        callbacks=callbacks,
        logger=AppendingCSV(folder),
        check_val_every_n_epoch=settings.validate_every,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, batches),
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
