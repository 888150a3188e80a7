"""Rows of a step: where tokens stand, and what they are given of their segment."""

import pytest
import torch

from persrec.models.interfaces import Rows
from persrec.models.rows import shares


def segment(valid: list[bool]) -> Rows:
    """One user whose events are 1, 2, 4, 8, ... in both numbers of their vectors."""
    x = 2.0 ** torch.arange(len(valid))
    place = torch.arange(len(valid))[None]
    return Rows(x[None, :, None].expand(-1, -1, 2), place, place, place, torch.tensor([valid]))


@pytest.mark.parametrize(
    ("valid", "tokens", "expected"),
    [
        ([True] * 4, 2, [1.5, 6.0]),
        ([True] * 4, 1, [3.75]),
        ([True] * 5, 2, [7 / 3, 12.0]),
        ([False, True, True, True], 2, [2.0, 6.0]),
        ([False, False, True, True], 2, [0.0, 6.0]),
        ([True, True], 3, [1.0, 2.0, 0.0]),
    ],
)
def test_each_token_has_the_mean_of_its_share(valid: list[bool], tokens: int, expected: list[float]) -> None:
    found = shares(segment(valid), tokens)
    torch.testing.assert_close(found, torch.tensor(expected)[None, :, None].expand(-1, -1, 2))
