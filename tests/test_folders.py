"""Run folders beside and on top of each other, and fits that go on in them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import persrec
from persrec import api, cells, cli, figures_json
from persrec import run as runs
from persrec.errors import UserError
from tests.small import events

SETTINGS = [
    "model={layers: 2, width: 8, heads: 2}",
    "memory={segment: 6, recent: 5, tokens: 2}",
    "training={epochs: 1, warmup_steps: 2, threads: 1, ema: null}",
    "evaluation={k: [5, 10], length_buckets: [20]}",
    "seeds=[0]",
]
FULL, POPULAR = ["history=[full]", "baselines=[]"], ["history=[]", "baselines=[popular]"]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    events().write_csv("log.csv")
    return tmp_path / "log.csv"


def fit(*more: str, **options: Any) -> Any:
    return persrec.fit("log.csv", [*SETTINGS, *more], progress=False, **options)


def test_runs_of_several_recipes_are_not_averaged(log: Path) -> None:
    for name in ("a", "b"):
        fit(*POPULAR, f"name={name}", out=f"runs/{name}")
    with pytest.raises(UserError, match=r"runs: holds runs of 2 recipes \(a, b\), expected one run or the grid of one"):
        persrec.evaluate("runs")
    assert len(persrec.evaluate("runs/a").rows) == 1


def test_a_single_run_and_a_grid_do_not_share_a_folder(log: Path) -> None:
    grid = ["history=[]", "baselines=[popular, svd]"]
    fit(*POPULAR, out="single")
    with pytest.raises(UserError, match="run folder single: holds a single run, and several were asked for"):
        fit(*grid, out="single")
    fit(*grid, out="several")
    with pytest.raises(UserError, match=r"holds 2 runs of a grid \(popular, svd\), and a single one was asked for"):
        fit(*POPULAR, out="several", overwrite=True)


def test_a_model_that_is_overwritten_by_a_baseline_is_gone(log: Path) -> None:
    fit(*FULL, out="run")
    assert (log.parent / "run/training.csv").exists()
    fit(*POPULAR, out="run", overwrite=True)
    assert not (log.parent / "run/training.csv").exists()
    with pytest.raises(UserError, match="popular holds no model, as it is a baseline or lists made elsewhere"):
        runs.load("run").weights()


def test_what_changes_no_figure_may_change_before_a_fit_goes_on(log: Path) -> None:
    grid = ["history=[]", "baselines=[popular, svd]"]
    before = fit(*grid, out="runs/grid").rows
    (log.parent / "moved").mkdir()
    log.rename(log.parent / "moved/log.csv")
    free = ["training.workers=1", "training.logger=tensorboard", "about=other words"]
    after = persrec.fit("moved/log.csv", [*SETTINGS, *grid, *free], out="runs/grid", resume=True).rows
    assert before == after
    with pytest.raises(UserError, match=r"started with another recipe \(time: 'none' then, 'last' now\)"):
        persrec.fit("moved/log.csv", [*SETTINGS, *grid, *free, "time=last"], out="runs/grid", resume=True)


def test_a_fit_that_had_stopped_early_stays_stopped(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = ["training.epochs=9", "training.learning_rate=1.0e-9", "training.patience=2"]
    unbroken = fit(*FULL, *still, out="unbroken").rows[0]
    assert unbroken["epochs"] == 3

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cells, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(*FULL, *still, out="broken")
    resumed = fit(*FULL, *still, out="broken", resume=True).rows[0]
    assert {key: resumed[key] for key in ("epochs", "metrics")} == {key: unbroken[key] for key in ("epochs", "metrics")}
    assert len(pl.read_csv("broken/training.csv")) == len(pl.read_csv("unbroken/training.csv"))


def test_a_place_that_cannot_be_written_is_named(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = [word for setting in (*SETTINGS, *FULL) for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["persrec", "fit", "log.csv", *chosen, "--out", "/proc/nowhere/run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "persrec: /proc/nowhere: No such file or directory; expected a place that" in capsys.readouterr().err


def test_figures_that_are_none_are_null_in_json_and_none_again() -> None:
    found = {"mean": 1.0, "low": math.nan, "high": math.inf, "odds": None}
    interval = {key: found[key] for key in ("mean", "low", "high")}
    text = figures_json.dumps({"a": [found], "b": interval})
    assert json.loads(text)["a"][0] == {"mean": 1.0, "low": None, "high": None, "odds": None}
    back = figures_json.loads(text)
    assert back["a"][0]["odds"] is None
    assert math.isnan(back["b"]["low"])
    assert back["b"]["mean"] == 1.0


def test_of_few_hits_the_metrics_are_json(log: Path) -> None:
    fit(*FULL, out="run")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(Path("run/metrics.json").read_text(), parse_constant=refuse)
    assert api.evaluate("run").rows[0]["metrics"].keys() >= {"ndcg@10"}
