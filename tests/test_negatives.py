"""Uniform negatives: the right range, shapes, shares and seeds."""

import torch

from persrec.negatives import uniform


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
