"""What a run leaves for others: vectors by id whose products are our scores, and the read step as a program."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from persrec import export as exporting
from persrec import run as runs
from persrec.batches import collate, evaluation_windows
from persrec.errors import UserError
from persrec.models import memory as memories
from persrec.models.build import restored
from persrec.models.compressor import loop
from persrec.models.segments import open_columns
from persrec.recipe.recipe import parse
from persrec.serving.recommender import Recommender
from tests.small import TEXT_HEAD, events, run_of

FORMS: dict[str, dict[str, Any]] = {
    "layered": {},
    "capped, next": {"memory": {"segment": 6, "recent": 5, "tokens": 2, "cap": 3}, "time": "next"},
    "recurrent": {"memory": {"kind": "recurrent", "segment": 6, "recent": 5, "tokens": 2}},
    "sasrec": {"model": {"kind": "sasrec", "layers": 2, "width": 8, "heads": 2}},
    "recent": {"history": "recent"},
    "full": {"history": "full"},
    "full, the last 20": {"history": "full", "length": 20},
    "ratings": {"model": {"layers": 2, "width": 8, "heads": 2, "inputs": ["rating"]}},
    "weights of rows": {"memory": {"segment": 6, "recent": 5, "tokens": 2, "count_weight": True}},
    "text head": TEXT_HEAD,
    "text head, full": TEXT_HEAD | {"history": "full"},
}
REMEMBERED = {
    "layered": 16,
    "sasrec": 16,
    "capped, next": 6,
    "recurrent": 2,
    "ratings": 16,
    "weights of rows": 16,
    "text head": 16,
}
RATED = {"rating": pl.int_range(pl.len()) % 5 + 1}
REPEATING: dict[str, Any] = {"repeat": "head", "loss": {"kind": "full"}}
SEEN = {"k": [5, 10], "exclude_seen": False}


def described(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / exporting.ABOUT).read_text(encoding="utf-8"))
    return found


def products(out: Path) -> dict[tuple[str, str], float]:
    """Of every user and item."""
    items, users = (pl.read_parquet(out / name) for name in (exporting.ITEMS, exporting.USERS))
    found = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    rows = zip(users["user_id"], found, strict=True)
    return {(user, item): score for user, row in rows for item, score in zip(items["item_id"], row, strict=True)}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.filterwarnings("ignore")
def test_the_loaded_program_gives_the_query_of_every_user(tmp_path: Path, form: str) -> None:
    run = run_of(tmp_path, events().with_columns(**RATED), **FORMS[form])
    out = exporting.export(run, tmp_path / "out")
    saved = runs.load(run)
    recipe = parse(saved.recipe, "of the run")
    data = replace(runs.open_log(saved.data, recipe.split.name), inputs=recipe.model.inputs)
    model = restored(recipe, saved.weights(), items=data.items_count).eval()
    program = torch.export.load(out / exporting.READ).module()
    remembered, length = REMEMBERED.get(form, 0), described(out)["inputs of read.pt2"]["item"]["shape"][1]
    users = np.argsort(-np.diff(data.offsets), kind="stable")
    if remembered:
        users = users[np.diff(data.offsets)[users] < 6 * 8 + 5]  # of whom 8 segments are all
    windows = evaluation_windows(users, np.diff(data.offsets)[users], length=recipe.length)
    batch = collate(data, windows, time=recipe.time, last=True)
    with torch.no_grad():
        looped = loop(model.backbone, model.compressor, model.encode(), batch, model.rule, score=lambda hidden, _: None)
        opened = batch.history.at(*open_columns(batch.events, model.rule.closed(batch.events), model.rule))
        memory = memories.widen(looped.memory, remembered)
        missing = length - opened.item.shape[1]
        after = {field.ndim: (0, 0) * (field.ndim - 2) + (0, missing) for field in opened if field is not None}
        padded = opened.each(lambda field: torch.nn.functional.pad(field, after[field.ndim]))
        fields = padded.item, padded.time, padded.query_time, padded.position, padded.valid
        names = ("item", "time", "query_time", "position", "valid")
        given = dict(zip(names, fields, strict=True)) | {"states": memory.states, "memory_time": memory.time}
        given |= {"memory_position": memory.position, "memory_valid": memory.valid}
        given |= {"memory_weight": memory.weight} if form == "weights of rows" else {}
        given |= {"inputs": padded.inputs} if form == "ratings" else {}
        found = program(**given)
        assert torch.allclose(found, model.queries(batch), atol=1e-5)
        one = {name: value[:1] for name, value in given.items()}
        assert torch.allclose(program(**one), found[:1], atol=1e-5)


@pytest.mark.parametrize("changes", [{}, TEXT_HEAD])
@pytest.mark.filterwarnings("ignore")
def test_products_of_the_vectors_rank_as_the_recommender_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = run_of(tmp_path, events(), **changes)
    out = exporting.export(run, tmp_path / "out")
    items, users = (pl.read_parquet(out / name) for name in (exporting.ITEMS, exporting.USERS))
    assert items.columns == ["item_id", "vector"]
    assert users.columns == ["user_id", "vector"]
    assert len(users) == 40
    assert described(out)["notes"] == ["A product of a query and an item's vector is the score of `recommend`."]
    scores = products(out)
    for row in Recommender.load(run).recommend(users["user_id"].to_list()[:5], k=4).iter_rows(named=True):
        assert scores[row["user_id"], row["item_id"]] == pytest.approx(row["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "asked", "length", "why"),
    [
        ({"history": "full"}, None, 60, "the longest history of the log"),
        ({"history": "full", "length": 20}, None, 20, "the recipe's length"),
        ({"history": "full"}, 30, 30, "as asked by --length; longer histories lose their oldest events"),
        ({}, None, 10, "the most that an open block has"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_how_many_events_the_read_step_takes_is_said(
    tmp_path: Path, changes: dict[str, Any], asked: int | None, length: int, why: str
) -> None:
    said: list[str] = []
    out = exporting.export(run_of(tmp_path, events(), **changes), tmp_path / "out", length=asked, say=said.append)
    assert f"and the read step on the last {length} events ({why})." in said[0]
    about = described(out)
    assert about["length"] == {"events": length, "why": why}
    assert about["inputs of read.pt2"]["item"]["shape"] == ["users", length]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def earlier(out: Path) -> dict[str, bytes]:
    """Files of an export of another run."""
    out.mkdir()
    for name in (exporting.ITEMS, exporting.USERS, exporting.READ, exporting.ABOUT):
        (out / name).write_text("of another run")
    return contents(out)


def test_an_export_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*given: Any) -> None:
        raise RuntimeError("torch cannot")

    before = earlier(tmp_path / "out")
    monkeypatch.setattr(exporting, "read_program", failing)
    with pytest.raises(RuntimeError, match="torch cannot"):
        exporting.export(run_of(tmp_path, events()), tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("moved", range(3))
def test_where_export_json_is_all_files_are_of_one_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """However many files had come into the folder when it was interrupted."""
    run, out = run_of(tmp_path, events()), tmp_path / "out"
    earlier(out)
    replace, left = Path.replace, iter(range(moved))

    def interrupted(path: Path, target: Path) -> Path:
        if target.parent == out and next(left, None) is None:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exporting.export(run, out)
    assert exporting.ABOUT not in contents(out)
    monkeypatch.undo()
    exporting.export(run, out)
    again, anew = contents(out), contents(exporting.export(run, tmp_path / "fresh"))
    assert sorted(again) == sorted(anew)
    assert all(again[name] == anew[name] for name in again if name != exporting.READ)  # a zip, with its moment


def test_a_decoder_has_no_read_step_and_it_is_said(tmp_path: Path) -> None:
    """What an earlier export has left of one goes."""
    out, said = tmp_path / "out", list[str]()
    earlier(out)
    model = {"kind": "decoder", "layers": 2, "width": 8, "heads": 2, "dropout": 0.0}
    exporting.export(run_of(tmp_path, events(), model=model, time="none"), out, say=said.append)
    assert sorted(contents(out)) == [exporting.ABOUT, exporting.ITEMS, exporting.USERS]
    assert "read.pt2 is left out: torch.export does not follow the decoders of transformers." in said
    assert described(out)["notes"] == said[1:]
    assert "inputs of read.pt2" not in described(out)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"export: .*file is a file, expected a folder; choose another --out"):
        exporting.export(tmp_path / "no run", tmp_path / "file")
    with pytest.raises(UserError, match=r"file/out cannot be written \(Not a directory\); make room or choose another"):
        exporting.export(run_of(tmp_path, events()), tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"history": "full", "length": 20}, "got --length 30, expected at most 20, the length that the run reads"),
        ({}, "got --length 30 with history compressed, expected none: its read step takes the 10 events"),
    ],
)
def test_a_length_that_the_run_does_not_read_is_refused(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        exporting.export(run_of(tmp_path, events(), **changes), tmp_path / "out", length=30)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({**REPEATING, "evaluation": SEEN}, "a repeat head"),
        ({"evaluation": SEEN | {"seen_odds": 0.2}}, "evaluation.seen_odds"),
        ({**REPEATING, "evaluation": SEEN | {"seen_odds": 0.2}}, "a repeat head and evaluation.seen_odds"),
    ],
    ids=["repeat head", "seen_odds", "both"],
)
@pytest.mark.filterwarnings("ignore")
def test_where_products_are_not_the_whole_score_it_is_said_and_they_are_for_new_items(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    run = run_of(tmp_path, events(), **changes)
    said: list[str] = []
    out = exporting.export(run, tmp_path / "out", say=said.append)
    (note,) = described(out)["notes"]
    assert note in said
    assert note.endswith(f"for the others it is not the whole score: what comes from {named} is in no vector.")
    assert (out / exporting.READ).exists()
    had = set(events().select("user_id", "item_id").iter_rows())
    users = ["ü-4", "ü-7", "ü-11"]
    scores = Recommender.load(run).recommend(users, k=30).rows_by_key(["user_id", "item_id"], named=True, unique=True)
    assert len(scores) == 90
    found = products(out)
    added = {key: row["score"] - found[key] for key, row in scores.items()}
    assert max(abs(added[key]) for key in added if key not in had) < 1e-4
    assert max(abs(added[key]) for key in added if key in had) > 0.01
