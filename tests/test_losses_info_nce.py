"""InfoNCE: values worked by hand, and which negatives count."""

import math

import pytest
import torch

from persrec.losses import info_nce, sampled_softmax

E1, E2, E3 = torch.eye(3)


def loss(negative: torch.Tensor, negatives: list[int], **options: float) -> float:
    """Of one row whose query is 2 * E1, whose target is item 1 with vector E1, weight 3."""
    found = info_nce(
        2 * E1[None], E1[None], negative, torch.tensor([1]), torch.tensor(negatives), torch.tensor([3.0]), **options
    )
    return float(found)


def test_against_two_others() -> None:
    expected = 3 * (math.log(math.exp(2) + 1 + math.exp(2 * 0.6)) - 2)
    assert loss(torch.stack([E2, 0.6 * E1 + 0.8 * E3]), [2, 3]) == pytest.approx(expected)


def test_the_target_itself_and_what_looks_like_it_are_no_negatives() -> None:
    almost = 5 * (E1 + 0.1 * E2)  # cosine 0.995
    expected = 3 * (math.log(math.exp(2) + 1) - 2)
    assert loss(torch.stack([E2, E3]), [2, 1]) == pytest.approx(expected)
    assert loss(torch.stack([E2, almost]), [2, 3]) == pytest.approx(expected)
    assert loss(torch.stack([E2, almost]), [2, 3], same=0.999) > 10
    assert loss(torch.stack([E3]), [1]) == 0


def test_negatives_of_each_row_are_as_shared_ones() -> None:
    torch.manual_seed(0)
    queries, positive, negative = torch.randn(4, 3), torch.randn(4, 3), torch.randn(6, 3)
    target, negatives, weight = torch.arange(4), torch.arange(6), torch.rand(4)
    shared = info_nce(queries, positive, negative, target, negatives, weight)
    own = info_nce(queries, positive, negative, target, negatives.expand(4, 6), weight)
    assert torch.allclose(shared, own)
    plain = sampled_softmax(queries, positive, negative, target, negatives, weight)
    assert torch.allclose(info_nce(queries, positive, negative, target, negatives, weight, same=2.0), plain)
