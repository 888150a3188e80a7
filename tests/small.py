"""A small real log on disk, prepared, with a model of random weights: what evaluation and serving are tested on."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from persrec import run as runs
from persrec.interactions.prepare import prepare
from persrec.models.build import build
from persrec.models.item_encoders import Texts
from persrec.models.model import Model
from persrec.prepared import ITEMS, Prepared, open_prepared
from persrec.recipe.recipe import Recipe, parse

TEXT_HEAD = {"items": {"use": "id+text", "path": "items.csv", "encoder": "model", "text_head": 4}}
START = 1_700_000_000_000
LENGTHS = [60, 45, 31, 30, 23, 17, 12, 9, 5, 4, 3, 3, 2, 1]


def events(*, users: int = 40, items: int = 30, seed: int = 0, timed: bool = True) -> pl.DataFrame:
    """Random events with repeats, ids that are text and not ASCII; every user's events in order of time."""
    random = np.random.default_rng(seed)
    lengths = np.resize(LENGTHS, users)
    user = np.repeat([f"ü-{number}" for number in range(users)], lengths)
    item = [f"чай {number}" for number in random.integers(0, items, lengths.sum())]
    frame = {"user_id": user, "item_id": item}
    if timed:
        frame["timestamp"] = START + np.arange(len(user)) * 60_000
    return pl.DataFrame(frame)


def recipe_of(path: Path, **changes: Any) -> Recipe:
    """A recipe on a table: S = 6, R = 5, two layers."""
    values = {
        "name": "small",
        "data": {"source": "table", "path": str(path)},
        "time": "last",
        "model": {"layers": 2, "width": 8, "heads": 2, "dropout": 0.5},
        "memory": {"segment": 6, "recent": 5, "tokens": 2},
        "evaluation": {"k": [1, 5, 10], "length_buckets": [5, 20]},
    }
    return parse(values | changes, "of a test")


def model_of(recipe: Recipe, items: int, *, seed: int = 0) -> Model:
    """A model whose weights are large enough for queries to differ, as are its items' texts where it has any."""
    torch.manual_seed(seed)
    texts = Texts(torch.randn(items + 1, 6).index_fill(0, torch.tensor([0]), 0), torch.ones(items + 1).bool())
    model = build(recipe, items=items, seed=seed, texts=None if recipe.items.use == "id" else texts)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def prepared_of(folder: Path, frame: pl.DataFrame, **changes: Any) -> tuple[Recipe, Prepared]:
    """The recipe and the prepared data of a frame written as csv."""
    path = folder / "log.csv"
    frame.write_csv(path)
    recipe = recipe_of(path, **changes)
    folder = prepare(recipe.data, recipe.name, folder / "prepared", recipe.split)
    return recipe, open_prepared(folder, recipe.split.name)


def run_of(folder: Path, frame: pl.DataFrame, **changes: Any) -> Path:
    """A run folder whose model was never trained."""
    recipe, data = prepared_of(folder, frame, **changes)
    saved = runs.save(
        folder / "run",
        recipe=recipe.dump(),
        weights=model_of(recipe, data.items_count).state_dict(),
        data={"hash": data.hash, "folder": str(data.folder)},
        items=data.folder / ITEMS,
        metrics={},
        targets=pa.table({"rank": [1.0]}),
    )
    return saved.folder
