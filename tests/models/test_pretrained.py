"""Folders of text models: what is accepted, and what every other gets told."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch

from persrec.errors import UserError
from persrec.items.encode import encode
from persrec.items.load import live_encoder
from persrec.models import pretrained
from persrec.recipe.sections import Items
from tests.items.models import saved_model, saved_with_code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved_model(tmp_path / "model")


def refused(folder: Path | str, message: str, **options: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrained.load(str(folder), **options)


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_that_is_missing_or_incomplete(folder: Path) -> None:
    text = "items.encoder: .*other is no folder .*; expected that of a text model, or a name on the hub with its organ"
    refused(folder.parent / "other", text)
    (folder / "tokenizer.json").rename(folder / "away")
    refused(folder, "is incomplete: none of tokenizer.json, .*; save the tokenizer beside the model")
    (folder / "away").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(
        folder, r"is incomplete: no model.safetensors; its weights are pickled \(pytorch_model.bin\), and no pickle is"
    )
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "is incomplete: no model.safetensors; copy the whole folder again")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x-1", "b": "x-2"}}')
    (folder / "x-1").touch()
    refused(folder, "is incomplete: no x-2; copy the whole folder again")
    (folder / "model.safetensors.index.json").write_text("{")
    refused(folder, "is damaged .*; copy it again")
    (folder / "config.json").unlink()
    refused(folder, "has no config.json; expected the folder of a text model, as saved by save_pretrained")


def test_kinds_that_cannot_be_used(folder: Path) -> None:
    change(folder, model_type="t9")
    refused(folder, "cannot be loaded as a text model of kind 't9': .*; expected an encoder .BERT family.")


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    import transformers

    folder = saved_model(tmp_path / "model")
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(folder)
    refused(folder, r"got an encoder-decoder \(t5\), expected an encoder or a decoder")


def test_code_of_a_model_is_not_run_unasked(folder: Path) -> None:
    change(folder, auto_map={"AutoModel": "modeling.Model"}, model_type="of-its-own")
    (folder / "modeling.py").write_text(f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n1 / 0\n")
    message = (
        f"comes with code of its own, which is not run unasked; read modeling.py in {folder}, and what is imported "
        f"there, then set items.remote_code: {folder}"
    )
    refused(folder, message)
    refused(folder, message, remote_code="another")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("named", [["tokenization.Own", None], {"AutoTokenizer": ["tokenization.Own", None]}])
def test_code_of_a_tokenizer_is_not_run_unasked(folder: Path, named: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": named}))
    refused(folder, "is incomplete: no tokenization.py, code that it asks for; copy the whole folder again")
    (folder / "tokenization.py").write_text("1 / 0\n")
    refused(folder, "comes with code of its own, which is not run unasked; read tokenization.py in ")


def test_code_that_is_not_in_the_folder(folder: Path) -> None:
    change(folder, auto_map={"AutoModel": "some/other--modeling.Model"})
    message = (
        r"asks for code of another repository \(some/other\), expected its own; put modeling.py and what it imports "
        "from there into the folder, and remove some/other-- from auto_map in config.json and tokenizer_config.json"
    )
    refused(folder, message, remote_code=str(folder))


@pytest.fixture(scope="module", autouse=True)
def code_is_copied_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers keeps the code that it runs."""
    place = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", place)
        patch.syspath_prepend(place)
        yield


def read_by_code(name: str, cache: Path) -> list[float]:
    """The vector of a text of one word, by the model with code of its own that may be run."""
    section = Items(encoder=name, remote_code=name, dtype="float32")
    (vector,) = encode(["green"], section, cache, say=lambda text: None).vectors
    return vector.tolist()


GREEN = [2.0 * number for number in range(3 * 8, 4 * 8)]  # the fourth row of the table, twice


def test_code_of_a_model_that_may_be_run(tmp_path: Path) -> None:
    folder, other = (saved_with_code(tmp_path / name) for name in ("model", "other"))
    assert pretrained.fingerprint(folder) == pretrained.fingerprint(other)
    assert read_by_code(str(folder), tmp_path) == GREEN
    code = other / "modeling_bag.py"
    code.write_text(code.read_text().replace("2 * self", "4 * self"))
    assert read_by_code(str(other), tmp_path) == [2 * value for value in GREEN], "other code, other vectors"


def test_code_of_a_model_that_fails(tmp_path: Path) -> None:
    folder = saved_with_code(tmp_path / "failing")
    with (folder / "modeling_bag.py").open("a") as code:
        code.write("1 / 0\n")
    message = (
        r"of kind 'bag': division by zero; expected .*, or code of its own that works with it \(ZeroDivisionError\)"
    )
    refused(folder, message, remote_code=str(folder))


@pytest.mark.parametrize(("train", "reason"), [("full", "BagModel does not support .*"), ("lora", "No `target.*")])
def test_code_of_a_model_that_cannot_be_trained(tmp_path: Path, train: str, reason: str) -> None:
    name = str(saved_with_code(tmp_path / "model"))
    message = rf"items.train: got {train}, but .*model cannot be trained in that way \({reason}\); expected frozen"
    with pytest.raises(UserError, match=message):
        live_encoder(Items(encoder=name, remote_code=name, train=train), ["green"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the hub's local cache, on a machine without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def fetched(hub: Path, name: str, folder: Path) -> Path:
    """The snapshot of a model that stands in the cache as if it had been fetched: links to the files' contents."""
    place = hub / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / ("0123456789" * 4)
    for part in (place / "blobs", place / "refs", snapshot):
        part.mkdir(parents=True)
    (place / "refs" / "main").write_text(snapshot.name)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, place / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


WITHOUT_A_NETWORK = (
    "items.encoder: some/model is neither a folder nor, as a whole, in the hub's local cache, and cannot be fetched .*"
    "`hf download some/model --local-dir FOLDER`, copy FOLDER .*, code included.* here, and set items.encoder to its"
)


def test_a_name_without_a_network_says_what_to_put_where(hub: Path) -> None:
    refused("some/model", WITHOUT_A_NETWORK)
    refused("some/model", WITHOUT_A_NETWORK, remote_code="some/model")
    refused("models/bge--small", "items.encoder: models/bge--small is neither a folder nor")  # no name of the hub's


def test_a_name_that_is_in_the_hubs_local_cache(hub: Path, folder: Path) -> None:
    fetched(hub, "some/model", folder)
    found, own = pretrained.load("some/model")[0].state_dict(), pretrained.load(str(folder))[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in own.items())


def test_a_name_whose_code_may_be_run(hub: Path, tmp_path: Path) -> None:
    snapshot = fetched(hub, "some/model", saved_with_code(tmp_path / "model"))
    refused(
        "some/model",
        f"run unasked; read configuration_bag.py, modeling_bag.py in {snapshot}, .* set items.remote_code: some",
    )
    assert read_by_code("some/model", tmp_path) == GREEN


def test_a_name_whose_code_has_not_been_fetched(hub: Path, tmp_path: Path) -> None:
    snapshot = fetched(hub, "some/model", saved_with_code(tmp_path / "model"))
    (snapshot / "modeling_bag.py").unlink()
    refused("some/model", WITHOUT_A_NETWORK, remote_code="some/model")


def test_a_folder_of_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved_model(tmp_path / "carrier" / "inside")
    (tmp_path / "carrier" / "__init__.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert pretrained.locate("package:carrier/inside") == tmp_path / "carrier" / "inside"
    refused("package:carrier/other", "the package carrier has no folder 'other'")
    refused(
        "package:no_such_thing/x", "no package no_such_thing is installed; pip install no-such-thing, or give a folder"
    )


def test_the_fingerprint_is_of_what_a_model_computes_with(folder: Path) -> None:
    before = pretrained.fingerprint(folder)
    (folder / "README.md").write_text("hello")
    copied = shutil.copytree(folder, folder.parent / "copy")
    assert pretrained.fingerprint(copied) == before
    change(folder, hidden_act="relu")
    assert pretrained.fingerprint(folder) != before
