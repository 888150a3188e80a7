"""Two stages of training: a sampled loss for a share of the epochs, then the full softmax; and when they end."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping

from persrec.training.objective import LossSettings


def first_full_epoch(loss: LossSettings, epochs: int) -> int:
    """From which epoch on the loss is a full softmax; `epochs` where it never comes to that."""
    if not loss.sampled:
        return 0
    return epochs if loss.full_from is None else int(loss.full_from * epochs)


class LastValidation(Callback):
    """Validation after the last epoch, also where `validate_every` does not divide the epochs: else its weights, which
    are often the best, could not be chosen."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Validate after this epoch, if it is the last one; a resumed fit may begin in the midst of it."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class LateStopping(EarlyStopping):
    """Early stopping, at the largest value of `monitor`, that does not look before epoch `first`."""

    def __init__(self, monitor: str, *, first: int, patience: int) -> None:
        super().__init__(monitor, mode="max", patience=patience)
        self.first = first

    @property
    def state_key(self) -> str:
        """The same in checkpoints as that of Lightning's own."""
        return f"EarlyStopping{{'monitor': {self.monitor!r}, 'mode': {self.mode!r}}}"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A fit that had stopped before it was interrupted stays so: Lightning forgets it."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look, if it is time to."""
        if trainer.current_epoch >= self.first:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look, if it is time to."""
        if trainer.current_epoch >= self.first:
            super().on_validation_end(trainer, pl_module)
