"""Training through real Lightning and real processes: an interrupted fit that is resumed is the unbroken one."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RECIPE = """
name: tiny
data: {source: synthetic, synthetic: {users: 60, events: 40, seed: 3}}
history: compressed
time: last
model: {layers: 2, width: 16, heads: 2, dropout: 0.2}
memory: {segment: 8, recent: 8, tokens: 2, reads: 0.5}
loss: {kind: sampled, negatives: 32}
training: {epochs: 4, batch_events: 400, warmup_steps: 5, ema: 0.9, patience: 3, checkpoint_minutes: 0.0005, threads: 1,
  accumulate: 2}
evaluation: {k: [5, 10], length_buckets: [20, 50]}
"""


def command(folder: Path, *arguments: str) -> list[str]:
    (folder / "tiny.yaml").write_text(RECIPE)
    code = "from persrec.cli import main; main()"
    return [sys.executable, "-c", code, "fit", "tiny.yaml", "--out", "run", *arguments]


def fit(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(folder, *arguments), cwd=folder, capture_output=True, text=True, timeout=240)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "weights.safetensors")


def metrics(folder: Path) -> dict:
    found = json.loads((folder / "run" / "metrics.json").read_text())
    return {key: value for key, value in found.items() if key != "seconds"}


def epochs(folder: Path) -> dict[str, tuple[list[str], list[list[str]]]]:
    """By epoch, what was written of its losses; of what is written twice, the last."""
    with (folder / "run" / "training.csv").open() as file:
        found = {
            row["epoch"]: [row["train_loss"], row["epoch_events"]] for row in csv.DictReader(file) if row["train_loss"]
        }
    with (folder / "run" / "clear_events.csv").open() as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    own = {epoch: {row[1]: row for row in rows if row[0] == epoch} for epoch in found}
    return {epoch: (found[epoch], list(own[epoch].values())) for epoch in found}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    result = fit(folder)
    assert result.returncode == 0, result.stderr
    return folder


def kill_when(folder: Path, moment: float) -> None:
    """Start a fit and kill it, without warning, `moment` of the way through its batches."""
    process = subprocess.Popen(command(folder), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = folder / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("attempt", range(2))
def test_killed_and_resumed_equals_unbroken(unbroken: Path, tmp_path: Path, attempt: int) -> None:
    kill_when(tmp_path, random.Random(attempt).uniform(0.0, 1.0))
    assert not (tmp_path / "run" / "run.json").exists(), "it was killed too late to be a test"
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    result = fit(tmp_path, "--resume")
    assert result.returncode == 0, result.stderr
    for name, tensor in weights(unbroken).items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name
    assert metrics(tmp_path) == metrics(unbroken)
    assert epochs(tmp_path) == epochs(unbroken), "sums go on within an epoch"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken: Path, tmp_path: Path) -> None:
    assert fit(tmp_path).returncode == 0
    assert all(torch.equal(tensor, weights(tmp_path)[name]) for name, tensor in weights(unbroken).items())
    assert fit(tmp_path, "--overwrite", "--set", "seeds=[1]").returncode == 0
    assert not torch.equal(weights(unbroken)["items.table"], weights(tmp_path)["items.table"])


def test_logs_hold_loss_validation_and_loss_by_clear_events(unbroken: Path) -> None:
    with (unbroken / "run" / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    for column in ("train_loss", "val_ndcg@10", "epoch_seconds", "epoch_events"):
        assert sum(row[column] != "" for row in rows) == 4, column
    with (unbroken / "run" / "clear_events.csv").open() as file:
        clear = list(csv.DictReader(file))
    events = {row["epoch_events"] for row in rows if row["epoch_events"]}
    for epoch in range(4):
        own = [row for row in clear if int(row["epoch"]) == epoch]
        assert str(float(sum(int(row["rows"]) for row in own))) in events
        assert max(int(row["clear_events"]) for row in own) <= 8 + 8 - 1


def test_nothing_that_was_pickled_is_left(unbroken: Path) -> None:
    left = {path.name for path in (unbroken / "run").rglob("*") if path.is_file()}
    assert not {name for name in left if Path(name).suffix in (".ckpt", ".pt", ".pkl", ".bin")}
    assert not (unbroken / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_with_their_status_and_can_be_resumed(
    tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    longer = "--set", "training.epochs=12", "--set", "training.patience=12"  # so that it is not over before the signal
    process = subprocess.Popen(
        command(tmp_path, *longer),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which jobs in the background ignore
    )
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert fit(tmp_path, *longer, "--resume").returncode == 0
