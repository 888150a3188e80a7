"""The benchmark of texts: rows of models, of items that were never trained on and of what reading items takes, and that
rows of one kind leave those of another alone.
"""

import json
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("transformers")

from benchmarks import hllm
from persrec import Recommender, api, run
from persrec.cells import name_of
from persrec.interactions.schema import conform
from persrec.prepared import open_prepared
from persrec.recipe import recipe
from persrec.recipe.recipe import Recipe
from tests.items.models import WORDS
from tests.items.places import made

FIELDS = "dataset protocol model logit_adjustment history bucket whiten text_head seed queries recall10 ndcg10 low high"
FIELDS += " named"


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


def asked() -> Namespace:
    return Namespace(overrides=[], out=Path("runs"), jobs=1, named=True, share=0.4)


def histories() -> dict[str, list[str]]:
    """The items of each user of the log, in order."""
    log = pl.read_csv("log.csv").group_by("user_id", maintain_order=True).agg("item_id")
    return dict(zip(log["user_id"], log["item_id"].to_list(), strict=True))


def ranks_by_user(folder: Path) -> dict[str, float]:
    """Where a run has each user's last item."""
    done = run.load(folder)
    names, table = run.open_log(done.data, "leave-one-out").user_ids(), done.targets()
    return dict(zip(names.take(table["user"]).to_pylist(), table["rank"].to_pylist(), strict=True))


def ndcg(ranks: list[float]) -> float:
    return float(np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in ranks]))


def test_cold_items_were_never_trained_on_and_are_ranked_among_all(place: Path) -> None:
    """Users whose last item is cold are asked for it after those of their items that are not."""
    titles = [f"{one} {two}" for one in WORDS[:6] for two in WORDS[6:11]]  # all different: no ties
    pl.read_csv("items.csv").with_columns(pl.Series("title", titles)).write_csv("items.csv")
    (row,) = hllm.cold("texts.yaml", "text+hstu", asked())
    done = run.load(next(Path("runs").rglob(run.MANIFEST)).parent)
    trained = set(run.open_log(done.data, "leave-one-out").item_ids().to_pylist())
    out = {item for items in histories().values() for item in items} - trained
    assert row["cold_items"] == len(out) == 12
    recommender = Recommender.load(done.folder)
    everything = recommender.item_ids.to_list()
    assert set(everything) >= trained | (out & set(pl.read_csv("items.csv")["item_id"]))
    ranks: list[float] = []
    for user, (*before, target) in histories().items():
        had = [item for item in before if item not in out]
        if target in out and had:
            history = pl.DataFrame({"user_id": user, "item_id": had, "timestamp": range(len(had))})
            found = recommender.score(None, {user: everything}, histories=history)
            others = found.filter(~pl.col("item_id").is_in(had)).sort("score", descending=True)["item_id"].to_list()
            ranks.append(1 + others.index(target) if target in others else np.inf)
    assert row["queries"] == len(ranks) > 3
    assert 0 < row["recall10"] == pytest.approx(np.mean([rank <= 10 for rank in ranks]), abs=1e-6)
    assert row["ndcg10"] == pytest.approx(ndcg(ranks), abs=1e-6)
    assert [*row] == [*FIELDS.split(), "chance_recall10", "cold_items"]
    assert (row["bucket"], row["model"], row["history"], row["named"]) == ("cold", "text+hstu", "compressed", True)


def test_cold_items_that_nobody_can_be_asked_for_are_refused_before_a_fit(place: Path) -> None:
    few, timed = asked(), asked()
    few.share, timed.overrides = 0.01, ["time=next"]
    with pytest.raises(SystemExit, match=r"--share 0\.01: got no query for an item that is left out; leave out more"):
        hllm.cold("texts.yaml", "text+hstu", few)
    with pytest.raises(SystemExit, match="got time: next, expected last or none"):
        hllm.cold("texts.yaml", "text+hstu", timed)
    assert not Path("runs").exists()


def test_rows_of_all_targets_and_of_those_with_rare_items(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare is an item with fewer events in training, which the last two of a user are not in, than the median item."""

    def train(name: str, cells: list[Recipe], overrides: list[str], out: Path, jobs: int) -> None:
        for cell in cells:  # in this process
            api.fit(cell, out=out / name_of(cell), progress=False)

    monkeypatch.setattr(hllm.quality, "train", train)
    rows = hllm.warm("texts.yaml", ["id", "id+text+hstu"], asked())
    log = histories()
    counts = Counter(item for items in log.values() for item in items[: len(items) - 2 * (len(items) > 2)])
    median = np.median(list(counts.values()))
    means = {}
    for model, bucket in (("id", "all"), ("id", "tail"), ("id+text+hstu", "all"), ("id+text+hstu", "tail")):
        row = rows.pop(0)
        assert [*row] == FIELDS.split()
        assert (row["model"], row["bucket"], row["history"], row["whiten"]) == (model, bucket, "compressed", False)
        ranks = ranks_by_user(Path("runs/texts") / model / "compressed-seed0")
        part = [rank for user, rank in ranks.items() if bucket == "all" or counts[log[user][-1]] < median]
        assert row["queries"] == len(part) == (18 if bucket == "all" else 6)
        assert row["ndcg10"] == pytest.approx(ndcg(part), abs=1e-6)
        assert row["recall10"] == pytest.approx(np.mean([rank <= 10 for rank in part]), abs=1e-6)
        means[model, bucket] = row["ndcg10"]
    for pair, bucket in zip(rows, ("all", "tail"), strict=True):
        figures = ["mean", "low", "high", "ratio", "ratio_low"]
        assert [*pair] == ["dataset", "history", "bucket", "pair", *figures, "seeds", "named"]
        assert (pair["pair"], pair["bucket"]) == ("id+text+hstu - id", bucket)
        assert pair["mean"] == pytest.approx(means["id+text+hstu", bucket] - means["id", bucket], abs=2e-6)
        assert pair["low"] <= pair["mean"] <= pair["high"]
        under = means["id", bucket]
        assert pair["ratio"] == pytest.approx((under + pair["mean"]) / under, rel=1e-3) if under else True


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
