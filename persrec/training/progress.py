"""What a person sees while a model is trained: one bar over all epochs, and a line per epoch."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress(ProgressBar):
    """Epoch, steps, loss, events per second and time left on a terminal; a line per epoch everywhere."""

    def __init__(self, *, metric: str) -> None:
        super().__init__()
        self.metric = metric
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._started = time.monotonic()

    def disable(self) -> None:
        """Show nothing: another process shows it."""
        self.console = Console(quiet=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar; after a resume it starts where the checkpoint was."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[now]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        steps = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        total = (trainer.max_epochs or 1) * steps
        self._task = self._bar.add_task("", total=total, completed=trainer.global_step, now="")
        self._bar.start()
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on."""
        if self._bar is None or not self.console.is_terminal:
            return
        shown = trainer.progress_bar_metrics
        now = f"loss {shown.get('loss', float('nan')):.3f}  {float(shown.get('events/s', 0)):,.0f} events/s"
        self._bar.update(
            self._task,
            completed=trainer.global_step,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            now=now,
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One line: what the epoch came to."""
        shown = trainer.progress_bar_metrics
        value = float(trainer.callback_metrics.get(self.metric, float("nan")))
        self.console.print(
            f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}  loss {pl_module.epoch_loss:.4f}  "
            f"{self.metric.replace('_', ' ')} {value:.4f}  {float(shown.get('events/s', 0)):,.0f} events/s  "
            f"{time.monotonic() - self._started:,.0f} s",
            highlight=False,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
