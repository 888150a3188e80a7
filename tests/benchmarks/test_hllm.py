"""The benchmark of texts: what reading items takes, and that rows of one kind leave those of another alone."""

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("transformers")

from benchmarks import hllm
from persrec import api
from persrec.interactions.schema import conform
from persrec.prepared import open_prepared
from persrec.recipe import recipe
from tests.items.places import made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return made(tmp_path)


def test_items_are_read_once_and_come_from_the_cache_after_that(place: Path) -> None:
    row = hllm.encoding("texts.yaml", ["items.batch_tokens=16"])
    assert row["dataset"] == "texts"
    assert 20 < row["texts"] <= 28, "of 30 items one has no text and one is not in the table; some share a text"
    assert 0 <= row["padding"] < 0.1
    assert row["texts_per_second"] == pytest.approx(row["texts"] / row["seconds"], rel=0.1)
    assert row["second_share"] == pytest.approx(row["second_seconds"] / row["seconds"], rel=0.1)


def test_a_log_is_read_again_whatever_the_unit_of_its_times(place: Path) -> None:
    log = pl.read_csv("log.csv").with_columns(pl.col("timestamp") // 1000)
    log.write_csv("log.csv")
    chosen = recipe.load("texts.yaml", ["data.unit=s"])
    again = conform(hllm.log_of(chosen).lazy(), where="the log", unit="s").collect()
    assert again["timestamp"].to_list() == open_prepared(api.prepare(chosen), chosen.split.name).times.tolist()
    assert again["timestamp"].sort().to_list() == (1000 * log["timestamp"]).sort().to_list()


def test_appending_replaces_rows_of_the_same_kind_and_data_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Any]] = [
        {"dataset": "random", "read_ms_full": 2.0, "read_ms_cached": 1.0},
        {"dataset": "texts", "model": "id", "bucket": "all", "ndcg10": 0.1},
        {"dataset": "texts", "pair": "id+text - id", "mean": 0.01},
        {"dataset": "other", "texts": 5, "second_seconds": 0.5},
    ]
    old = {"dataset": "texts", "texts": 5, "second_seconds": 0.5}
    Path("rows.json").write_text(json.dumps([old, *kept]))
    asked = ["hllm.py", "texts.yaml", "--encode", "--json", "rows.json", "--append"]
    monkeypatch.setattr(sys, "argv", asked)
    hllm.main()
    *before, row = json.loads(Path("rows.json").read_text())
    assert before == kept
    assert row["dataset"] == "texts"
    assert row["texts"] > 5
    monkeypatch.setattr(sys, "argv", asked[:-1])
    hllm.main()
    assert len(json.loads(Path("rows.json").read_text())) == 1, "without --append the file is written anew"
