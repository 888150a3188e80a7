"""Recipes with texts, from the raw log to recommendations: frozen, adapted and fully trained text models, all forms."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import numpy as np
import polars as pl
import torch

from persrec import Recommender, api, tuning
from persrec.errors import UserError
from persrec.items.load import catalogue_of, live_encoder
from persrec.prepared import open_prepared
from persrec.recipe.recipe import load
from persrec.recipe.sections import Items
from persrec.run import load as load_run
from tests.items.models import KINDS, WORDS, saved_model
from tests.items.places import made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return made(tmp_path)


def fitted(*overrides: str, out: str = "run") -> dict[str, Any]:
    """The state of a run, as numpy arrays."""
    api.fit("texts.yaml", overrides, out=out, progress=False)
    return {name: value.float().numpy() for name, value in load_run(out).weights().items()}


@pytest.mark.parametrize(("name", "said"), [("movies.dat", "movies.dat, read as Latin-1: 1 "), ("a.dat", "a.dat: 1 ")])
def test_which_encoding_a_table_was_read_in_is_said(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes("1::Amélie::x\n".encode("latin-1" if name == "movies.dat" else "utf-8"))
    heard: list[str] = []
    section = Items(path=str(tmp_path / name), columns={} if name == "movies.dat" else {"item_id": "1", "title": "2"})
    assert catalogue_of(section, pl.Series(["1"]), heard.append).texts == ["Amélie"]
    assert said in heard[0]


@pytest.mark.parametrize("history", ["full", "recent", "compressed"])
@pytest.mark.parametrize("use", ["text", "id+text"])
def test_a_run_recommends_without_its_text_model(place: Path, history: str, use: str) -> None:
    weights = fitted(f"history={history}", f"items.use={use}", "items.whiten=true")
    assert weights["items.texts"].shape == (31, 16)
    assert weights["items.texts"].any(axis=1).tolist() == [False, False, *[True] * 28, False]
    assert ("items.ids" in weights) == (use == "id+text")
    recommender = Recommender.load("run")
    if use == "text":
        with pytest.raises(UserError, match="similar: 1 of 2 items have no text, and so nothing by which others are"):
            recommender.similar(recommender.item_ids[:2], 2)
    (place / "model").rename(place / "away")
    (place / "items.csv").unlink()
    found = Recommender.load("run").recommend(["ü-0", "ü-1"], 3)
    assert found["rank"].to_list() == [1, 2, 3] * 2
    (again,) = api.evaluate("run").rows
    counts = json.loads((place / "run" / "metrics.json").read_text())["items"]
    assert again["metrics"]["ndcg@10"] == load_run("run").metrics["metrics"]["ndcg@10"]
    assert (counts["without a text"], counts["without a row in the items table"]) == (1, 1)


def test_a_learned_temperature_stops_at_its_bound_and_can_turn_back(place: Path) -> None:
    keys = ["items.use=id+text", "loss.kind=info_nce", "loss.sampler=mixed", "training.ema=null", "training.epochs=3"]
    scale = float(fitted(*keys, "model.temperature=0.0101", "training.learning_rate=0.5")["log_scale"])
    assert scale <= np.log(100) + 1e-6
    with pytest.raises(UserError, match=r"model.temperature.*got 0.005, expected 0.01 or more: info_nce learns it"):
        fitted(*keys, "model.temperature=0.005")
    model = Recommender.load("run").model
    assert model.log_scale is not None
    for given, moves in ((np.log(200), False), (np.log(100), True)):  # beyond the bound there is no gradient
        model.log_scale.data.fill_(given)
        if moves:
            model.bound_temperature()
        (slope,) = torch.autograd.grad(torch.as_tensor(model.temperature), model.log_scale)
        assert bool(slope != 0) == moves
    model.log_scale.data.fill_(np.log(200))
    model.bound_temperature()
    assert model.fixed_temperature == pytest.approx(0.01)


@pytest.mark.parametrize(("kind", "usual"), [("lora", 2e-4), ("full", 2e-5)])
def test_a_text_model_has_a_learning_rate_of_its_own(place: Path, kind: str, usual: float) -> None:
    """A step of Adam moves a weight by about its rate, so that the rate of fresh weights would undo a text model."""
    keys = [f"items.train={kind}", "loss.kind=info_nce", "loss.sampler=mixed", "training.ema=null"]
    keys += ["training.learning_rate=0.05", "training.weight_decay=0", "training.epochs=1"]
    still, alone, given = (
        fitted(*keys, *more, out=out)
        for out, more in (("a", ["items.learning_rate=1e-12"]), ("b", []), ("c", ["items.learning_rate=0.05"]))
    )
    names = [name for name in still if name.startswith("items.encoder.model.")]
    again = fitted(*keys, "items.learning_rate=1e-12", out="again")
    assert all(np.array_equal(again[name], still[name]) for name in still), "seeded, adapters and all"
    moved = [max(np.abs(run[name] - still[name]).max() for name in names) for run in (alone, given)]
    assert 0.1 * usual < moved[0] < 100 * usual
    assert moved[1] > 0.01
    assert np.abs(alone["items.project.weight"] - still["items.project.weight"]).max() < 0.05  # which is trained alike


def test_a_sweep_leaves_a_text_model_its_own_learning_rate(place: Path) -> None:
    keys = ["items.train=lora", "items.use=text", "loss.kind=info_nce", "loss.sampler=mixed", "history=full"]
    found = []
    for rate in (1e-12, 0.3):
        (cell,) = load("texts.yaml", [*keys, f"items.learning_rate={rate}"]).grid()
        data = open_prepared(api.prepare(cell), cell.split.name)
        found.append(tuning.sweep(cell, data, low=1e-5, high=1e-4, steps=6).losses)
    assert found[0][0] == found[1][0]
    assert found[0][-1] > found[1][-1] + 1e-3, "a text model that stays as it is learns less"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_text_model_that_was_trained_stays_in_the_run_as_far_as_it_was(place: Path, kind: str) -> None:
    keys = [f"items.train={kind}", "items.pooling=token", "loss.kind=info_nce", "loss.sampler=mixed"]
    weights = fitted(*keys, "training.learning_rate=0.05", "training.epochs=2", "training.ema=0.5")
    names = [name for name in weights if name.startswith("items.encoder.")]
    assert "items.encoder.token" in names
    assert all("lora" in name for name in names if name != "items.encoder.token") == (kind == "lora")
    assert weights["items.texts"].any(axis=1).tolist() == [False, False, *[True] * 28, False]
    assert weights["log_scale"] != pytest.approx(-np.log(0.05), abs=1e-6)
    (place / "model").rename(place / "away")
    assert len(Recommender.load("run").recommend(["ü-0"], 3)) == 3
    before = load_run("run").metrics["metrics"]["ndcg@10"]
    assert api.evaluate("run").rows[0]["metrics"]["ndcg@10"] == before


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", KINDS)
def test_layers_of_a_trained_text_model_are_computed_again_for_the_same_gradient(
    place: Path, family: str, kind: str
) -> None:
    """With dropout: in the backward pass a layer leaves out what it has left out before. Then as a copy that another
    process is given."""
    dropout = "hidden_dropout_prob" if family == "bert" else "attention_dropout"
    saved_model(place / family, family, **{dropout: 0.2})
    section = load("texts.yaml", [f"items.train={kind}", "items.use=text", f"items.encoder={family}"]).items
    made, tokens = live_encoder(section, ["red lamp", "blue cup", "lamp red"])  # one batch
    encoder = pickle.loads(pickle.dumps(made))
    computed: list[int] = []
    layers = encoder.model.encoder.layer if family == "bert" else encoder.model.layers
    for number, layer in enumerate(layers):
        inner = layer.intermediate.dense if family == "bert" else layer.mlp.gate_proj
        inner.register_forward_hook(lambda *given, number=number: computed.append(number))

    def gradients() -> dict[str, torch.Tensor]:
        computed.clear()
        encoder.zero_grad()
        torch.manual_seed(0)
        encoder(tokens, torch.arange(3)).square().sum().backward()
        return {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}

    again = gradients()
    assert computed == [0, 1, 1, 0]
    encoder.model.activation_checkpointing_disable()
    kept = gradients()
    assert computed == [0, 1]
    assert any(value.any() for value in kept.values())
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


@pytest.mark.parametrize("kind", ["sasrec", "ligr"])
def test_softmax_layers_learn_from_texts(place: Path, kind: str) -> None:
    """Users read either red or blue items at random; to know which is all that there is to learn."""
    words = WORDS[3:13]
    titles = {f"{sort} {n}": f"{sort} {words[n]} {words[n - 3]}" for sort in ("red", "blue") for n in range(10)}
    pl.DataFrame({"item_id": list(titles), "title": list(titles.values())}).write_csv("items.csv")
    chosen = np.random.default_rng(0).integers(0, 10, (40, 20))
    user, item = np.repeat(np.arange(40), 20), [f"{('red', 'blue')[u % 2]} {n}" for u in range(40) for n in chosen[u]]
    pl.DataFrame({"user_id": user, "item_id": item, "timestamp": np.arange(800)}).write_csv("log.csv")
    keys = [f"model.kind={kind}", "model.width=16", "model.dropout=0", "model.temperature=0.2", "items.whiten=true"]
    keys += ["loss={kind: full}", "training.learning_rate=0.02", "training.batch_events=300", "training.ema=null"]
    fitted(*keys, "items.use=text", "training.epochs=5", "evaluation.exclude_seen=false")
    epochs = pl.read_csv("run/training.csv")["train_loss"].drop_nulls()
    assert len(epochs) == 5
    assert epochs[-1] < 2.5 < epochs[0], "ln 20 of all items is 3.0, ln 10 of those of a sort 2.3"
    asked = pl.DataFrame(
        {"user_id": ["one", "other"] * 12, "item_id": ["red 1", "blue 1"] * 12, "timestamp": range(24)}
    )
    found = Recommender.load("run").recommend(histories=asked, k=10)
    assert set(found["user_id"] + ": " + found["item_id"].str.head(3)) == {"one: red", "other: blu"}


def test_the_same_fit_again_gives_the_same_weights(place: Path) -> None:
    whole = fitted("training.epochs=2", "items.id_dropout=0.5", out="whole")
    again = fitted("training.epochs=2", "items.id_dropout=0.5", out="again")
    assert all(np.array_equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("memory", ["layered", "recurrent"])
def test_a_decoder_reads_texts_and_memories(place: Path, memory: str) -> None:
    weights = fitted("model.kind=decoder", f"memory.kind={memory}", "items.use=text")
    assert "backbone.decoder.layers.1.self_attn.q_proj.weight" in weights
    assert not any("embed_tokens" in name for name in weights)
    assert len(Recommender.load("run").recommend(["ü-0"], 3)) == 3


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_decoders_are_trained_together(place: Path, kind: str) -> None:
    """HLLM's own form: one reads texts into a token that it learns, one reads users on their memories."""
    saved_model(place / "llama", "llama")
    keys = ["items.encoder=llama", f"items.train={kind}", "items.pooling=token", "items.use=text", "model.kind=decoder"]
    keys += ["loss.kind=info_nce", "loss.sampler=mixed", "training.learning_rate=0.01", "training.ema=null"]
    weights, still = (fitted(*keys, f"training.epochs={epochs}", out=f"run{epochs}") for epochs in (3, 1))
    for part in ("items.encoder.", "backbone.decoder.layers.1.", "compressor."):
        names = [name for name in weights if name.startswith(part)]
        assert names, part
        assert max(np.abs(weights[name] - still[name]).max() for name in names) > 1e-4, part
    assert len(Recommender.load("run3").recommend(["ü-0"], 3)) == 3
    before = load_run("run3").metrics["metrics"]["ndcg@10"]
    assert api.evaluate("run3").rows[0]["metrics"]["ndcg@10"] == before


def test_a_decoder_of_a_folder_brings_its_weights_and_a_run_keeps_its_own(place: Path) -> None:
    saved_model(place / "decoder", "llama")
    keys = ["model.kind=decoder", "model.decoder=decoder", "model.width=16", "training.learning_rate=1e-9"]
    weights = fitted(*keys, "items.use=text")
    from persrec.models import pretrained

    own = pretrained.load("decoder")[0].layers[0].mlp.up_proj.weight
    assert np.allclose(weights["backbone.decoder.layers.0.mlp.up_proj.weight"], own.detach(), atol=1e-6)
    (place / "decoder").rename(place / "away")
    assert len(Recommender.load("run").recommend(["ü-0"], 3)) == 3, "a run needs the folder no more"
    with pytest.raises(UserError, match=r"model\.decoder: decoder is no folder"):
        fitted(*keys, "items.use=text", out="another")
    (place / "away").rename(place / "decoder")
    saved_model(place / "decoder", "llama", seed=5)
    kept = Recommender.load("run").model.state_dict()["backbone.decoder.layers.0.mlp.up_proj.weight"]
    assert torch.equal(kept, load_run("run").weights()["backbone.decoder.layers.0.mlp.up_proj.weight"])
    with pytest.raises(UserError, match=r"model.width: got 8, expected 16, that of the decoder decoder"):
        fitted(*keys, "model.width=8", out="other")
    saved_model(place / "decoder", "bert")
    with pytest.raises(UserError, match=r"config.model_type: got 'bert', expected one of llama, mistral"):
        fitted(*keys, out="other")


@pytest.mark.parametrize(
    ("overrides", "faults"),
    [
        (
            ["items.path=null", "items.encoder=null"],
            [
                "items.encoder: got null, expected the folder of a text model, as items.use is id+text",
                "items.path: got null, expected the items table, as items.use is id+text",
            ],
        ),
        (
            ["items.pooling=token"],
            ["items.pooling: got token, expected mean, first or last: a token is learned, and items.train is frozen"],
        ),
        (
            ["items.train=lora", "items.precision=bfloat16", "loss.kind=info_nce"],
            ["items.precision: got bfloat16, expected float32, as items.train is lora; see training.precision"],
        ),
        (
            ["items.train=lora", "items.whiten=true", "loss.kind=full"],
            [
                "items.train: got lora with a loss that asks for all items, which would be read by the text model in "
                "every step; expected a loss.kind with negatives, with loss.per batch and without loss.full_from",
                "items.whiten: got true, expected false: whitened are vectors that stay, and items.train is lora",
            ],
        ),
        (["model.decoder=x"], ["model.decoder: is read with kind decoder, and that is hstu"]),
        (["model.kind=decoder", "time=last"], ["time: got last, expected none: a decoder reads no times"]),
    ],
)
def test_keys_that_do_not_go_together(place: Path, overrides: list[str], faults: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load("texts.yaml", overrides)
    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == faults


def test_without_the_extra_everything_but_texts_works(place: Path) -> None:
    code = (
        "import sys, lightning\n"  # whose torchmetrics imports transformers where it is installed
        "for name in ('transformers', 'tokenizers', 'peft', 'huggingface_hub'): sys.modules[name] = None\n"
        "from persrec import api\n"
        "api.fit('texts.yaml', ['items.use=id'], out='plain', progress=False)\n"
        "from persrec.errors import UserError\n"
        "for sets in (['items.use=text'], ['items.use=id', 'model.kind=decoder']):\n"
        "    try: api.fit('texts.yaml', sets, out='run', progress=False)\n"
        "    except UserError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    advice = "install persrec with its extra: pip install 'persrec[text]'"
    assert first == f"items.encoder: to load text models, {advice}"
    assert second == f"model.kind decoder: {advice}"
