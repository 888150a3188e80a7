"""Decoders of Hugging Face: weights from disk, generation left alone, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from persrec import plug
from persrec.errors import UserError
from tests.plug.hosts import RULE, WIDTH, decoder, decoder_config, decoder_model, random_ids

transformers = pytest.importorskip("transformers", reason="transformers is in the hosts environment only")


def test_pretrained_weights_are_read_from_disk_and_saved_again(tmp_path: Path) -> None:
    """Another program's checkpoint, attached; the host saved by its own means; the compressor by a state dict."""
    decoder_model("LlamaForCausalLM").save_pretrained(tmp_path / "theirs")
    model = plug.attach(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs"), **RULE).eval()
    nn.init.normal_(model.compressor.tokens)
    ids = random_ids()
    memory = plug.compress(model, ids)
    model.host.save_pretrained(tmp_path / "ours")
    torch.save(model.compressor.state_dict(), tmp_path / "tokens.pt")
    again = plug.attach(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours"), **RULE).eval()
    again.compressor.load_state_dict(torch.load(tmp_path / "tokens.pt", weights_only=True))
    torch.testing.assert_close(plug.read(again, memory, *plug.since(memory, ids)), model(ids)[:, -1])


def test_the_host_still_generates_as_before() -> None:
    host = decoder_model("LlamaForCausalLM").eval()
    ids = torch.randint(1, 40, (1, 6))
    before = host.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)
    plug.check(plug.attach(host, **RULE), say=lambda line: None)
    after = host.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(before, after)


def test_item_zero_is_an_item_where_valid_says_so() -> None:
    model = decoder("LlamaModel").eval()
    ids = random_ids()
    valid = ids > 0
    other = torch.where(valid & (ids % 3 == 0), 0, ids)
    assert bool((other[valid] == 0).any())
    found = model(other, valid=valid)
    expected = model(model.host.embed_tokens(other), valid=valid)
    torch.testing.assert_close(found, expected)


def test_a_decoder_in_half_precision() -> None:
    model = decoder("LlamaModel").to(torch.bfloat16)
    ids = random_ids()
    memory = plug.compress(model, ids)
    assert memory.states.dtype == torch.bfloat16
    found = plug.read(model, memory, *plug.since(memory, ids))
    torch.testing.assert_close(found, model.eval()(ids)[:, -1], atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("MistralModel", {"sliding_window": 8}, "config.sliding_window: got 8; a window would hide the memory"),
        ("Qwen2Model", {"use_sliding_window": True, "sliding_window": 8}, "config.sliding_window: got 8; a window"),
        (
            "LlamaModel",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "got rope_type 'dynamic', whose rotations depend on the longest row of a batch",
        ),
    ],
)
def test_configurations_whose_rows_depend_on_length_are_refused(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plug.attach(decoder_model(kind, **changes), **RULE)


def test_a_correct_decoder_in_half_precision_is_found_correct() -> None:
    found = plug.check(decoder("LlamaModel").to(torch.bfloat16), say=lambda line: None)
    assert all(one.holds is not False for one in found), [one for one in found if one.holds is False]


def test_a_head_of_another_size_takes_the_place_of_the_old_one() -> None:
    model = plug.attach(decoder_model("LlamaForCausalLM"), **RULE)
    model.host.resize_token_embeddings(60)
    found = model(random_ids())
    assert found.shape[-1] == 60
    found.sum().backward()
    assert model.host.lm_head.weight.grad is not None


def test_nobody_is_read_as_nobody() -> None:
    model, ids = decoder("LlamaModel"), torch.zeros(0, 7, dtype=torch.long)
    (none,) = plug.since(plug.compress(model, ids), ids)[:1]
    assert len(none) == 0


def test_an_unknown_family_is_refused() -> None:
    config = transformers.GPT2Config(vocab_size=40, n_embd=WIDTH, n_layer=2, n_head=2)
    with pytest.raises(
        UserError, match=r"config.model_type: got 'gpt2', expected one of llama, .*installed: transform"
    ):
        plug.attach(transformers.GPT2Model(config), **RULE)


def test_an_attention_that_takes_no_mask_is_refused() -> None:
    host = decoder_model("LlamaModel")
    host.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UserError, match="got 'flash_attention_2', expected 'sdpa' or 'eager', which take a mask"):
        plug.attach(host, **RULE)


def test_a_span_beyond_the_context_names_the_cap() -> None:
    model = plug.attach(transformers.LlamaModel(decoder_config("Llama", max_position_embeddings=16)), **RULE).eval()
    with pytest.raises(UserError, match=r"19 positions, .*at most 16 \(max_position_embeddings\); .*`cap`"):
        model(torch.randint(1, 40, (1, 25)))
    capped = plug.attach(model.host, **RULE, cap=1)
    assert capped(torch.randint(1, 40, (1, 60))).shape == (1, 60, WIDTH)


def test_the_hosts_own_gradient_checkpointing_is_refused_while_training() -> None:
    model = decoder("LlamaModel").train()
    model.host.activation_checkpointing_enable()
    with pytest.raises(UserError, match=r"attach with checkpointed=True instead"):
        model(random_ids())
    model.host.activation_checkpointing_disable()
    model(random_ids()).sum().backward()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # which peft asks transformers for
def test_a_decoder_with_adapters_is_attached_and_its_wrapper_is_not() -> None:
    peft = pytest.importorskip("peft", reason="peft comes with the extra text")
    wrapped = peft.get_peft_model(
        decoder_model("LlamaForCausalLM"), peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    with pytest.raises(UserError, match=r"got PeftModel, a wrapper of PEFT, .*attach model\.get_base_model"):
        plug.attach(wrapped, **RULE)
    model = plug.attach(wrapped.get_base_model(), **RULE).train()
    model(random_ids()).sum().backward()
    adapters = [value for name, value in model.named_parameters() if "lora_" in name]
    assert adapters
    assert all(value.grad is not None and bool(value.grad.any()) for value in adapters)
