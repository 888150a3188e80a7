"""Folders of text models: what is accepted, and what every other gets told."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from persrec.errors import UserError
from persrec.models import pretrained
from tests.items.models import saved_model


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
    refused(folder.parent / "other", "items.encoder: .*other is no folder .*; expected that of a text model")
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
    message = f"comes with code of its own, which is not run unasked; read it, then set items.remote_code: {folder}"
    refused(folder, message)
    refused(folder, message, remote_code="another")
    assert not (folder / "ran").exists()


def test_a_name_without_a_network_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = (
        "items.encoder: some/model is neither a folder nor in the hub's local cache, and cannot be fetched .*"
        "`hf download some/model --local-dir FOLDER`, copy FOLDER .* here, and set items.encoder to its path"
    )
    refused("some/model", message)


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
