"""What a run leaves for others: vectors by id whose products are our scores, and the read step as a program."""

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
from tests.small import events, run_of

FORMS: dict[str, dict[str, Any]] = {
    "layered": {},
    "capped, next": {"memory": {"segment": 6, "recent": 5, "tokens": 2, "cap": 3}, "time": "next"},
    "recurrent": {"memory": {"kind": "recurrent", "segment": 6, "recent": 5, "tokens": 2}},
    "sasrec": {"model": {"kind": "sasrec", "layers": 2, "width": 8, "heads": 2}},
    "recent": {"history": "recent"},
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.filterwarnings("ignore")
def test_the_loaded_program_gives_the_query_of_every_user(tmp_path: Path, form: str) -> None:
    run = run_of(tmp_path, events(), **FORMS[form])
    out = exporting.export(run, tmp_path / "out")
    saved = runs.load(run)
    recipe = parse(saved.recipe, "of the run")
    data = runs.open_log(saved.data, recipe.split.name)
    model = restored(recipe, saved.weights(), items=data.items_count).eval()
    program = torch.export.load(out / exporting.READ).module()
    remembered = 8 * 2 if form in ("layered", "sasrec") else {"capped, next": 6, "recurrent": 2, "recent": 0}[form]
    users = np.argsort(-np.diff(data.offsets), kind="stable")
    users = users[np.diff(data.offsets)[users] < 6 * 8 + 5]  # of whom 8 segments are all
    windows = evaluation_windows(users, np.diff(data.offsets)[users], length=None)
    batch = collate(data, windows, time=recipe.time, last=True)
    with torch.no_grad():
        looped = loop(model.backbone, model.compressor, model.items, batch, model.rule, score=lambda hidden, _: None)
        opened = batch.history.at(*open_columns(batch.events, model.rule.closed(batch.events), model.rule))
        memory = memories.widen(looped.memory, remembered)
        missing = 10 - opened.item.shape[1]
        padded = opened.each(lambda field: torch.nn.functional.pad(field, (0, missing)))
        fields = padded.item, padded.time, padded.query_time, padded.position, padded.valid
        names = ("item", "time", "query_time", "position", "valid")
        old = {"memory_time": memory.time, "memory_position": memory.position, "memory_valid": memory.valid}
        found = program(**dict(zip(names, fields, strict=True)), states=memory.states, **old)
        assert torch.allclose(found, model.queries(batch), atol=1e-5)
        one = {name: value[:1] for name, value in {**dict(zip(names, fields, strict=True)), **old}.items()}
        assert torch.allclose(program(**one, states=memory.states[:1]), found[:1], atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_products_of_the_vectors_rank_as_the_recommender_does(tmp_path: Path) -> None:
    run = run_of(tmp_path, events())
    out = exporting.export(run, tmp_path / "out")
    items, users = (pl.read_parquet(out / name) for name in (exporting.ITEMS, exporting.USERS))
    assert items.columns == ["item_id", "vector"]
    assert users.columns == ["user_id", "vector"]
    assert len(users) == 40
    scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    for row in Recommender.load(run).recommend(users["user_id"].to_list()[:5], k=4).iter_rows(named=True):
        user, item = users["user_id"].to_list().index(row["user_id"]), items["item_id"].to_list().index(row["item_id"])
        assert scores[user, item] == pytest.approx(row["score"], abs=1e-4)


def test_a_repeat_head_is_refused(tmp_path: Path) -> None:
    changes = {"repeat": "head", "loss": {"kind": "full"}, "evaluation": {"k": [5, 10], "exclude_seen": False}}
    with pytest.raises(UserError, match="a repeat head adds to scores what no vector holds"):
        exporting.export(run_of(tmp_path, events(), **changes), tmp_path / "out")


def test_rows_that_count_by_their_events_are_refused(tmp_path: Path) -> None:
    changes = {"memory": {"segment": 6, "recent": 5, "tokens": 2, "count_weight": True}}
    with pytest.raises(UserError, match=r"memory.count_weight is true; read.pt2 takes no weights of rows yet"):
        exporting.export(run_of(tmp_path, events(), **changes), tmp_path / "out")
