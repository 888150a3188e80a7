"""A store taken over by a model that was trained anew."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from persrec.errors import UserError
from persrec.serving.recommender import Recommender
from tests.small import events, run_of

LOG = events()
SIZES = {"segment": 6, "recent": 5, "tokens": 2}


def made(folder: Path, **changes: Any) -> Recommender:
    folder.mkdir()
    return Recommender.load(run_of(folder, LOG, **{"memory": SIZES, **changes}), folder / "store")


def rotated(one: Recommender) -> None:
    """Another model that does the same: its memories are those of the old one, turned."""
    tokens = one.model.compressor.tokens
    with torch.no_grad():
        tokens.copy_(tokens.flip(0))  # slot 1 is slot 2 now
    one.model.compressor.maker = one.model.maker()


def numbers(one: Recommender) -> np.ndarray:
    return np.stack([np.array(query) for query in one.memory()["query"].to_list()])


@pytest.mark.parametrize("kind", ["layered", "recurrent"])
def test_what_can_be_mapped_is_mapped(tmp_path: Path, kind: str) -> None:
    """Of a model with its slots exchanged everybody's query stays what it was."""
    changes = {"memory": {**SIZES, "kind": kind}}
    old, new = made(tmp_path / "old", **changes), made(tmp_path / "new", **changes)
    rotated(new)
    with old, new:
        old.compress()
        found = new.adopt(old)
        assert found.explained > (0.95 if kind == "layered" else 0.85), "recurrent slots see those before them"
        assert found.cosine > 0.93
        before, after = numbers(old), numbers(new)
        assert (np.einsum("ud,ud->u", before, after) > 0.9).all()
        assert new.stats()["users"] == old.stats()["users"]
        assert new.recommend()["user_id"].unique(maintain_order=True).to_list() == new.memory()["user_id"].to_list()


def test_a_catalogue_that_has_changed(tmp_path: Path) -> None:
    """Items are known by their ids: one has gone, and one has come."""
    gone = LOG["item_id"].value_counts().sort("count", "item_id")["item_id"][0]
    old = made(tmp_path / "old")
    (tmp_path / "new").mkdir()
    other = LOG.with_columns(pl.col("item_id").replace(gone, 990))
    new = Recommender.load(run_of(tmp_path / "new", other, memory=SIZES), tmp_path / "new" / "store")
    with old, new:
        old.compress()
        new.adopt(old)
        users = old.memory()
        seen = LOG.filter(pl.col("item_id") == gone)["user_id"].to_list()
        taken = new.memory().join(users, on="user_id", suffix="_then")
        fewer = taken.filter(pl.col("events") < pl.col("events_then"))["user_id"].to_list()
        assert set(fewer) <= set(seen)
        assert (taken["folded"] == taken["folded_then"]).all()


def test_what_cannot_be_adopted(tmp_path: Path) -> None:
    old = made(tmp_path / "old")
    with old:
        old.compress()
        with pytest.raises(UserError, match="segment: 6 then, 4 now"):
            made(tmp_path / "a", memory={**SIZES, "segment": 4}).adopt(old)
        with pytest.raises(UserError, match="kind: 'layered' then, 'recurrent' now"):
            made(tmp_path / "b", memory={**SIZES, "kind": "recurrent"}).adopt(old)
        with pytest.raises(UserError, match="expected the folder of a store that is not there yet"):
            old.adopt(old)
    raw = made(tmp_path / "c")
    with raw:
        raw.compress(raw=True)
        with pytest.raises(UserError, match="the store keeps events and no memories"):
            made(tmp_path / "d").adopt(raw)
