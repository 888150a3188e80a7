"""Loggers beside the CSV files: what they hold is what the CSV files hold, and a missing package is named."""

import csv
from pathlib import Path

import pytest

from persrec.errors import UserError
from persrec.models.build import build
from persrec.training.loggers import Kind, check_installed, loggers
from persrec.training.module import fit
from persrec.training.objective import LossSettings
from tests.small import events, prepared_of
from tests.training.test_stages import SETTINGS


def logged(folder: Path, kind: Kind) -> list[float]:
    """Fit for two epochs; the validation of each in the CSV file."""
    recipe, data = prepared_of(folder, events(users=14))
    settings = type(SETTINGS)(**{**vars(SETTINGS), "logger": kind, "epochs": 2, "learning_rate": 0.01})
    run = folder / "run"
    run.mkdir()
    fit(build(recipe, items=data.items_count), data, LossSettings(), settings, folder=run, progress=False)
    rows = csv.DictReader((run / "training.csv").read_text().splitlines())
    return [float(row["val_ndcg@10"]) for row in rows if row["val_ndcg@10"]]


def test_a_logger_whose_package_is_missing_is_refused_with_what_to_install() -> None:
    expected = r"logger: got absent_one, .* run `pip install 'persrec\[absent_one\]'`, or set training.logger: csv"
    with pytest.raises(UserError, match=expected):
        check_installed("absent_one")  # type: ignore[arg-type]
    check_installed("csv")


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_the_curve_of_the_csv_file(tmp_path: Path) -> None:
    found = logged(tmp_path, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    written.Reload()
    assert [event.value for event in written.Scalars("val_ndcg@10")] == pytest.approx(found, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_curve_of_the_csv_file(tmp_path: Path) -> None:
    found = logged(tmp_path, "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("persrec")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    name = next(name for name in run.data.metrics if name.startswith("val_ndcg"))
    history = client.get_metric_history(run.info.run_id, name)
    assert [metric.value for metric in history] == pytest.approx(found, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_files_and_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logged(tmp_path, "wandb")
    import wandb

    wandb.finish()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_of_several_processes_one_has_the_other_logger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """MLflow's database is made by whoever opens it, and two who make it at once fail."""
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (files,) = loggers(kind, tmp_path)
    assert type(files).__name__ == "AppendingCSV"
    assert not list(tmp_path.iterdir())
