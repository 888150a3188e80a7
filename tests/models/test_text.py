"""Text models as encoders: batches, poolings against a slow twin, cuts, and models of every family.

The tiny models are made by `tests.items.models`, saved, and loaded as real ones are.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from tokenizers.processors import TemplateProcessing

from persrec.errors import UserError
from persrec.models import pretrained
from persrec.models.text import TextEncoder, limit_of, packed, padded_tokens, tokenize, with_adapters
from tests.items.models import KINDS, saved_model

TEXTS = ["red lamp", "small blue chair . large table", "cup", "чай , ü", "spoon spoon spoon"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 200))
def test_batches_hold_every_text_once_and_little_padding(lengths: list[int], budget: int) -> None:
    sizes = torch.tensor(lengths)
    batches = list(packed(sizes, budget))
    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * int(sizes[batch].max())
        assert padded <= budget or len(batch) == 1
        assert int(sizes[batch].sum()) >= 0.9 * padded
    assert sum(lengths) >= 0.9 * padded_tokens(sizes, budget)


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = saved_model(tmp_path_factory.mktemp("model"), request.param)
    return pretrained.load(str(folder))


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "token"])
def test_vectors_are_those_of_each_text_alone(loaded: tuple[Any, Any], pooling: str) -> None:
    model, tokenizer = loaded
    tokens = tokenize(TEXTS, tokenizer, limit_of(model, tokenizer, 32, pooling))
    encoder = TextEncoder(model, pooling=pooling, batch_tokens=8).eval()
    found = encoder(tokens, torch.tensor([3, 0, 1, 2, 4]))
    for text, vector in zip([TEXTS[3], *TEXTS[:3], TEXTS[4]], found, strict=True):
        rows = model.get_input_embeddings()(torch.tensor(tokenizer(text)["input_ids"]))
        rows = rows if encoder.token is None else torch.cat([rows, encoder.token[None]])
        hidden = model(inputs_embeds=rows[None]).last_hidden_state[0]
        expected = {"mean": hidden.mean(dim=0), "first": hidden[0]}.get(pooling, hidden[-1])
        assert torch.allclose(vector, expected, atol=1e-5)


def test_a_limit_that_leaves_nothing_of_a_text(tmp_path: Path) -> None:
    model, tokenizer = pretrained.load(str(saved_model(tmp_path)))
    around = TemplateProcessing(single="[C] $A [S]", special_tokens=[("[C]", 1), ("[S]", 2)])
    tokenizer.backend_tokenizer.post_processor = around
    assert limit_of(model, tokenizer, 3, "mean") == 3
    with pytest.raises(UserError, match=r"items.max_tokens: got 2, expected more than the 2 tokens that the tokenizer"):
        limit_of(model, tokenizer, 2, "mean")


def test_the_end_of_a_long_text_is_cut_and_counted(tmp_path: Path) -> None:
    model, tokenizer = pretrained.load(str(saved_model(tmp_path, positions=4)))
    assert [limit_of(model, tokenizer, limit, "mean") for limit in (3, 4, 99)] == [3, 4, 4]
    assert limit_of(model, tokenizer, 99, "token") == 3
    tokens = tokenize(TEXTS, tokenizer, 4)
    assert tokens.cut.tolist() == [False, True, False, False, False]
    first_four = tokenizer("small blue chair .")["input_ids"]
    assert tokens.ids[tokens.offsets[1] : tokens.offsets[2]].tolist() == first_four


def test_a_text_without_any_token_is_one_of_padding(tmp_path: Path) -> None:
    model, tokenizer = pretrained.load(str(saved_model(tmp_path)))
    tokens = tokenize(["", "cup"], tokenizer, 8)
    assert tokens.lengths.tolist() == [1, 1]
    assert TextEncoder(model, pooling="mean", batch_tokens=8)(tokens, torch.arange(2)).isfinite().all()


def test_no_texts_have_no_vectors(tmp_path: Path) -> None:
    model, tokenizer = pretrained.load(str(saved_model(tmp_path)))
    encoder = TextEncoder(model, pooling="mean", batch_tokens=8)
    assert encoder(tokenize(TEXTS, tokenizer, 8), torch.arange(0)).shape == (0, 16)


class Full(torch.nn.Module):
    """A model that does not fit."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config, self.get_input_embeddings = model.config, model.get_input_embeddings

    def forward(self, **given: Any) -> Any:
        torch.empty(1 << 60)


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    model, tokenizer = pretrained.load(str(saved_model(tmp_path)))
    encoder = TextEncoder(Full(model), pooling="mean", batch_tokens=8)
    message = (
        "out of memory while encoding texts .* items.batch_tokens 8 and items of up to 6 tokens: lower items.batch"
    )
    with pytest.raises(UserError, match=message), torch.no_grad():
        encoder(tokenize(TEXTS, tokenizer, 8), torch.arange(5))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(kind: str, tmp_path: Path) -> None:
    model, tokenizer = pretrained.load(str(saved_model(tmp_path, kind)))
    tokens = tokenize(TEXTS, tokenizer, 8)
    before = TextEncoder(model, pooling="mean", batch_tokens=64).eval()(tokens, torch.arange(5))
    encoder = TextEncoder(with_adapters(model, 4), pooling="mean", batch_tokens=64).eval()
    found = encoder(tokens, torch.arange(5))
    assert torch.allclose(found, before, atol=1e-6)
    found.square().sum().backward()
    names = {name for name, value in encoder.named_parameters() if value.grad is not None}
    assert names
    assert all("lora" in name for name in names)
