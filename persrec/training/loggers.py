"""Where a fit is logged: always CSV files in the run folder, and beside them what a recipe asks for.

The packages of the other loggers are extras (`pip install 'persrec[tensorboard]'`, and so on) and imported where used.
Everything stays in the run folder unless the package's own environment variables say otherwise.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger

from persrec.errors import UserError
from persrec.training import ranks
from persrec.training.logs import AppendingCSV

Kind = Literal["csv", "tensorboard", "mlflow", "wandb"]
FOLDERS = ("tensorboard", "mlflow", "wandb")  # of a run folder, which a new fit begins without


def loggers(kind: Kind, folder: Path) -> list[Logger]:
    """The loggers of a run folder, the CSV files first; of several processes only rank 0 has more than these.

    Raises:
        UserError: the package of the logger is not installed.
    """
    files = AppendingCSV(folder)
    if kind == "csv":
        return [files]
    check_installed(kind)
    if ranks.rank():  # each would make the database of the same run
        return [files]
    made = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}[kind]
    return [files, made(folder)]


def check_installed(kind: Kind) -> None:
    """Raise UserError where the package of a logger is missing: before the training as well."""
    if kind != "csv" and find_spec(kind) is None:
        raise UserError(
            f"training.logger: got {kind}, but the package {kind} is not installed; run "
            f"`pip install 'persrec[{kind}]'`, or set training.logger: csv"
        )


def _tensorboard(folder: Path) -> Logger:
    """Event files in `tensorboard/`; see them with `tensorboard --logdir runs`."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)


def _mlflow(folder: Path) -> Logger:
    """The server of MLFLOW_TRACKING_URI, else a database in `mlflow/`."""
    from lightning.pytorch.loggers import MLFlowLogger

    place = folder / "mlflow"
    if "MLFLOW_TRACKING_URI" in os.environ:
        return MLFlowLogger(experiment_name="persrec", run_name=folder.name)
    place.mkdir(parents=True, exist_ok=True)
    return MLFlowLogger(
        experiment_name="persrec",
        run_name=folder.name,
        tracking_uri=f"sqlite:///{place / 'mlflow.db'}",
        artifact_location=str(place),
    )


def _wandb(folder: Path) -> Logger:
    """Files in `wandb/`, to be sent with `wandb sync`; sent at once where WANDB_MODE is `online`."""
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "offline") != "online"
    return WandbLogger(project="persrec", name=folder.name, save_dir=folder, offline=offline)
