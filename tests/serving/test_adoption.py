"""A store taken over by a model that was trained anew."""

import shutil
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


def test_memories_in_half_bytes_are_mapped_those_of_nobody_too(tmp_path: Path) -> None:
    """Users of whom nothing is folded have no rows."""
    old, new = (made(tmp_path / name, memory=SIZES | {"encoding": "int4"}) for name in ("old", "new"))
    with old, new:
        old.compress()
        new.adopt(old)
        assert new.memory().height == old.memory().height
        assert (new.memory()["folded"] == 0).any()


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
        for name, size in (("cap", {"cap": 2}), ("merge", {"merge": True})):
            with pytest.raises(UserError, match=r"keep other numbers of blocks .* memory.cap or memory.merge"):
                made(tmp_path / name, memory=SIZES | size).adopt(old)
    repeats = made(tmp_path / "repeats", evaluation={"exclude_seen": False})
    with repeats, made(tmp_path / "excludes") as excludes:
        repeats.compress()
        with pytest.raises(UserError, match=r"knows of no seen items, for which evaluation.exclude_seen and seen_odds"):
            excludes.adopt(repeats)
    raw = made(tmp_path / "c")
    with raw:
        raw.compress(raw=True)
        with pytest.raises(UserError, match="the store keeps events and no memories"):
            made(tmp_path / "d").adopt(raw)


def two_models(tmp_path: Path, log: pl.DataFrame, later: pl.DataFrame, **changes: Any) -> tuple[Recommender, ...]:
    """The recommender of a log with its store, and that of a later one without."""
    for name, frame in (("old", log), ("new", later)):
        (tmp_path / name).mkdir()
        run_of(tmp_path / name, frame, **{"memory": SIZES, **changes})
    found = [Recommender.load(tmp_path / name / "run", tmp_path / name / "store") for name in ("old", "new")]
    found[0].compress(log)
    return tuple(found)


def test_an_adopted_store_goes_on_where_the_old_one_was(tmp_path: Path) -> None:
    old, new = two_models(tmp_path, LOG, LOG)
    more = LOG.group_by("user_id").last().with_columns(pl.col("timestamp") + 10**9)
    more.write_csv(tmp_path / "new.csv")
    with old, new:
        assert old.update(tmp_path / "new.csv").applied == len(more)
        new.adopt(old, LOG)
        found = new.update(tmp_path / "new.csv")
        assert (found.applied, found.already) == (0, len(more))
        assert new.update(more.with_columns(pl.col("timestamp") + 1)).applied == len(more)
        assert new.compress(LOG).new_users == 0, "its log is that of the old one"
        assert (new.memory()["events"] == old.memory()["events"] + 1).all()


def test_an_adoption_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    monkeypatch.setattr("persrec.serving.adoption.CHUNK", 7)
    old, new = two_models(tmp_path, LOG, LOG)
    with old, new:
        with pytest.raises(Stop):
            new.adopt(old, LOG, done=stop)
        for action in (lambda: new.update(LOG.tail(1)), lambda: new.compress(LOG)):
            with pytest.raises(UserError, match="as `adopt` was interrupted: delete the folder and adopt again"):
                action()
        with pytest.raises(UserError, match="or delete one that an interrupted `adopt` has left"):
            new.adopt(old, LOG)
        new.close()
        shutil.rmtree(tmp_path / "new" / "store")
        new.adopt(old, LOG)
        assert new.update(LOG.tail(1).with_columns(pl.col("timestamp") + 1)).applied == 1


def test_an_adoption_that_fails_leaves_nothing(tmp_path: Path) -> None:
    old, new = two_models(tmp_path, LOG, LOG)
    with old, new:
        with pytest.raises(UserError, match="of 1 users 0 have anything folded, which is too few"):
            new.adopt(old, LOG.filter(pl.col("user_id") == "ü-13"))
        assert not (tmp_path / "new" / "store").exists()
        new.adopt(old, LOG)


def test_a_store_that_is_not_complete_is_not_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persrec.serving.writing.CHUNK", 7)
    old, new = two_models(tmp_path, LOG, LOG)
    with old, new:
        old.close()
        shutil.rmtree(tmp_path / "old" / "store")

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            old.compress(LOG, done=stop)
        with pytest.raises(UserError, match=r"is not complete \(7 users are in it\), as `compress` was interrupted"):
            new.adopt(old, LOG)
        assert not (tmp_path / "new" / "store").exists()


def test_users_of_whose_open_events_nothing_is_known_are_left_out(tmp_path: Path) -> None:
    gone = pl.col("item_id") == "gone"
    own = LOG.filter(pl.col("user_id") == "ü-0")
    ends = [
        own.with_columns(
            pl.lit(user).alias("user_id"),
            pl.when(pl.int_range(pl.len()) >= 40).then(pl.lit("gone")).otherwise("item_id").alias("item_id"),
        )
        for user in ("long", "longer")
    ]
    short = own.head(1).with_columns(user_id=pl.lit("short"), item_id=pl.lit("gone"))
    log = pl.concat([LOG, *ends, short])
    old, new = two_models(tmp_path, log, log.filter(~gone))
    said: list[str] = []
    with old, new:
        found = new.adopt(old, LOG, say=said.append)
        assert found.left_out == 3
        assert any(
            "adopt: 3 users are left out, as the new model knows no item of their open events; `rebuild`" in one
            for one in said
        )
        assert set(new.recommend(None, 1)["user_id"]) == set(LOG["user_id"])
        new.rebuild(["long"])
        assert len(new.recommend(["long"], 2)) == 2


def test_events_of_one_moment_are_told_apart_after_an_adoption(tmp_path: Path) -> None:
    """Where no times are kept, it is known how many of the open events were of the last moment."""
    last = int(LOG["timestamp"].max()) + 1
    end = {"user_id": ["ü-0"] * 3, "item_id": ["чай 1", "gone", "чай 2"], "timestamp": [last, last + 1, last + 1]}
    log = pl.concat([LOG, pl.DataFrame(end)])
    old, new = two_models(tmp_path, log, log.filter(pl.col("item_id") != "gone"), time="none")
    with old, new:
        new.adopt(old, LOG)
        found = new.update(pl.DataFrame({**end, "timestamp": [last + 1] * 3}))
        assert (found.applied, found.duplicates, found.unknown_items) == (1, 1, 1)
