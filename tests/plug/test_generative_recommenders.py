"""generative-recommenders where it is importable: limits and refusals; its promises are held in tests/contracts."""

import pytest

from persrec import plug
from persrec.errors import UserError
from tests.plug.hosts import RULE, jagged_stu, random_ids, research_hstu, stu_stack


def test_a_stack_needs_to_be_told_its_length() -> None:
    with pytest.raises(UserError, match=r"STUStack has no attribute `_hstu`.*attach JaggedSTU\(stack, length="):
        plug.attach(stu_stack(), **RULE)


def test_windows_are_refused() -> None:
    from persrec.plug.generative_recommenders import JaggedSTU

    with pytest.raises(UserError, match="STULayerConfig: got causal=True, max_attn_len=3"):
        JaggedSTU(stu_stack(max_attn_len=3), length=32)


def test_more_rows_than_its_length_are_refused() -> None:
    import torch

    model = jagged_stu()
    with pytest.raises(UserError, match=r"remembered ones included, do not fit: the host takes at most 32 \(length\)"):
        model(torch.randn(1, 120, 16), valid=torch.ones(1, 120, dtype=torch.bool))


def test_segments_longer_than_its_positions_are_refused() -> None:
    model = plug.attach(research_hstu(max_length=6), **RULE)
    with pytest.raises(UserError, match=r"after it, do not fit: the host takes at most 7 \(position embeddings\)"):
        model(random_ids())


def test_masks_after_the_softmax_are_refused() -> None:
    host = research_hstu()
    host._hstu._attention_layers[0]._normalization = "softmax_rel_bias"
    with pytest.raises(UserError, match='normalization: got "softmax_rel_bias"'):
        plug.attach(host, **RULE)
