"""Numbers of a memory as bytes, and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from persrec.models.encodings import NAMES, SMALLEST_SCALE, pack, round_trip, row_bytes, unpack

LARGEST_ERROR = {"float32": 0.0, "float16": 2**-11, "int8": 0.51 / 127, "int4": 0.51 / 7}  # of a row's largest number
numbers = st.floats(-1e4, 1e4, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
ROWS = st.tuples(st.integers(1, 5), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=numbers)
)


@pytest.mark.parametrize("encoding", NAMES)
@given(rows=ROWS)
def test_bytes_and_back_is_the_round_trip_and_doing_it_again_changes_nothing(encoding: str, rows: np.ndarray) -> None:
    states = torch.from_numpy(rows)
    codes = pack(states, encoding)
    assert codes.shape == (len(rows), row_bytes(rows.shape[1], encoding))
    back = unpack(codes, rows.shape[1], encoding)
    torch.testing.assert_close(back, round_trip(states, encoding), atol=0.0, rtol=0.0)
    assert (pack(back, encoding) == codes).all()
    bound = LARGEST_ERROR[encoding] * states.abs().amax(dim=1, keepdim=True) + SMALLEST_SCALE / 2
    assert bool(((back - states).abs() <= bound).all())


def test_by_hand() -> None:
    states = torch.tensor([[7.0, -3.0, 0.4]])
    assert round_trip(states, "int4").tolist() == [[7.0, -3.0, 0.0]]
    assert pack(states, "int4").tolist() == [[0x00, 0x3C, 0xD7, 0x00]], "scale 1 as float16, then 7 and -3, then 0"
    assert [row_bytes(64, name) for name in NAMES] == [256, 128, 66, 34]


@pytest.mark.parametrize("encoding", NAMES)
def test_the_gradient_passes_straight_through(encoding: str) -> None:
    states = torch.randn(2, 3, 4, requires_grad=True)
    (round_trip(states, encoding) * torch.arange(4)).sum().backward()
    torch.testing.assert_close(states.grad, torch.arange(4.0).expand(2, 3, 4))


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("width", [7, 16])
def test_no_rows_are_no_rows(encoding: str, width: int) -> None:
    packed = pack(torch.zeros(0, width), encoding)
    assert packed.shape == (0, row_bytes(width, encoding))
    assert unpack(packed, width, encoding).shape == (0, width)


def test_bytes_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="got 6 bytes a row, expected 5 as int8"):
        unpack(pack(torch.ones(1, 4), "int8"), 3, "int8")
