"""The rows of benchmarks/evidence.py, on a small log of causes with both oracles."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import evidence
from persrec import api

RECIPE = """
name: small
data: {source: causes, causes: {users: 30, events: 90, seed: 5}}
split: {kind: last, n: 4}
history: [full, recent, compressed]
seeds: [1]
time: none
baselines: [personal_frequency]
model: {kind: sasrec, layers: 2, width: 8, heads: 2}
memory: {segment: 10, recent: 10, tokens: 2}
loss: {negatives: 8}
training: {epochs: 1, batch_events: 1000, warmup_steps: 3, ema: null, threads: 1}
evaluation: {k: [10], exclude_seen: false, length_buckets: [60]}
"""


def rows_of(*arguments: str) -> list[dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evidence.py", "small.yaml", "--json", "rows.json", "--append", *arguments])
        evidence.main()
    return json.loads(Path("rows.json").read_text())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Those of a recipe, written twice, beside one of another recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("evidence"))
        Path("small.yaml").write_text(RECIPE)
        Path("rows.json").write_text(json.dumps([{"dataset": "other", "history": "full"}]))
        out = Path("runs/evidence/small-last-4-none")
        api.fit("small.yaml", out=out, progress=False)
        wider = ["memory.recent=14", "history=recent", "baselines=[]"]
        api.fit("small.yaml", wider, out=out / "recent-14/recent-seed1", progress=False)
        patch.setattr(evidence, "train", lambda *given: None)  # all is there
        first = rows_of("--window", "14")
        older = {key: value for key, value in of(first, "full").items() if key not in ("settings", "begin", "start")}
        means = older | {"begin": "means"}
        Path("rows.json").write_text(json.dumps([first[0], older, means]))
        assert rows_of("--window", "14") == [first[0], means, *first[1:]], "older rows had no other beginning"
        return first


def of(rows: list[dict], history: str, bucket: str = "all") -> dict:
    (found,) = [row for row in rows if row.get("history") == history and row.get("bucket") == bucket and "seed" in row]
    return found


def test_rows_of_other_recipes_are_kept_and_own_ones_replaced(rows: list[dict]) -> None:
    assert rows[0] == {"dataset": "other", "history": "full"}
    assert {row["dataset"] for row in rows[1:]} == {"small"}


def test_rows_say_what_they_are_of(rows: list[dict]) -> None:
    told = {name: (row["model"], row["reads"], row["K"], row["R"]) for name in HISTORIES for row in [of(rows, name)]}
    assert told == HISTORIES
    for row in rows[1:]:
        assert row["history"]
        value = row.get("mean", row.get("ndcg10"))
        assert None in (value, row.get("low")) or row["low"] <= value <= row["high"]


HISTORIES = {
    "full": ("sasrec", 0.3, 2, 10),
    "compressed": ("sasrec", 0.3, 2, 10),
    "recent-14": ("sasrec", 0.3, 2, 14),
    "personal_frequency": (None, None, None, None),
    "oracle": (None, None, None, None),
    "oracle of the clear events": (None, None, None, 10),
}


def test_pairs_are_named_apart(rows: list[dict]) -> None:
    pairs = [row["pair"] for row in rows if "pair" in row and row["bucket"] == "all"]
    assert pairs == [
        "full/recent",
        "compressed/full",
        "compressed/recent",
        "full/personal_frequency",
        "compressed/personal_frequency",
        "compressed/recent-14",
    ]


def test_the_oracle_closes_its_own_gap_and_long_histories_are_a_group(rows: list[dict]) -> None:
    (oracle,) = [row for row in rows if row.get("history") == "oracle" and row["bucket"] == "all" and "seed" in row]
    closed = [row for row in rows if row.get("gap_closed") is not None and row["bucket"] == "all"]
    assert oracle["ndcg10"] >= max(row["ndcg10"] for row in closed)
    assert {row["history"] for row in closed} == {"full", "recent", "compressed", "recent-14", "personal_frequency"}
    assert of(rows, "full", "more than 60 events before")["queries"] > 0


def test_what_old_events_are_worth_and_losses_by_clear_events_are_there(rows: list[dict]) -> None:
    fulls = [row for row in rows[1:] if "of_full" in row]
    assert {row["history"] for row in fulls} == {"full, last 10 events", "full, last 19 events"}
    for row in fulls:
        assert row["of_full"] == pytest.approx(row["ndcg10"] / of(rows, "full")["ndcg10"], abs=1e-3)
    memories = {row["history"] for row in rows[1:] if "of_compressed" in row}
    assert {"compressed, memory emptied", "compressed, memory of another user"} < memories
    losses = {(row["history"], row["bucket"]): row["loss"] for row in rows[1:] if "loss" in row}
    assert {history for history, _ in losses} == {"full", "recent", "compressed"}
    assert {bucket for history, bucket in losses if history == "compressed"} == {
        "clear events: below 10",
        "clear events: 10-14",
        "clear events: 15-19",
    }
    assert all(1 < loss < 15 for loss in losses.values())


def test_another_memory_stands_beside_models_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE.replace("events: 90", "events: 40").replace("[personal_frequency]", "[]"))
    api.fit("small.yaml", out="first", progress=False)
    other = ["--set", "memory.kind=recurrent", "--set", "history=compressed", "--beside", "first", "--jobs", "1"]
    monkeypatch.setattr(evidence, "train", lambda *given: None)
    with pytest.raises(SystemExit, match="own: got no complete run in it"):
        rows_of(*other, "--out", "own")
    api.fit("small.yaml", ["memory.kind=recurrent", "history=compressed"], out="own/compressed-seed1", progress=False)
    made = rows_of(*other, "--out", "own")
    emptied = of(made, "compressed, memory emptied")["ndcg10"]
    told = json.loads(Path("own/compressed-seed1/metrics.json").read_text())["memory_tests"]
    assert emptied in [round(test["ndcg@10"]["mean"], 6) for test in told if test["memory"] == "emptied"]
    assert of(made, "compressed")["memory"] == "recurrent"
    pairs = {row["pair"] for row in made if "pair" in row}
    assert pairs == {"full/recent", "compressed/full", "compressed/recent"}
