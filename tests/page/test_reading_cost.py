"""What a read costs: the clock is the test's own, bytes are counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from persrec.batches import evaluation_windows
from persrec.page.reading_cost import bytes_kept, milliseconds
from tests.small import events, model_of, prepared_of


def test_milliseconds_are_those_of_the_median_repeat(tmp_path: Path) -> None:
    """The first of six repeats is not counted: of 1, 1, 1, 50, 2 ms the median is 1."""
    recipe, data = prepared_of(tmp_path, events())
    lasting = iter([9.0, 0.001, 0.001, 0.001, 0.05, 0.002] * 2)
    now, started = 0.0, False

    def clock() -> float:
        nonlocal now, started
        now += next(lasting) if started else 0.0
        started = not started
        return now

    windows = evaluation_windows(np.array([0, 7]), np.array([40, 9]), length=None)
    threads = torch.get_num_threads()
    found = milliseconds(model_of(recipe, data.items_count), data, windows, "last", clock=clock)
    assert found == pytest.approx([1.0, 1.0])
    assert torch.get_num_threads() == threads


def test_a_real_clock_moves(tmp_path: Path) -> None:
    recipe, data = prepared_of(tmp_path, events())
    windows = evaluation_windows(np.array([0]), np.array([40]), length=None)
    assert (milliseconds(model_of(recipe, data.items_count), data, windows, "last") > 0).all()


@pytest.mark.parametrize(
    ("history", "time", "expected"),
    [("full", "none", 4 * (40 + 9) / 2), ("recent", "none", 4 * (10 + 9) / 2), ("recent", "last", 12 * (10 + 9) / 2)],
)
def test_bytes_by_hand(tmp_path: Path, history: str, time: str, expected: float) -> None:
    """S = 6, R = 5: of 40 events 5 segments are closed and 10 clear, of 9 all are clear."""
    recipe, data = prepared_of(tmp_path, events(), history=history, time=time)
    windows = evaluation_windows(np.array([0, 7]), np.array([40, 9]), length=None)
    assert bytes_kept(model_of(recipe, data.items_count), windows, 100.0, time) == expected + 100.0
