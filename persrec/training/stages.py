"""Two stages of training: a sampled loss for a share of the epochs, then the full softmax."""

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from persrec.training.objective import LossSettings


def first_full_epoch(loss: LossSettings, epochs: int) -> int:
    """From which epoch on the loss is a full softmax; `epochs` where it never comes to that."""
    if not loss.sampled:
        return 0
    return epochs if loss.full_from is None else int(loss.full_from * epochs)


class LateStopping(EarlyStopping):
    """Early stopping, at the largest value of `monitor`, that does not look before epoch `first`."""

    def __init__(self, monitor: str, *, first: int, patience: int) -> None:
        super().__init__(monitor, mode="max", patience=patience)
        self.first = first

    @property
    def state_key(self) -> str:
        """The same in checkpoints as that of Lightning's own."""
        return f"EarlyStopping{{'monitor': {self.monitor!r}, 'mode': {self.mode!r}}}"

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look, if it is time to."""
        if trainer.current_epoch >= self.first:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look, if it is time to."""
        if trainer.current_epoch >= self.first:
            super().on_validation_end(trainer, pl_module)
