"""Training on Lightning: the step, validation, checkpoints, and a resume that repeats an unbroken run.

Shapes: B users, D width, V items. Batches are numbered through all epochs; whatever is random in batch n is drawn after
seeding by (seed, n), and the batches of an epoch are a function of (seed, epoch, log); so a checkpoint needs the state
of no generator. A step minimises the mean loss of `accumulate` x devices batches, and of several devices each takes
every so many-th batch: two devices do what one does that accumulates two batches.
"""

import math
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from persrec import metrics
from persrec.batches import Batch, Budget, EpochLoader, Plan
from persrec.errors import UserError, memory_for
from persrec.event_inputs import target_weights
from persrec.models.model import Model
from persrec.prepared import Prepared
from persrec.training import launching, ranks
from persrec.training.limits import to_lower
from persrec.training.loggers import check_installed
from persrec.training.logs import AppendingCSV
from persrec.training.objective import LossSettings, Objective, objective
from persrec.training.stages import first_full_epoch
from persrec.training.trainer import BEST, LAST, TrainingSettings, quiet_lightning, trainer_of
from persrec.training.validation import METRIC, Validation, rank, validation_queries

READS, DRAWS = 0, 1  # purposes of a step's seeds
TEXT_MODEL = "items.encoder.model."  # its parameters in a model
RATE_OF_ITS_OWN = "rate_of_its_own"  # key of a group of parameters: whether it is those of a text model
RISEN = 0.8  # of the batches of all epochs, from which on the share of those as served is its last


def seed_of(*parts: int) -> int:
    """A 63-bit seed from a few numbers that are not negative."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


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
        self.register_buffer("counts", counts, persistent=False)  # (V+1,) of items as targets
        self.model, self.loss, self.settings, self.total_steps = model, loss, settings, total_steps
        self.seconds = 0.0  # spent on training and validation, runs that were interrupted included
        self._clock = self._started = time.monotonic()
        self._tally: Tensor | None = None
        self._validated: list[tuple[float, int]] = []  # mean of a batch's queries, and how many they are

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch."""
        settings = self.settings
        number = self.global_step * settings.batches_per_step
        number += index % settings.accumulate * settings.ranks + self.global_rank
        found = self.loss_of(
            batch, number=number, full=self.current_epoch >= first_full_epoch(self.loss, settings.epochs)
        )
        self._count(found.by_clear_events)
        events = int(found.by_clear_events[1].sum())
        self.log("loss", found.rows, on_step=True, prog_bar=True, batch_size=max(events, 1))
        return found.loss

    def loss_of(self, batch: Batch, *, number: int, full: bool = False) -> Objective:
        """What is minimised in the batch of a number, by the full softmax where it has come to that."""
        torch.manual_seed(seed_of(self.settings.seed, number, DRAWS))
        reads_all = seed_of(self.settings.seed, number, READS) / 2**63 < self.reads_at(number)
        loss = self.loss._replace(kind="full") if full else self.loss
        return objective(self.model, batch, loss, reads_all=reads_all, counts=self.counts)

    def reads_at(self, number: int) -> float:
        """How probable it is that the events of the batch of a number are scored as they would be served."""
        first, last = self.settings.reads
        risen = min(1.0, number / (RISEN * self.total_steps * self.settings.batches_per_step))
        return first + (last - first) * risen

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep a learned temperature where it can still be learned."""
        self.model.bound_temperature()

    def on_train_epoch_start(self) -> None:
        """Start the epoch's clock and its sums."""
        self._started, self._tally = time.monotonic(), None

    def _count(self, tally: Tensor) -> None:
        """Add (3, W) sums by number of clear events to the epoch's; show the speed."""
        if self._tally is None:
            self._tally = tally.new_zeros(3, 0)
        width = max(tally.shape[1], self._tally.shape[1])
        before, added = (torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (self._tally, tally))
        self._tally = before.to(added) + added
        speed = self.settings.ranks * float(self._tally[1].sum()) / max(time.monotonic() - self._started, 1e-9)
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
        """Note the time spent so far, and what the epoch has come to."""
        self._tick()
        checkpoint["seconds"] = self.seconds
        checkpoint["epoch_seconds"] = time.monotonic() - self._started
        checkpoint["tally"] = None if self._tally is None else self._of_all_ranks(self._tally)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the time that was spent before and from the epoch's sums, which are those of all devices."""
        self.seconds = checkpoint["seconds"]
        self._started = time.monotonic() - checkpoint["epoch_seconds"]
        self._tally = None if self.global_rank else checkpoint["tally"]

    @property
    def epoch_loss(self) -> float:
        """The mean loss of the epoch so far, of this device's batches."""
        return math.nan if self._tally is None else float(self._tally[0].sum() / self._tally[2].sum())

    def on_train_epoch_end(self) -> None:
        """Write the epoch's speed and its loss by number of clear events."""
        if self._tally is None:
            return
        seconds = time.monotonic() - self._started
        losses, rows, weights = self._of_all_ranks(self._tally)
        mean = losses.sum() / weights.sum()
        found = {"train_loss": mean, "epoch_seconds": seconds, "epoch_events": rows.sum()}
        self.log_dict(found, sync_dist=self.settings.ranks > 1)
        if isinstance(self.logger, AppendingCSV):
            counted = rows.where(weights > 0, 0)
            self.logger.clear_events(self.current_epoch, (losses / weights).tolist(), counted.long().tolist())
        self._tally = None

    def _of_all_ranks(self, tally: Tensor) -> Tensor:
        """The sum (3, W) of all devices' (3, W)."""
        if self.settings.ranks == 1:
            return tally
        widest = self.trainer.strategy.reduce(torch.tensor(tally.shape[1], device=self.device), reduce_op="max")
        padded = torch.nn.functional.pad(tally, (0, int(widest) - tally.shape[1]))
        return self.trainer.strategy.reduce(padded, reduce_op="sum")

    def on_validation_epoch_start(self) -> None:
        """Note that weights have changed (by now they are those that are validated, averages included)."""
        self.model.items.refresh()

    def validation_step(self, batch: tuple[Batch, Tensor, Tensor], index: int) -> None:
        """NDCG@10 of the validation queries by full ranking, in float32 as in serving; ties count half."""
        histories, targets, seen = batch
        with torch.autocast(self.device.type, enabled=False):
            found = rank(self.model, histories, targets, seen, odds=self.settings.seen_odds)
        ranks = found.double().cpu().numpy()
        counts = torch.bincount(targets[0], minlength=len(histories.events)).cpu().numpy()
        value = float(np.mean(metrics.per_user(ranks, counts, (10,))["ndcg@10"]))
        self._validated.append((value, len(counts)))

    def on_validation_epoch_end(self) -> None:
        """The mean over the queries of all devices."""
        total, queries = sum(value * count for value, count in self._validated), sum(n for _, n in self._validated)
        both = torch.tensor([total, queries], dtype=torch.float32, device=self.device)
        if self.settings.ranks > 1:
            both = self.trainer.strategy.reduce(both, reduce_op="sum")
        self._validated = []
        self.log(METRIC, both[0] / both[1], prog_bar=True, sync_dist=self.settings.ranks > 1)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay to zero; biases and tables of biases are not decayed.

        A text model that is trained with the rest has a rate of its own; its item token, which is new, has not.
        """
        settings = self.settings
        text_rate = settings.text_learning_rate or settings.learning_rate
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            decay = settings.weight_decay if parameter.dim() > 1 and "_bias" not in name else 0.0
            groups.setdefault((name.startswith(TEXT_MODEL), decay), []).append(parameter)
        parts = [
            {
                "params": part,
                "lr": text_rate if own else settings.learning_rate,
                "weight_decay": decay,
                RATE_OF_ITS_OWN: own,
            }
            for (own, decay), part in groups.items()
        ]
        optimizer = torch.optim.AdamW(parts, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        """Share of the learning rate at a step."""
        warmup = min(self.settings.warmup_steps, self.total_steps // 2)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, self.total_steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Data(L.LightningDataModule):
    """Training and validation batches."""

    def __init__(self, plan: Plan, validation: Validation, *, workers: int) -> None:
        super().__init__()
        self.plan, self.validation, self.workers = plan, validation, workers

    def train_dataloader(self) -> DataLoader:
        """The present epoch's batches."""
        assert self.trainer is not None
        self.plan.at(self.trainer.current_epoch)
        self.plan.share(self.trainer.global_rank, self.trainer.world_size)
        return EpochLoader(self.plan, workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        """Users at their validation targets."""
        assert self.trainer is not None
        own = self.validation.of_rank(self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(self.validation, sampler=own, batch_size=None, num_workers=self.workers)


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
    """Train `model` in place, with `checkpoints/` and logs in `folder`; `resume` goes on from the last checkpoint.

    Several devices of this machine are given a process each, unless a launcher has started these. Raises
    FileNotFoundError when there is nothing to resume from, UserError where processes or a logger's package are missing.
    """
    checkpoints = folder / "checkpoints"
    if resume and not (checkpoints / LAST).exists():
        raise FileNotFoundError(checkpoints / LAST)
    ranks.check(settings.devices, settings.nodes)
    check_installed(settings.logger)
    arguments = model, data, loss, settings, folder, resume, progress
    if settings.ranks > 1 and not ranks.launched():
        launching.launch(_train, arguments, processes=settings.devices)
    else:
        _train(*arguments)
    if not (checkpoints / BEST).exists():
        raise UserError(f"{folder}: training ended before its first validation; allow more time")
    best, last = (torch.load(checkpoints / name, map_location="cpu", weights_only=True) for name in (BEST, LAST))
    own = {name: value for name, value in best["state_dict"].items() if name.startswith("model.")}
    model.load_state_dict({name.removeprefix("model."): value for name, value in own.items()})
    model.items.refresh()
    (score,) = (state["best_model_score"] for state in best["callbacks"].values() if state.get("monitor") == METRIC)
    return Fitted(last["epoch"] + 1, best["epoch"], float(score), last["seconds"])


def plan_of(model: Model, data: Prepared, settings: TrainingSettings) -> Plan:
    """The batches that a model is trained on."""
    by = settings.weight_by
    return Plan(
        data,
        seed=settings.seed,
        length=settings.length,
        budget=Budget(model.rule.segment, model.rule.recent, settings.batch_events, settings.batch_users),
        random_first_segment=settings.random_first_segment,
        time=settings.time,
        repeats=model.repeat is not None,
        draw_after_ms=settings.draw_after_ms,
        weights=None if by is None else partial(target_weights, data, by, settings.types),
    )


def _train(
    model: Model,
    data: Prepared,
    loss: LossSettings,
    settings: TrainingSettings,
    folder: Path,
    resume: bool,
    progress: bool,
) -> None:
    """Train in this process, alone or as one of several; what is left is in the checkpoints."""
    with memory_for("training", lower=to_lower(model, loss, settings)):
        plan = plan_of(model, data, settings)
        validation = Validation(
            data,
            validation_queries(data, users=settings.validation_users, seed=settings.seed),
            plan.budget,
            length=settings.length,
            time=settings.time,
            exclude_seen=settings.exclude_seen,
            seen_odds=settings.seen_odds,
            repeats=plan.repeats,
        )
        counts = target_counts(data) if loss.needs_counts else None
        steps = -(-len(plan) // settings.batches_per_step)
        fitting = Fitting(model, loss, settings, total_steps=steps * settings.epochs, counts=counts)
        first = first_full_epoch(loss, settings.epochs) if loss.full_from else 0
        plan.share(0, settings.ranks)
        with quiet_lightning():
            trainer = trainer_of(settings, folder, batches=len(plan), first=first, progress=progress)
            try:
                trainer.fit(
                    fitting,
                    datamodule=Data(plan, validation, workers=settings.workers),
                    ckpt_path=folder / "checkpoints" / LAST if resume else None,
                    weights_only=True,
                )
            except SIGTERMException as error:  # an exit without a code, which is that of success
                raise SystemExit(128 + signal.SIGTERM) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
