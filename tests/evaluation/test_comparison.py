"""Runs in pairs: known answers on folders written by hand."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from persrec import api, run
from persrec.errors import UserError
from persrec.evaluation import comparison
from persrec.evaluation.comparison import load, pair, pairs, permutation, retention
from persrec.evaluation.intervals import Interval
from persrec.recipe import recipe
from persrec.report import sides_sheet

USERS = 40
METRIC = "ndcg@10"


@pytest.fixture
def items(tmp_path: Path) -> Path:
    table = pa.table({"item_id": ["a", "b"], "events": [3, 2]})
    with pa.OSFile(str(tmp_path / "items.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return tmp_path / "items.arrow"


def save(items: Path, history: str, rank: Any, seed: int = 1, **changes: Any) -> Path:
    """A run whose targets, two users' queries of one and two targets in turn, have these ranks."""
    size = np.resize([1, 2], USERS)
    table = pa.table(
        {
            "user": np.repeat(np.arange(USERS) // 2, size),
            "end": np.repeat(5 + np.arange(USERS), size),
            "item": np.arange(size.sum()),
            "age": np.resize([0, 3, 90], size.sum()),
            "item_events": np.full(size.sum(), 7),
            "rank": np.broadcast_to(np.asarray(rank, dtype=float), size.sum()),
        }
    )
    values = {"name": changes.pop("name", "one"), "history": history, "seeds": [seed], **changes.pop("recipe", {})}
    chosen = recipe.parse(values, "of a test")
    dumped = chosen.dump()
    for key in changes.pop("unknown", []):
        del dumped["memory"][key]
    protocol = {"split": "last-10", "exclude_seen": True, **changes.pop("protocol", {})}
    return run.save(
        items.parent / f"{chosen.name}-{history}-{seed}",
        recipe=dumped,
        weights=None,
        data={"hash": changes.pop("hash", "0" * 64), "folder": "nowhere"},
        items=items,
        metrics={"history": history, "seed": seed, "protocol": protocol},
        targets=changes.pop("targets", table),
    ).folder


def test_a_side_is_a_form_over_its_seeds(items: Path) -> None:
    sides = load([save(items, "full", 1.0), save(items, "full", 2.0, seed=2), save(items, "recent", 3.0)])
    assert [(side.name, sorted(side.tables)) for side in sides] == [("full", [1, 2]), ("recent", [1])]
    mean = comparison.mean(sides[0], "mrr@10")
    assert mean.mean == pytest.approx(0.75)
    assert mean.low < 0.5 < 1.0 < mean.high, "two seeds so far apart leave more open than what they show"


def test_a_folder_of_runs_is_all_of_them(items: Path) -> None:
    save(items, "full", 1.0)
    save(items, "recent", 2.0)
    rows = api.compare([items.parent]).rows
    assert [row["pair"] for row in rows if "pair" in row] == ["full/recent"]
    assert [row["run"] for row in rows if "run" in row] == ["full", "recent"]


def test_the_ratio_of_two_sides_on_the_same_targets(items: Path) -> None:
    found = pairs(load([save(items, "full", 1.0), save(items, "recent", 2.0)]), "mrr@10")
    assert len(found) == 1
    assert found[0].ratio == Interval(2.0, 2.0, 2.0)
    assert found[0].difference == Interval(0.5, 0.5, 0.5)
    assert found[0].p < 0.001, "every user agrees"


def test_sets_are_scored_as_sets(items: Path) -> None:
    """Ranks 1 | 1, 2 | 1 | 1, 2 ...: complete lists; the second target of each set at 20 is lost."""
    perfect = np.resize([1, 1, 2], 60)
    sides = load([save(items, "full", perfect), save(items, "recent", np.where(perfect == 2, 20, 1))])
    assert pair(*sides, "recall@10").ratio.mean == pytest.approx(1 / 0.75)
    assert comparison.mean(sides[0], METRIC).mean == 1.0


def test_only_a_part_of_the_targets(items: Path) -> None:
    ages = np.resize([0, 3, 90], 60)
    sides = load([save(items, "full", np.where(ages == 90, 1, 4)), save(items, "recent", np.full(60, 4))])
    parts = dict(comparison.groups(sides[0], "last consumption of the item"))
    assert list(parts) == ["never had", "had <= 40 events ago", "had > 40 events ago"]
    old, new = parts["had > 40 events ago"], parts["never had"]
    assert pair(*sides, "mrr@10", old).ratio.mean == 4.0
    assert pair(*sides, "mrr@10", new).ratio.mean == 1.0
    known = r"length \(history length\), cold \(training events of the item\), consumption"
    for by in ("age", "hours"):
        with pytest.raises(UserError, match=rf"by: got '{by}', expected one of {known}"):
            comparison.groups(sides[0], by)


def test_cold_targets_by_their_short_name(items: Path) -> None:
    """Of every other target the item was never trained on; there the full model is twice as good."""
    table = run.load(save(items, "full", 1.0)).targets()
    events = np.resize([0, 7], 60)
    table = table.set_column(table.column_names.index("item_events"), "item_events", pa.array(events))
    at = table.column_names.index("rank")
    worse = table.set_column(at, "rank", pa.array(np.where(events == 0, 2.0, 1.0)))
    folders = [save(items, "full", 1.0, seed=2, targets=table), save(items, "recent", 1.0, seed=2, targets=worse)]
    sides = load(folders)
    parts = dict(comparison.groups(sides[0], "cold"))
    assert list(parts) == ["0 (cold)", "1-9"]
    assert parts["0 (cold)"].tolist() == (events == 0).tolist()
    assert pair(*sides, "mrr@10", parts["0 (cold)"]).ratio.mean == 2.0
    assert pair(*sides, "mrr@10", parts["1-9"]).ratio.mean == 1.0
    shown = api.compare(folders, metric="mrr@10", by="cold", form="markdown")
    assert "**mrr@10, training events of the item 0 (cold), 30 targets**" in str(shown)


def test_models_with_other_recent_events_are_told(items: Path) -> None:
    """The first side's number names the groups; a baseline reads no recent events, and one number is no difference."""
    short = {"recipe": {"memory": {"recent": 20}}}
    folders = [save(items, "full", 1.0), save(items, "recent", 2.0, name="two", **short)]
    (said,) = comparison.recent_notes(load(folders))
    assert said.startswith("memory.recent differs: 40 (one full); 20 (two recent). By last consumption")
    assert "grouped at 40 events, that of one full" in said
    assert said in str(api.compare(folders, by="consumption", form="markdown"))
    assert said not in str(api.compare(folders, by="length", form="markdown"))
    full, recent = load(folders)
    assert comparison.recent_notes([full, replace(recent, history="popular")]) == []
    assert comparison.recent_notes([full, full]) == []


def test_retention(items: Path) -> None:
    sides = [save(items, "full", 1.0), save(items, "recent", 2.0), save(items, "compressed", 4 / 3)]
    (found,) = retention(load(sides), "mrr@10")
    assert found.kept is not None
    assert found.kept.mean == pytest.approx(0.5)
    assert found.gain == Interval(2.0, 2.0, 2.0)


def test_text_and_json_of_a_comparison(items: Path) -> None:
    sides = [save(items, "full", 1.0), save(items, "recent", 2.0), save(items, "compressed", 4 / 3)]
    odd = [save(items, form, 1.0, name="my_own-1") for form in ("full", "recent", "compressed")]
    compared = api.compare([*sides, *odd], metric="mrr@10", form="latex", json_file=items.parent / "rows.json")
    text = str(compared)
    assert text.isascii()
    assert r"my\_own-1 full" in text
    assert r"my\_own-1: No history effect shown" in text
    assert not re.search(r"(?<!\\)_", text)
    rows = json.loads((items.parent / "rows.json").read_text())
    assert rows == compared.rows
    assert {row["group"] for row in rows} == {"all targets"}
    means = {row["run"]: row["mean"] for row in rows if "run" in row}
    assert means["one recent"] == pytest.approx(0.5)
    (found,) = [row for row in rows if row.get("pair") == "one full/one recent"]
    assert found["mean"] == found["low"] == found["high"] == 2.0
    assert found["difference"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    kept = {row["retention"]: row["kept"] for row in rows if "retention" in row}
    assert kept["one"]["mean"] == pytest.approx(0.5)
    assert kept["my_own-1"] is None


def test_a_ratio_to_nothing_is_null_in_json(items: Path) -> None:
    """NaN and Infinity are no JSON, and most programs refuse a file that has them."""
    file = items.parent / "rows.json"
    api.compare([save(items, "full", 1.0), save(items, "recent", np.inf)], metric="mrr@10", json_file=file)
    rows = json.loads(file.read_text(), parse_constant=pytest.fail)
    (found,) = [row for row in rows if "pair" in row]
    assert None in found.values()


def test_where_history_brings_nothing_there_is_nothing_to_retain(items: Path) -> None:
    random = np.random.default_rng(0)
    ranks = [random.integers(1, 5, 60) for _ in range(3)]
    sides = [save(items, form, rank) for form, rank in zip(("full", "recent", "compressed"), ranks, strict=True)]
    (found,) = retention(load(sides), METRIC)
    assert found.kept is None
    assert found.gain.low < 1 < found.gain.high


def test_sides_that_are_the_same_leave_nothing_to_retain(items: Path) -> None:
    sides = load([save(items, form, np.inf) for form in ("full", "recent", "compressed")])
    (found,) = retention(sides, METRIC)
    assert found.kept is None
    assert np.isnan(pairs(sides, METRIC)[0].ratio.mean)
    assert pairs(sides, METRIC)[0].p == 1.0


def test_the_permutation_test_is_the_binomial_of_equal_differences() -> None:
    """n users who all differ by the same: 2 of 2^n sign patterns are as extreme."""
    for users in (4, 6):
        assert permutation(np.full(users, 0.5), np.arange(users)) == pytest.approx(2 / 2**users, abs=0.01)
    assert permutation(np.zeros(5), np.arange(5)) == 1.0


def test_queries_of_one_user_are_exchanged_together() -> None:
    difference = np.full(60, 0.5)
    assert permutation(difference, np.repeat(np.arange(4), 15)) == pytest.approx(2 / 16, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hash": "1" * 64}, "data: 000000000000 and 111111111111"),
        ({"protocol": {"split": "leave-one-out"}}, "split: 'last-10' and 'leave-one-out'"),
        ({"protocol": {"exclude_seen": False}}, "exclude_seen: True and False"),
        ({"targets": pa.table({"user": [1], "end": [1], "item": [1], "rank": [1.0]})}, "targets: 60 and 1"),
    ],
)
def test_runs_that_were_not_tested_alike_are_refused(items: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match="were not tested on the same targets") as error:
        load([save(items, "full", 1.0), save(items, "recent", 1.0, **changes)])
    assert words in str(error.value)


def test_the_same_seed_twice_is_refused(items: Path) -> None:
    folder = save(items, "full", 1.0)
    with pytest.raises(UserError, match="a second run of full with seed 1"):
        load([folder, folder])


@pytest.mark.parametrize(
    ("history", "seed", "values", "words"),
    [
        ("full", 2, {"model": {"width": 32}}, "full and full: recipes of one name, one, that differ (model.width: 64"),
        ("full", 2, {"memory": {"kind": "recurrent"}}, "memory.kind: 'layered' and 'recurrent'"),
        ("recent", 1, {"training": {"learning_rate": 0.1}}, "full and recent: recipes of one name, one, that differ"),
        ("compressed", 1, {"memory": {"segment": 20}}, "memory.segment: 40 and 20"),
    ],
)
def test_other_recipes_of_one_name_are_refused(
    items: Path, history: str, seed: int, values: dict[str, Any], words: str
) -> None:
    folders = [save(items, "full", 1.0), save(items, history, 1.0, seed=seed, recipe=values)]
    with pytest.raises(UserError, match="fit the other one under a name of its own") as error:
        load(folders)
    assert words in str(error.value)


def test_forms_may_differ_in_their_memories_and_threads(items: Path) -> None:
    """Neither `full` nor `recent` reads the memory that a compressed model is given."""
    other = {"memory": {"kind": "recurrent", "tokens": 8}, "training": {"threads": 1}, "baselines": ["popular"]}
    plain = [save(items, "full", 1.0), save(items, "recent", 2.0)]
    (found,) = retention(load([*plain, save(items, "compressed", 4 / 3, recipe=other)]), "mrr@10")
    assert found.kept is not None
    assert found.kept.mean == pytest.approx(0.5)


def test_keys_that_a_run_did_not_know_had_their_defaults(items: Path) -> None:
    older = save(items, "full", 2.0, seed=2, unknown=["count_weight", "past_set"])
    assert len(load([save(items, "full", 1.0), older])[0].tables) == 2


def test_what_one_seed_does_not_say(items: Path) -> None:
    sides = load([*(save(items, "full", 1.0, seed=seed) for seed in (1, 2)), save(items, "recent", 2.0)])
    assert comparison.seed_notes(sides[:1]) == []
    assert comparison.seed_notes(sides) == [
        "One seed (recent): the intervals speak of these trained models only, not of other seeds."
    ]


def test_different_times_are_said(items: Path) -> None:
    sides = load([save(items, "full", 1.0), save(items, "full", 2.0, name="two", recipe={"time": "next"})])
    assert comparison.time_notes(sides[:1]) == []
    (note,) = comparison.time_notes(sides)
    assert note.startswith("time differs: none (one full); next (two full). Such figures do not compare")
    shown = sides_sheet("", sides, [comparison.mean(side, METRIC) for side in sides], METRIC)
    assert [row[shown.head.index("time")] for row in shown.rows] == ["none", "next"]


def test_seeds_in_common(items: Path) -> None:
    """A side of one run, such as a baseline, is held against every seed; sides of several need common ones."""
    full = [save(items, "full", 1.0, seed=seed) for seed in (1, 2)]
    assert pair(*load([*full, save(items, "recent", 2.0, seed=9)]), METRIC).seeds == 2
    with pytest.raises(UserError, match="full and compressed: have no seed in common"):
        pair(*load([*full, *(save(items, "compressed", 1.0, seed=seed) for seed in (3, 4))]), METRIC)


@pytest.mark.parametrize("metric", ["ndcg", "ndcg@0", "ndcg@50", "clicks@10"])
def test_an_unknown_metric(items: Path, metric: str) -> None:
    with pytest.raises(UserError, match=f"metric: got {metric}, expected one of recall, .* a cutoff of 1 to 20"):
        comparison.check_metric(load([save(items, "full", 1.0)]), metric)
