"""Curves of training are what the logs of a run say."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from persrec.page import curves

TRAINING = """epoch,step,loss,train_loss,val_ndcg@10,epoch_seconds,epoch_events
0,9,5.5,,,,
0,19,,6.25,,1.0,100
1,29,4.5,,,,
1,39,,,0.125,,
1,39,,5.75,,1.0,100
2,59,,5.5,0.25,1.0,100
"""
CLEAR = "epoch,clear_events,rows,loss\n1,1,9,90\n2,1,2,3.0\n2,2,4,2.0\n2,50,1,1.0\n2,51,3,2.0\n"


def run_of(folder: Path, training: str | None, clear: str | None) -> Any:
    folder.mkdir()
    for name, contents in (("training.csv", training), ("clear_events.csv", clear)):
        if contents is not None:
            (folder / name).write_text(contents)
    return SimpleNamespace(folder=folder, metrics={"best_epoch": 2})


def test_validation_and_loss_of_each_epoch(tmp_path: Path) -> None:
    found = curves.of_run("full", run_of(tmp_path / "run", TRAINING, None))
    assert (found.epochs, found.quality) == ([2, 3], [0.125, 0.25])
    assert found.losses == [(1, 6.25), (2, 5.75), (3, 5.5)]


def test_losses_by_clear_events_are_those_of_the_best_epoch_of_all_runs(tmp_path: Path) -> None:
    """Up to a few events each number has a bin of its own; 50 and 51 share one."""
    runs = [run_of(tmp_path / str(number), None, CLEAR) for number in range(2)]
    clear, loss = curves.by_clear_events(runs) or ([], [])
    assert clear == pytest.approx([1, 2, (50 + 3 * 51) / 4])
    assert loss == pytest.approx([3.0, 2.0, (1 + 3 * 2) / 4])
    assert np.all(np.diff(clear) > 0)


def test_runs_without_logs_have_no_curves(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", None, None)
    assert not curves.of_run("full", run).epochs
    assert curves.by_clear_events([run]) is None
