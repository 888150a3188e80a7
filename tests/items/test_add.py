"""New items in a run: recommended from their texts alone, while everything that was there stays as it was."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

pytest.importorskip("transformers")

from click.testing import CliRunner

from persrec import Recommender, api
from persrec.commands.items import items as command
from persrec.errors import UserError
from persrec.export import export
from persrec.items.add import add
from persrec.items.load import VECTORS
from persrec.serving.disk import StoreError
from tests.items.models import saved_model
from tests.items.places import made

NEW = pl.DataFrame(
    {
        "item_id": ["new 1", "чай 3", "new 2", "new 3", "NaN"],
        "title": ["red lamp", "cup", None, "large table .", "blue lamp"],
    }
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a table of new items."""
    monkeypatch.chdir(tmp_path)
    NEW.write_csv(tmp_path / "new.csv")
    return made(tmp_path)


def fitted(*overrides: str) -> Recommender:
    api.fit("texts.yaml", overrides, out="run", progress=False)
    return Recommender.load("run")


@pytest.mark.parametrize("use", ["items.use=text", "items.use=id+text"])
def test_new_items_are_recommended_and_the_old_ones_score_as_before(place: Path, use: str) -> None:
    before = fitted(use, "items.whiten=true").recommend(["ü-0", "ü-5"], 25)
    said: list[str] = []
    counts = add("run", "new.csv", say=said.append)
    assert counts == {"added": 2, "in the run already": 1, "without a text": 1, "without an id": 1}
    assert said[-1] == "run: 2 added, 1 in the run already, 1 without a text, 1 without an id."
    after = Recommender.load("run").recommend(["ü-0", "ü-5"], 27)
    assert {"new 1", "new 3"} <= set(after["item_id"])
    both = before.join(after, on=["user_id", "item_id"])
    assert len(both) == len(before)
    assert np.allclose(both["score"], both["score_right"], atol=1e-6)
    assert len(api.evaluate("run").rows) == 1


def test_new_items_are_exported_with_the_others(place: Path) -> None:
    fitted("items.use=text")
    add("run", "new.csv", say=print)
    recommender = Recommender.load("run")
    export("run", "out", say=print)
    items, users = (pl.read_parquet(place / "out" / f"{name}.parquet") for name in ("items", "users"))
    assert items["item_id"].to_list() == recommender.item_ids.to_list()
    query = users.filter(pl.col("user_id") == "ü-0")["vector"].to_numpy()[0]
    vector = items.filter(pl.col("item_id") == "new 1")["vector"].to_numpy()[0]
    assert float(query @ vector) == pytest.approx(recommender.score(["ü-0"], ["new 1"])["score"][0], abs=1e-5)


def test_an_item_added_with_the_text_of_another_is_that_one_without_its_id(place: Path) -> None:
    model = fitted("items.use=text", "items.whiten=true")
    rows = pl.read_csv("items.csv").filter(pl.col("item_id") == "чай 7")
    rows.with_columns(item_id=pl.lit("twin")).write_csv("twin.csv")
    add("run", "twin.csv", say=print)
    number = 1 + int(model.item_ids.index_of("чай 7") or 0)
    vectors = Recommender.load("run").model.vectors()
    assert np.allclose(vectors[-1].detach(), vectors[number].detach(), atol=1e-3)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_trained_text_model_reads_them_as_it_was_trained_to(place: Path, kind: str) -> None:
    keys = [f"items.train={kind}", "items.use=text", "training.learning_rate=0.05"]
    model = fitted(*keys)
    rows = pl.read_csv("items.csv").filter(pl.col("item_id") == "чай 7")
    rows.with_columns(item_id=pl.lit("twin")).write_csv("twin.csv")
    add("run", "twin.csv", say=print)
    number = 1 + int(model.item_ids.index_of("чай 7") or 0)
    texts: Any = Recommender.load("run").model.state_dict()["items.texts"]
    assert np.allclose(texts[-1], texts[number], atol=1e-5)
    assert not np.allclose(texts[-1], texts[number + 1], atol=1e-2)


def test_added_twice_they_are_there_once(place: Path) -> None:
    fitted()
    add("run", "new.csv", say=print, root=place / VECTORS)
    with pytest.raises(UserError, match=r"new.csv: no new item with a text \(0 added, 3 in the run already, 1 without"):
        add("run", "new.csv", say=print)


def test_a_store_that_was_made_before_stays_valid(place: Path) -> None:
    fitted()
    with Recommender.load("run", store="store") as before:
        before.compress()
        old = before.recommend(["ü-0"], 20)
    add("run", "new.csv", say=print)
    with Recommender.load("run", store="store") as after:
        new = after.recommend(["ü-0"], 22)
        time = int(pl.read_csv("log.csv")["timestamp"].max() or 0) + 1  # type: ignore[arg-type]
        after.update(pl.DataFrame({"user_id": ["ü-0"], "item_id": ["new 1"], "timestamp": [time]}))
        assert "new 1" not in after.recommend(["ü-0"], 20)["item_id"]
    both = old.join(new, on=["user_id", "item_id"])
    assert np.allclose(both["score"], both["score_right"], atol=1e-6)


def _copies(place: Path) -> tuple[Path, Path]:
    """Copies of a run, with a store that was updated through the first one, to which an item had been added."""
    fitted()
    for name in ("one", "other"):
        shutil.copytree(place / "run", place / name)
    with Recommender.load("one", store="store") as made:
        made.compress()
    pl.DataFrame({"item_id": ["new 1"], "title": ["red lamp"]}).write_csv("one.csv")
    add("one", "one.csv", say=print)
    return place / "one", place / "other"


def _of_new_item(name: str = "new 1") -> pl.DataFrame:
    time = int(pl.read_csv("log.csv")["timestamp"].max() or 0) + 1  # type: ignore[arg-type]
    return pl.DataFrame({"user_id": ["ü-0"], "item_id": [name], "timestamp": [time]})


def test_a_store_with_added_items_is_refused_by_a_copy_of_the_run_that_lacks_them_or_has_others(place: Path) -> None:
    one, other = _copies(place)
    with Recommender.load(one, store="store") as writing:
        writing.update(_of_new_item())
    refused = "store store: was written by a run into which `items add` had put 1 items, and this one has"
    with Recommender.load(other, store="store") as reading, pytest.raises(StoreError, match=f"{refused} 0 such items;"):
        reading.recommend(["ü-0"], 5)
    pl.DataFrame({"item_id": ["new 2"], "title": ["cup"]}).write_csv("two.csv")
    add(other, "two.csv", say=print)
    with Recommender.load(other, store="store") as reading:
        with pytest.raises(StoreError, match=f"{refused} 1 such items, and others at the same places"):
            reading.recommend(["ü-0"], 5)
        with pytest.raises(StoreError, match=refused):
            reading.update(_of_new_item("new 2"))
    add(one, "two.csv", say=print)
    with Recommender.load(one, store="store") as reading:  # has what the store may hold, and one more
        assert "new 1" not in reading.recommend(["ü-0"], 31)["item_id"].to_list()


def test_a_reader_that_was_loaded_before_items_were_added_says_so_when_a_record_may_hold_them(place: Path) -> None:
    one, other = _copies(place)
    with Recommender.load(other, store="store") as reading:
        before = reading.recommend(["ü-0"], 5)
        _of_new_item().write_csv("event.csv")
        for words in (["update", one, "--store", "store", "event.csv"], ["store", "compact", "store"]):
            subprocess.run([sys.executable, "-m", "persrec", *words], check=True)
        with pytest.raises(StoreError, match="load it again where it is loaded already"):
            reading.recommend(["ü-0"], 5)
        with pytest.raises(StoreError, match="load it again where it is loaded already"):
            reading.recommend(k=5)
    assert len(before) == 5


def test_events_of_items_that_were_added_later_can_be_given_again(place: Path) -> None:
    _, other = _copies(place)
    said: list[str] = []
    _of_new_item().write_csv("event.csv")
    with Recommender.load(other, store="store") as before:
        assert before.update("event.csv", say=said.append).unknown_items == 1
    assert said[-2:] == [
        "1 of 1 events are of items that the run does not know; they are left out",
        "update: `items add` puts such items in; give these events again then, in a file of their own",
    ]
    add(other, "one.csv", say=print)
    with Recommender.load(other, store="store") as after:
        assert after.update(pl.read_csv("event.csv")).applied == 1


def test_the_command_and_what_it_refuses(place: Path) -> None:
    fitted()
    assert CliRunner().invoke(command, ["add", "run", "new.csv"], catch_exceptions=False).exit_code == 0
    assert len(Recommender.load("run").item_ids) == 32
    api.fit("texts.yaml", ["items.use=id"], out="plain", progress=False)
    with pytest.raises(
        UserError, match=r"its items are known by their events alone \(items.use is id\); to add items, fit"
    ):
        add("plain", "new.csv", say=print)


@pytest.mark.parametrize(
    "how", [[], ["items.train=lora", "loss={kind: info_nce, sampler: mixed}", "items.pooling=token"]]
)
def test_another_text_model_in_the_place_of_the_runs_is_refused(place: Path, how: list[str]) -> None:
    fitted("items.use=text", *how)
    saved_model(place / "model", seed=5)
    with pytest.raises(
        UserError, match=r"items.encoder model: got the fingerprint \w{16}, expected \w{16}, that of the"
    ):
        add("run", "new.csv", say=print)
    with pytest.raises(UserError, match="--from run: its texts were read by another text model than that of"):
        api.fit("texts.yaml", ["items.use=text", *how], out="grown", progress=False, start="run")


def grown() -> None:
    """The log and the table of items with one item more, which everybody has first."""
    rows = pl.read_csv("items.csv")
    pl.concat([rows, rows.tail(1).with_columns(item_id=pl.lit("more"))]).write_csv("items.csv")
    log = pl.read_csv("log.csv")
    first = log.unique("user_id", keep="first").with_columns(pl.col("timestamp") - 1, item_id=pl.lit("more"))
    pl.concat([log, first]).write_csv("log.csv")


def test_a_grown_table_starts_from_a_run_with_texts(place: Path) -> None:
    fitted("items.use=text")
    grown()
    api.fit("texts.yaml", ["items.use=text"], out="grown", progress=False, start="run")
    assert Recommender.load("grown").model.items.fitted == 31


def test_a_grown_table_is_whitened_as_that_of_the_run_that_it_starts_from(place: Path) -> None:
    keys = ["items.use=text", "items.whiten=true"]
    before = fitted(*keys)
    grown()
    api.fit("texts.yaml", keys, out="grown", progress=False, start="run")
    after = Recommender.load("grown")
    assert torch.equal(after.model.items.whitening, before.model.items.whitening)
    places = [1 + int(after.item_ids.index_of(item) or 0) for item in before.item_ids]
    assert torch.equal(after.model.items.texts[places], before.model.items.texts[1:])
    api.fit("texts.yaml", keys, out="alone", progress=False)
    assert not torch.equal(Recommender.load("alone").model.items.whitening, before.model.items.whitening)


def test_texts_that_are_whitened_start_from_no_run_whose_are_not(place: Path) -> None:
    fitted("items.use=text")
    with pytest.raises(UserError, match=r"--from run: 1 weights .*items.whitening: none there, .* here.*items.whiten,"):
        api.fit("texts.yaml", ["items.use=text", "items.whiten=true"], out="grown", progress=False, start="run")


@pytest.mark.parametrize(
    ("before", "now", "fault"),
    [
        (["train=lora"], ["train=frozen"], "items.train frozen, expected lora"),
        (["train=full"], ["train=lora"], "items.train lora, expected full"),
        (["train=lora"], ["train=lora", "lora_rank=4"], "items.lora_rank 4, expected 8"),
        (["train=lora", "pooling=token"], ["train=lora"], "items.pooling mean, expected token"),
        (["pooling=last"], ["train=full"], "items.pooling mean, expected last"),
        ([], ["train=lora"], None),
    ],
)
def test_a_text_model_goes_on_as_it_was_trained(
    place: Path, before: list[str], now: list[str], fault: str | None
) -> None:
    keys = ["items.use=text", "loss.kind=info_nce"]
    fitted(*keys, *(f"items.{key}" for key in before))
    keys += [f"items.{key}" for key in now]
    if fault is None:
        api.fit("texts.yaml", keys, out="again", progress=False, start="run")
        return
    with pytest.raises(UserError, match=f"--from run: got {fault}, as the run has it"):
        api.fit("texts.yaml", keys, out="again", progress=False, start="run")


def test_ids_of_another_kind(place: Path) -> None:
    log = pl.read_csv("log.csv").with_columns(pl.col("item_id").str.extract(r"(\d+)$"))
    log.write_csv("log.csv")
    table = pl.read_csv("items.csv").with_columns(pl.col("item_id").str.extract(r"(\d+)$")).drop_nulls("item_id")
    table.write_csv("items.csv")
    fitted()
    with pytest.raises(
        UserError, match="item_id 'new 1' is no whole number, and those of the run are, such as 0; give"
    ):
        add("run", "new.csv", say=print)
    pl.DataFrame({"item_id": ["7007", "07007"], "title": ["red lamp", "blue cup"]}).write_csv("zeros.csv")
    with pytest.raises(UserError, match="item_id '07007' is no whole number, and those of the run are, such as 0;"):
        add("run", "zeros.csv", say=print)
