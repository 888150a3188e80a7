"""Encoding texts once: resumed after a break, appended, answered from the cache; and what numbers are refused."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from tokenizers.processors import TemplateProcessing

from persrec.errors import UserError
from persrec.items import encode as encoding
from persrec.items.encode import Encoded, encode
from persrec.models import pretrained
from persrec.models.text import TextEncoder, tokenize
from persrec.recipe.sections import Items
from tests.items.models import WORDS, saved_model

TEXTS = [" ".join(WORDS[number : number + 1 + number % 5]) for number in range(10)]


def section(folder: Path, **keys: Any) -> Items:
    return Items(encoder=str(folder), **keys)


def encoded(texts: list[str], folder: Path, root: Path, **keys: Any) -> tuple[Encoded, list[str]]:
    said: list[str] = []
    return encode(texts, section(folder, **keys), root, say=said.append), said


def test_the_padding_that_is_told_is_that_of_the_batches_made(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    texts = [" ".join(WORDS[: 8 + number % 6]) for number in range(6)]
    given: list[torch.Tensor] = []

    def note(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == 2 + len(WORDS):  # not those of positions
            given.append(arguments[0])

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        found, _ = encoded(texts, folder, tmp_path, batch_tokens=40)
    finally:
        hook.remove()
    columns, padding = sum(ids.numel() for ids in given), sum(int((ids == 0).sum()) for ids in given)
    assert 0 < padding < 0.1 * columns
    assert found.counts["padding"] == pytest.approx(padding / columns)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_vectors_are_those_of_the_encoder_in_the_order_asked_for(tmp_path: Path, kind: str) -> None:
    folder = saved_model(tmp_path / "model", kind)
    found, said = encoded([*TEXTS, TEXTS[3]], folder, tmp_path, dtype="float32", max_tokens=3, pooling="last")
    model, tokenizer = pretrained.load(str(folder))
    encoder = TextEncoder(model, pooling="last", batch_tokens=64).eval()
    tokens = tokenize(TEXTS, tokenizer, 3)
    with torch.no_grad():
        expected = encoder(tokens, torch.arange(10)).numpy()
    assert np.allclose(found.vectors, [*expected, expected[3]], atol=1e-5)
    assert (found.counts["new texts"], found.counts["cut texts"]) == (10, 5)
    assert found.counts["padding"] < 0.1
    (sentence,) = said
    assert "10 texts encoded, " in sentence
    assert sentence.endswith("% padding; 4 of them were longer than 3 tokens and have lost their end.")


def test_a_second_time_they_come_from_the_cache_without_loading_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_model(tmp_path / "model")
    first, _ = encoded(TEXTS, folder, tmp_path)
    monkeypatch.delattr(pretrained, "load")
    started = time.monotonic()
    second, said = encoded(TEXTS[::-1], folder, tmp_path)
    assert time.monotonic() - started < 1
    assert np.array_equal(first.vectors[::-1], second.vectors)
    assert second.vectors.dtype == np.float16
    assert second.counts == {"new texts": 0, "cut texts": 0}
    assert said == []


def test_interrupted_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_model(tmp_path / "model")
    whole, _ = encoded(TEXTS, folder, tmp_path / "whole")
    monkeypatch.setattr(encoding, "CHUNK", 3)

    def interrupt(done: int, total: int) -> None:
        assert total == 10
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(TEXTS, section(folder), tmp_path / "cache", say=print, on_texts=interrupt)
    rest, _ = encoded(TEXTS, folder, tmp_path / "cache")
    assert rest.counts["new texts"] == 4
    assert np.allclose(rest.vectors, whole.vectors, atol=1e-3)


def test_new_texts_are_appended_and_another_encoder_has_its_own(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    encoded(TEXTS[:4], folder, tmp_path)
    assert encoded(TEXTS[:6], folder, tmp_path)[0].counts["new texts"] == 2
    other = saved_model(tmp_path / "other", seed=1)
    for keys in ({"pooling": "last"}, {"dtype": "float32"}, {"max_tokens": 9}, {"precision": "bfloat16"}):
        assert encoded(TEXTS[:6], folder, tmp_path, **keys)[0].counts["new texts"] == 6
    assert encoded(TEXTS[:6], other, tmp_path)[0].counts["new texts"] == 6
    assert encoded([], folder, tmp_path)[0].vectors.shape == (0, 16)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_half_the_precision_gives_nearly_the_same_vectors(tmp_path: Path, kind: str) -> None:
    folder = saved_model(tmp_path / "model", kind)
    whole, _ = encoded(TEXTS, folder, tmp_path)
    half, _ = encoded(TEXTS, folder, tmp_path, precision="bfloat16")
    assert not np.array_equal(half.vectors, whole.vectors)
    assert np.allclose(half.vectors, whole.vectors, atol=0.05)
    assert half.vectors.dtype == np.float16


def test_the_first_row_is_that_of_the_sign_before_each_text(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    with pytest.raises(UserError, match=r"items\.pooling: got first, but the tokenizer of .* puts no \[CLS\] before"):
        encoded(TEXTS, folder, tmp_path, pooling="first")
    _, tokenizer = pretrained.load(str(folder))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[UNK] $A", special_tokens=[("[UNK]", 1)])
    tokenizer.cls_token = "[UNK]"
    tokenizer.save_pretrained(folder)
    found, _ = encoded(TEXTS, folder, tmp_path, pooling="first", dtype="float32")
    model, tokenizer = pretrained.load(str(folder))
    for text, vector in zip(TEXTS, found.vectors, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        assert ids[0, 0] == tokenizer.cls_token_id
        assert np.allclose(vector, model(input_ids=ids).last_hidden_state[0, 0].detach().numpy(), atol=1e-5)


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model", "llama")
    model, _ = pretrained.load(str(folder))
    with torch.no_grad():
        model.norm.weight *= 1e6
    model.save_pretrained(folder)
    message = "gives numbers that are none or too large for float16 .for the text '.*; set items.dtype: float32"
    with pytest.raises(UserError, match=message):
        encoded(TEXTS, folder, tmp_path)
    assert np.isfinite(encoded(TEXTS, folder, tmp_path, dtype="float32")[0].vectors).all()


def test_a_model_without_a_width(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"config.json says no hidden_size; expected an encoder or a decoder"):
        encoded(TEXTS, folder, tmp_path)
