"""What is known of events that are no longer open, however they left."""

import numpy as np
import pytest
import torch

from persrec import consumption
from persrec.batches import evaluation_windows
from persrec.consumption import HALF_LIFE
from persrec.serving.past import NOTHING, joined
from tests.logs import log_of


def test_known_numbers() -> None:
    past = NOTHING.after(np.array([5, 3, 5]), 0, np.array([10, 20, 30])).after(np.array([3]), 3, np.array([40]))
    assert past.item.tolist() == [3, 5]
    assert past.frequency.tolist() == [2, 2]
    assert past.position.tolist() == [3, 2]
    assert past.time.tolist() == [40, 30]
    assert past.strength.tolist() == pytest.approx([1 + 0.5 ** (2 / HALF_LIFE)] * 2)


@pytest.mark.parametrize("times", [[], None])
def test_nobody_has_no_pairs(times: list[np.ndarray] | None) -> None:
    user, had = joined([], [], np.zeros(0, dtype=np.int64), times)
    assert [len(user), *map(len, had)] == [0] * 6


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_those_that_training_saw(seed: int) -> None:
    """Whatever part of the events has left in whatever steps, a head is told what it is told of a whole log."""
    random = np.random.default_rng(seed)
    log = log_of([random.integers(1, 9, length).tolist() for length in (40, 1, 13, 300)])
    users = np.arange(4)
    lengths = np.diff(log.offsets)
    windows = evaluation_windows(users, lengths, length=None)
    assert log.times is not None
    last = log.times[log.offsets[1:] - 1]
    asked = np.repeat(last[:, None], lengths.max(), axis=1)
    runs = consumption.runs(log, windows, asked, last=True)
    expected = runs.of(torch.arange(4 * lengths.max()))
    pasts, items, times, first = [], [], [], []
    for user in users:
        part = slice(log.offsets[user], log.offsets[user + 1])
        own, when = log.items[part].astype(np.int64), log.times[part]
        past, done = NOTHING, 0
        for cut in np.sort(random.integers(0, len(own), 3)):
            past, done = past.after(own[done:cut], done, when[done:cut]), int(cut)
        pasts.append(past), items.append(own[done:]), times.append(when[done:]), first.append(done)
    user, had = joined(pasts, items, np.array(first), times)
    order = np.lexsort((expected.item.numpy(), expected.row.numpy()))
    assert user.tolist() == (expected.row.numpy()[order] // lengths.max()).tolist()
    assert had.item.tolist() == expected.item.numpy()[order].tolist()
    assert had.frequency.tolist() == expected.frequency.numpy()[order].tolist()
    assert had.strength.tolist() == pytest.approx(expected.strength.numpy()[order].tolist(), rel=1e-6)
    assert (lengths[user] - 1 - had.position).tolist() == expected.distance.numpy()[order].tolist()
    assert (last[user] - had.time).tolist() == expected.elapsed.numpy()[order].tolist()
