"""Negatives: the right range, shapes, shares and seeds, and how often an item is to be expected."""

import pytest
import torch

from persrec.negatives import Sampler, draw, expected, in_batch, popular, uniform

SAMPLERS = ("uniform", "popularity", "in-batch", "mixed")
COUNTS = torch.tensor([0, 6, 0, 3, 1])  # of items 1 to 4 as targets


def test_shapes() -> None:
    assert uniform(7, items=5).shape == (7,)
    assert uniform(7, items=5, rows=3).shape == (3, 7)


def test_every_item_is_drawn_alike_and_padding_never() -> None:
    torch.manual_seed(0)
    counts = uniform(50_000, items=5).bincount(minlength=7)
    assert counts[0] == 0
    assert counts[6] == 0
    assert int((counts[1:6] - 10_000).abs().max()) < 450  # 5 standard deviations


def test_rows_are_drawn_by_themselves() -> None:
    torch.manual_seed(0)
    first, second = uniform(64, items=1000, rows=2)
    assert not torch.equal(first, second)


def test_draws_come_from_the_seed_of_torch() -> None:
    def draw(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return uniform(10, items=100).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_catalogue_of_one_item() -> None:
    assert uniform(3, items=1).tolist() == [1, 1, 1]


def test_popular_items_are_drawn_by_their_counts_and_once_more() -> None:
    torch.manual_seed(0)
    drawn = popular(14_000, counts=COUNTS).bincount(minlength=5)
    assert drawn[0] == 0
    wanted = torch.tensor([7000, 1000, 4000, 2000])
    assert bool(((drawn[1:] - wanted).abs() < 5 * wanted.sqrt()).all())


def test_in_batch_negatives_are_targets_of_the_batch() -> None:
    torch.manual_seed(0)
    drawn = in_batch(9000, targets=torch.tensor([3, 7, 7])).bincount(minlength=8)
    assert drawn.nonzero().flatten().tolist() == [3, 7]
    assert abs(int(drawn[7]) - 6000) < 5 * 6000**0.5
    assert in_batch(5, targets=torch.tensor([], dtype=torch.int64)).shape == (0,)


def test_mixed_negatives_are_half_of_either() -> None:
    torch.manual_seed(0)
    drawn = draw("mixed", 1000, items=4, counts=COUNTS, targets=torch.tensor([9]))
    assert int((drawn == 9).sum()) == 500
    assert drawn[:500].unique().tolist() == [1, 2, 3, 4]
    assert draw("mixed", 1, items=4, counts=COUNTS, targets=torch.tensor([9])).shape == (1,)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_shapes_of_every_sampler(sampler: Sampler) -> None:
    targets = torch.tensor([1, 3])
    assert draw(sampler, 7, items=4, counts=COUNTS, targets=targets).shape == (7,)
    first, second = draw(sampler, 64, items=4, counts=COUNTS, targets=targets, rows=2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_items_are_drawn_as_often_as_expected(sampler: Sampler) -> None:
    """Over batches of eight targets each, drawn from the training set."""
    torch.manual_seed(0)
    training = torch.repeat_interleave(torch.arange(5), COUNTS)
    found, rounds = torch.zeros(5), 1000
    for _ in range(rounds):
        targets = training[torch.randint(len(training), (8,))]
        found += draw(sampler, 20, items=4, counts=COUNTS, targets=targets).bincount(minlength=5) / rounds
    wanted = expected(sampler, 20, torch.arange(1, 5), items=4, counts=COUNTS)
    if sampler == "in-batch":
        assert found[2] == 0  # never a target, so never asked for
        found[2] = wanted[1]
    torch.testing.assert_close(found[1:], wanted, rtol=0.07, atol=0.0)
