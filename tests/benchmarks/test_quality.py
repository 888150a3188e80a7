"""The rows of benchmarks/quality.py, of models and of baselines."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import quality
from persrec import api, run
from persrec.recipe import recipe
from tests.small import events

RECIPE = """
name: small
data: {source: table, path: log.csv}
history: full
baselines: [popular]
model: {layers: 1, width: 8, heads: 2}
memory: {segment: 6, recent: 5, tokens: 2}
loss: {negatives: 8}
training: {epochs: 1, batch_events: 1000, warmup_steps: 3, ema: null, threads: 1}
evaluation: {k: [10], length_buckets: [20]}
"""


def test_a_baseline_has_a_row_without_layers_and_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events(users=20).write_csv("log.csv")
    Path("small.yaml").write_text(RECIPE)
    api.fit("small.yaml", out="runs/quality/small", progress=False)
    monkeypatch.setattr(quality, "train", lambda *given: None)
    monkeypatch.setattr(sys, "argv", ["quality.py", "small.yaml", "--json", "rows.json"])
    quality.main()
    full, popular = json.loads(Path("rows.json").read_text())
    assert (full["model"], full["history"], full["epochs"]) == ("hstu", "full", 1)
    assert full["validation_ndcg10"] > 0
    assert (popular["model"], popular["history"], popular["validation_ndcg10"]) == (None, "popular", None)
    assert popular["low"] <= popular["ndcg10"] <= popular["high"]


def test_all_histories_go_on_from_the_full_model_of_their_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events(users=20).write_csv("log.csv")
    Path("small.yaml").write_text(RECIPE)
    api.fit("small.yaml", ["baselines=[]"], out="models/full-seed0", progress=False)
    cells = recipe.load("small.yaml", ["history=[full]"]).grid()
    quality.train("small.yaml", cells, [], tmp_path / "out", 2, tmp_path / "models")
    full, popular = (run.load(tmp_path / "out" / name).metrics for name in ("full-seed0", "popular"))
    assert full["start"]["run"] == str(tmp_path / "models/full-seed0")
    assert "start" not in popular
