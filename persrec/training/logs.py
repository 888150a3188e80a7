"""Training logs as CSV files that a resumed run goes on writing."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

COLUMNS = ("epoch", "step", "loss", "train_loss", "val_ndcg@10", "epoch_seconds", "epoch_events")
CLEAR_COLUMNS = ("epoch", "clear_events", "rows", "loss")


class AppendingCSV(Logger):
    """`training.csv`, a row per thing logged, and `clear_events.csv`, the loss by number of clear events per epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.name

    @property
    def version(self) -> str:
        """There is one version of a run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the recipe."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append the known columns of what Lightning logged."""
        row = [step if column == "step" else metrics.get(column, "") for column in COLUMNS]
        if any(value != "" for value in row[2:]):
            self._append("training.csv", COLUMNS, [row])

    @rank_zero_only
    def clear_events(self, epoch: int, losses: list[float], rows: list[int]) -> None:
        """Append an epoch's loss for 1, 2, ... clear events; numbers of clear events that no row had are left out."""
        table = [
            [epoch, clear, count, f"{loss:.6g}"]
            for clear, (loss, count) in enumerate(zip(losses, rows, strict=True), start=1)
            if count
        ]
        self._append("clear_events.csv", CLEAR_COLUMNS, table)

    def _append(self, name: str, columns: tuple[str, ...], rows: list[list[Any]]) -> None:
        path = self.folder / name
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(columns)
            writer.writerows(rows)
