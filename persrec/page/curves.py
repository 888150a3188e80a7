"""What the logs of training say of runs, as curves."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from persrec.page.figures import Curve, Floats
from persrec.run import Run


def of_run(side: str, run: Run) -> Curve:
    """What training.csv says of a run."""
    rows = _csv(run.folder / "training.csv")
    tested = {int(row["epoch"]) + 1: float(row["val_ndcg@10"]) for row in rows if row["val_ndcg@10"]}
    losses = {int(row["epoch"]) + 1: float(row["train_loss"]) for row in rows if row["train_loss"]}
    return Curve(side, list(tested), list(tested.values()), list(losses.items()))


def by_clear_events(same: Sequence[Run]) -> tuple[Floats, Floats] | None:
    """Numbers of clear events and mean losses of the best epochs, in bins that widen; None without a log."""
    rows = [
        (int(row["clear_events"]), int(row["rows"]), float(row["loss"]))
        for run in same
        for row in _csv(run.folder / "clear_events.csv")
        if int(row["epoch"]) == run.metrics["best_epoch"]
    ]
    if not rows:
        return None
    clear, count, loss = np.array(rows, dtype=float).T
    bins = np.unique(np.rint(1.12 ** np.arange(1, 120)))
    place = np.searchsorted(bins, clear, side="right")
    weight, total, middle = (np.bincount(place, values) for values in (count, count * loss, count * clear))
    filled = weight > 0
    return middle[filled] / weight[filled], total[filled] / weight[filled]


def _csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
