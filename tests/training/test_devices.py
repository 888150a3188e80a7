"""Training on several devices: two processes on a CPU are one that accumulates two batches."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from persrec.errors import UserError
from persrec.training import launching, ranks

RECIPE = """
name: tiny
data: {source: synthetic, synthetic: {users: 60, events: 40, seed: 3}}
history: compressed
time: last
model: {layers: 2, width: 16, heads: 2, dropout: 0.2}
memory: {segment: 8, recent: 8, tokens: 2, reads: 0.5}
loss: {kind: sampled, negatives: 32, sampler: mixed}
training: {epochs: 2, batch_events: 500, warmup_steps: 5, ema: 0.9, patience: 3, threads: 1}
evaluation: {k: [5, 10], length_buckets: [20, 50]}
"""
ENTRY = "from persrec.cli import main; main()"


def fit(
    folder: Path, out: str, *settings: str, launcher: tuple[str, ...] = ("-c", ENTRY), further: tuple[str, ...] = ()
) -> str:
    """Fit through the command; what it printed."""
    (folder / "tiny.yaml").write_text(RECIPE)
    given = [part for setting in settings for part in ("--set", f"training.{setting}")]
    command = [sys.executable, *launcher, "fit", "tiny.yaml", "--out", out, *given, *further]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def curve(run: Path) -> list[tuple[float, ...]]:
    """Loss, validation and events of each epoch."""
    with (run / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = ("train_loss", "epoch_events", "val_ndcg@10")
    return list(zip(*([float(row[name]) for row in rows if row[name]] for name in columns), strict=True))


def same(one: Path, other: Path, *, unbroken: bool = True) -> None:
    """The same loss, validation and weights, but for the order of sums; a resumed epoch logs the loss of its rest."""
    before, after = torch.tensor(curve(one)), torch.tensor(curve(other))
    assert torch.allclose(before[:, 2], after[:, 2], atol=2e-5)
    assert not unbroken or torch.allclose(before, after, atol=2e-5)
    weights, others = load_file(one / "weights.safetensors"), load_file(other / "weights.safetensors")
    for name, value in weights.items():
        assert torch.allclose(value, others[name], atol=1e-4), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    fit(folder, "alone", "accumulate=2")
    return folder


def test_two_devices_do_what_one_does_that_accumulates_two_batches(alone: Path) -> None:
    shown = fit(alone, "both", "devices=2")
    same(alone / "alone", alone / "both")
    assert sum(line.startswith("epoch ") for line in shown.splitlines()) == 2, "one process prints"
    found = [json.loads((alone / run / "metrics.json").read_text()) for run in ("alone", "both")]
    for key in ("epochs", "best_epoch", "metrics"):
        assert found[0][key] == found[1][key]
    assert not (alone / "both" / "checkpoints").exists()


def test_processes_of_a_launcher_share_one_run_folder(alone: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(launching._free_port()))
    shown = fit(alone, "launched", "devices=2", launcher=(*torchrun, "-m", "persrec"))
    same(alone / "alone", alone / "launched")
    assert shown.count("Run folder: launched") == 1


def test_two_machines_share_one_run_folder(alone: Path) -> None:
    endpoint = f"127.0.0.1:{launching._free_port()}"
    machine = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint)
    launcher = ("-m", "torch.distributed.run", *machine, "--local-addr", "127.0.0.1", "-m", "persrec")
    with ThreadPoolExecutor(2) as machines:
        started = [machines.submit(fit, alone, "far", "nodes=2", launcher=launcher) for _ in range(2)]
        shown = "".join(each.result() for each in started)
    same(alone / "alone", alone / "far")
    assert shown.count("Run folder: far") == 1
    assert sum(line.startswith("epoch ") for line in shown.splitlines()) == 2


def test_an_interrupted_fit_of_two_devices_is_resumed(alone: Path) -> None:
    settings = [part for each in ("devices=2", "checkpoint_minutes=0.0005") for part in ("--set", f"training.{each}")]
    command = [sys.executable, "-c", ENTRY, "fit", "tiny.yaml", "--out", "broken", *settings]
    process = subprocess.Popen(
        command,
        cwd=alone,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (alone / "broken" / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)  # the parent alone: it ends the others
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    fit(alone, "broken", "devices=2", "checkpoint_minutes=0.0005", further=("--resume",))
    same(alone / "alone", alone / "broken", unbroken=False)


def test_machines_want_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nodes: got 2, but no launcher started .* `torchrun --nnodes 2 --nproc-per-n"):
        ranks.check(1, 2)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="got 1 and 2, but the launcher started 4 processes; expected devices x nodes"):
        ranks.check(1, 2)
    ranks.check(2, 2)
