"""`fit --from RUN`: weights go over by item id, through the command and into a model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from persrec import api, cells
from persrec.batches import collate, evaluation_windows
from persrec.errors import UserError
from persrec.evaluation import comparison
from persrec.models.attention import position_bucket
from persrec.models.build import build
from persrec.serving.recommender import Recommender
from persrec.training.starting import matched, start_from
from tests.small import events, prepared_of, recipe_of, run_of


def test_items_are_matched_by_id_whatever_their_type_and_order() -> None:
    before, now = matched(pa.array([3, 7, 11]), pa.array(["11", "2", "3"]))
    assert list(zip(before.tolist(), now.tolist(), strict=True)) == [(3, 1), (1, 3)]


def test_a_grown_log_starts_from_the_vectors_of_the_items_it_shares(tmp_path: Path) -> None:
    old = run_of(tmp_path, events(items=20))
    (tmp_path / "new").mkdir()
    renamed = events(items=30).with_columns(pl.col("item_id").replace({"чай 3": "кофе 3"}))
    recipe, data = prepared_of(tmp_path / "new", renamed)
    model = build(recipe, items=data.items_count)
    fresh = model.state_dict()["items.table"].clone()
    found = start_from(model, old, data, recipe=recipe)
    assert found == {
        "run": str(old),
        "matched": 19,
        "new": 11,
        "vanished": 1,
        "fresh_memory": False,
        "other_distances": False,
    }
    given, own = load_file(old / "weights.safetensors"), model.state_dict()
    for name in given.keys() - {"items.table"}:
        assert torch.equal(given[name], own[name]), name
    names = sorted({f"чай {number}" for number in range(20)})
    for row, item in enumerate(data.item_ids().to_pylist(), start=1):
        expected = given["items.table"][names.index(item) + 1] if item in names else fresh[row]
        assert torch.equal(own["items.table"][row], expected), item


def test_another_model_is_refused_by_the_names_of_its_weights(tmp_path: Path) -> None:
    old = run_of(tmp_path, events())
    recipe, data = prepared_of(tmp_path, events(), memory={"segment": 6, "recent": 5, "tokens": 3}, time="none")
    model = build(recipe, items=data.items_count)
    expected = r"3 weights of the run do not fit .*time_bias: \(2, 80\) there, none here; .*: \(2, 8\) there, \(3, 8"
    with pytest.raises(UserError, match=expected):
        start_from(model, old, data, recipe=recipe)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("memory.kind recurrent, expected layered", {"memory": {"kind": "recurrent"}}),
        ("model.score dot, expected cosine", {"model": {"score": "dot"}}),
    ],
)
def test_the_same_shapes_for_another_use_are_refused(tmp_path: Path, key: str, changes: dict[str, Any]) -> None:
    shape = {"model": {"layers": 2, "width": 8, "heads": 2}, "memory": {"segment": 6, "recent": 5, "tokens": 2}}
    old = run_of(tmp_path, events(), **shape)
    other = {section: shape[section] | changes.get(section, {}) for section in shape}
    recipe, data = prepared_of(tmp_path, events(), **other)
    with pytest.raises(UserError, match=f"got {key}, for which the weights of the run were trained; add --set"):
        start_from(build(recipe, items=data.items_count), old, data, recipe=recipe)


@pytest.mark.parametrize(("segment", "recent"), [(4, 3), (9, 8)])
@pytest.mark.parametrize("kind", ["hstu", "sasrec"])
def test_position_biases_go_over_by_distance_where_segments_or_recent_events_are_others(
    tmp_path: Path, kind: str, segment: int, recent: int
) -> None:
    """Exact below 11 there, below 7 or 17 here; each kept for distances that are exact in both."""
    old = run_of(tmp_path, events(), model={"kind": kind, "layers": 2, "width": 8, "heads": 2})
    changed = {"segment": segment, "recent": recent, "tokens": 2}
    (tmp_path / "new").mkdir()
    shape = {"kind": kind, "layers": 2, "width": 8, "heads": 2}
    recipe, data = prepared_of(tmp_path / "new", events(), memory=changed, model=shape)
    model = build(recipe, items=data.items_count)
    assert start_from(model, old, data, recipe=recipe)["other_distances"]
    given, own = load_file(old / "weights.safetensors"), model.state_dict()
    names = [name for name in own if name.endswith(".position_bias")]
    assert len(names) == 2
    for name in names:
        assert torch.equal(own[name][:, : min(7, segment + recent)], given[name][:, : min(7, segment + recent)])
        distance = torch.arange(11, 400)
        before = given[name][:, position_bucket(distance, 11).long()]
        after = own[name][:, position_bucket(distance, segment + recent).long()]
        near = torch.stack(
            [given[name][:, (position_bucket(distance, 11) + by).clamp(max=42).long()] for by in (-1, 0, 1)]
        )
        close = (near == after).any(dim=0)
        assert close[:, distance > 18].all(), "a bucket is that of the same distance, or its neighbour"
        assert (before == after).float().mean() > 0.5
    other = {name: value for name, value in own.items() if name in given and name not in (*names, "items.table")}
    assert all(torch.equal(value, given[name]) for name, value in other.items())


@pytest.mark.parametrize(("kind", "begin"), [("layered", "learned"), ("layered", "means"), ("recurrent", "learned")])
def test_a_model_that_had_no_memory_is_given_one(tmp_path: Path, kind: str, begin: str) -> None:
    """Before anything is trained, users with nothing folded are answered as before."""
    old = run_of(tmp_path, events(), history="full")
    memory = {"kind": kind, "begin": begin, "segment": 6, "recent": 5, "tokens": 2}
    recipe, data = prepared_of(tmp_path, events(), history="compressed", memory=memory)
    model = build(recipe, items=data.items_count).eval()
    fresh = model.compressor.tokens.detach().clone()
    assert start_from(model, old, data, recipe=recipe)["fresh_memory"]
    assert torch.equal(model.compressor.tokens, fresh)
    gains = [float(value.detach().mean()) for name, value in model.named_parameters() if name.endswith(".token_gain")]
    assert gains == [float(kind != "layered" or begin == "means"), 1.0]
    windows = evaluation_windows(np.arange(data.users), np.minimum(np.diff(data.offsets), 10), length=None)
    few = collate(data, windows, time=recipe.time)
    torch.testing.assert_close(model.queries(few), Recommender.load(old).model.queries(few))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("hstu", {"count_weight": True, "own_projections": True}),
        ("sasrec", {"count_weight": True, "own_projections": True, "compete": True}),
        ("decoder", {"own_projections": True}),
    ],
)
def test_a_memory_with_weights_of_its_own_in_the_backbone_begins_with_what_the_other_rows_have(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    model_keys, sizes = {"kind": kind, "width": 8, "heads": 2}, {"segment": 6, "recent": 5, "tokens": 2}
    old = run_of(tmp_path, events(), history="full", time="none", model=model_keys, memory=sizes)
    recipe, data = prepared_of(
        tmp_path, events(), history="compressed", time="none", model=model_keys, memory={**sizes, **options}
    )
    model, given = build(recipe, items=data.items_count), Recommender.load(old).model.state_dict()
    assert start_from(model, old, data, recipe=recipe)["fresh_memory"]
    own = {name: value for name, value in model.state_dict().items() if ".token_inner." in name}
    assert len(own) == {"hstu": 2, "sasrec": 4, "decoder": 0}[kind]
    assert all(torch.equal(value, given[name.replace("token_inner", "inner")]) for name, value in own.items())


def test_types_of_events_in_another_order_are_refused(tmp_path: Path) -> None:
    log = events().with_columns(event=pl.Series(["view", "buy"] * (len(events()) // 2)))
    kept = {"source": "table", "path": str(tmp_path / "log.csv"), "keep": ["event"]}
    old = run_of(tmp_path, log, model={"inputs": ["event"]}, data={**kept, "events": ["view", "buy"]})
    recipe, data = prepared_of(tmp_path, log, model={"inputs": ["event"]}, data={**kept, "events": ["buy", "view"]})
    with pytest.raises(UserError, match=r"got data\.events \[buy, view\], expected \[view, buy\], in whose order"):
        start_from(build(recipe, items=data.items_count), old, data, recipe=recipe)


def test_a_complete_run_that_was_started_otherwise_is_not_resumed(tmp_path: Path) -> None:
    old = run_of(tmp_path, events())
    recipe, data = prepared_of(tmp_path, events(), training={"epochs": 1, "warmup_steps": 2})
    options: dict[str, Any] = {"overwrite": False, "progress": False}
    cells.fit(recipe.grid()[0], data, tmp_path / "whole", resume=False, **options)
    with pytest.raises(UserError, match=r"whole was started from fresh weights, and --from now says .*; give the"):
        cells.fit(recipe.grid()[0], data, tmp_path / "whole", resume=True, start=old, **options)
    assert cells.fit(recipe.grid()[0], data, tmp_path / "whole", resume=True, **options)["epochs"]


@pytest.mark.parametrize("again", [True, False])
def test_a_resumed_fit_starts_from_the_same_run(tmp_path: Path, again: bool) -> None:
    """A fit that was interrupted: its note on what it is about is read before its checkpoint, which is empty."""
    old = run_of(tmp_path, events())
    recipe, data = prepared_of(tmp_path, events())
    checkpoints = tmp_path / "cut" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").write_bytes(b"")
    start = str(old.resolve()) if again else None
    (checkpoints / "started.json").write_text(json.dumps({"recipe": recipe.dump(), "data": data.hash, "start": start}))
    if again:
        with pytest.raises(EOFError):
            cells.train(recipe, data, tmp_path / "cut", resume=True, start=old)
    else:
        with pytest.raises(UserError, match=r"was started from fresh weights, and --from now says .*; give the --from"):
            cells.train(recipe, data, tmp_path / "cut", resume=True, start=old)


def test_through_the_command_the_numbers_are_said_and_kept(tmp_path: Path) -> None:
    old = run_of(tmp_path, events(items=20))
    events(items=30).write_csv(tmp_path / "grown.csv")
    model = "{layers: 2, width: 8, heads: 2, dropout: 0.5}"
    settings = [f"model={model}", "memory={segment: 6, recent: 5, tokens: 2}", "time=last", "evaluation.k=[5, 10]"]
    settings += ["training={epochs: 1, learning_rate: 1.0e-9, ema: null}"]
    given = [part for setting in settings for part in ("--set", setting)]
    command = ["-c", "from persrec.cli import main; main()", "fit", "grown.csv", "--out", "again", "--from", str(old)]
    done = subprocess.run([sys.executable, *command, *given], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "20 items are known by their ids, 10 are new and start fresh, 0 have vanished" in done.stderr
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["start"]["matched"] == 20
    before, after = (load_file(folder / "weights.safetensors") for folder in (old, tmp_path / "again"))
    assert torch.allclose(before["compressor.tokens"], after["compressor.tokens"], atol=1e-5)


def test_a_grid_is_tuned_from_its_full_model(tmp_path: Path) -> None:
    training = {"epochs": 2, "tune_epochs": 1, "learning_rate": 1e-9, "ema": None}
    recipe = recipe_of(tmp_path / "log.csv", history=["full", "recent", "compressed"], training=training)
    events().write_csv(tmp_path / "log.csv")
    api.fit(recipe, out=tmp_path / "grid", progress=False)
    runs = {history: tmp_path / "grid" / f"{history}-seed0" for history in ("full", "recent", "compressed")}
    metrics = {history: json.loads((place / "metrics.json").read_text()) for history, place in runs.items()}
    assert [found["epochs"] for found in metrics.values()] == [2, 1, 1]
    assert "start" not in metrics["full"]
    weights = {history: load_file(place / "weights.safetensors") for history, place in runs.items()}
    for history, fresh in (("recent", False), ("compressed", True)):
        assert metrics[history]["start"] == {
            "run": str(runs["full"]),
            "matched": 30,
            "new": 0,
            "vanished": 0,
            "fresh_memory": fresh,
            "other_distances": False,
        }
        for name, value in weights["full"].items():
            torch.testing.assert_close(weights[history][name], value, rtol=0, atol=1e-5)
    sides = comparison.load(list(runs.values()))
    assert [side.history for side in sides] == ["full", "recent", "compressed"], "they are cells of one recipe"


def test_tuning_without_a_model_to_tune_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "log.csv", history="compressed", training={"tune_epochs": 3})
    with pytest.raises(UserError, match=r"got 3 with history compressed, expected a full model .*--from"):
        api.fit(recipe, out=tmp_path / "grid", progress=False)
    with pytest.raises(UserError, match=r"got history \['compressed', 'full'\], expected full first"):
        recipe_of(tmp_path / "log.csv", history=["compressed", "full"], training={"tune_epochs": 3})
