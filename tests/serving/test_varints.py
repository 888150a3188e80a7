"""Whole numbers as bytes and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec.serving import varints

NUMBERS = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1)), max_size=50)


@given(NUMBERS)
def test_what_was_written_is_read(numbers: list[int]) -> None:
    written = varints.encode(np.array(numbers, dtype=np.uint64))
    assert varints.decode(written).tolist() == numbers
    assert len(written) == varints.lengths(np.array(numbers, dtype=np.uint64)).sum()
    if numbers:
        assert varints.first(written) == (numbers[0], varints.lengths(np.array(numbers[:1], dtype=np.uint64))[0])


def test_known_bytes() -> None:
    numbers = np.array([0, 1, 127, 128, 300, 2**63 - 1], dtype=np.uint64)
    assert varints.encode(numbers).hex(" ") == "00 01 7f 80 01 ac 02 ff ff ff ff ff ff ff ff 7f"
    assert varints.lengths(numbers).tolist() == [1, 1, 1, 2, 2, 9]


def test_a_number_that_is_cut_off() -> None:
    with pytest.raises(ValueError, match="the last number is cut off"):
        varints.decode(bytes([1, 128]))
    with pytest.raises(ValueError, match="the first number is cut off"):
        varints.first(bytes([128, 255]))
