"""What users have had, against a plain loop."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from persrec.batches import Windows, collate
from persrec.consumption import HALF_LIFE, Consumed
from tests.logs import log_of


def windows(*rows: tuple[int, int, int, int]) -> Windows:
    return Windows(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def every(batch) -> Consumed:
    """The pairs of all rows of a batch."""
    return batch.consumed.of(torch.arange(batch.history.item.numel()))


def pairs(batch) -> list[tuple[int, ...]]:
    fields = [field for name, field in every(batch)._asdict().items() if name != "strength"]
    return sorted(zip(*(field.tolist() for field in fields), strict=True))


def slow(log, given: Windows, width: int, *, last: bool) -> list[tuple[int, ...]]:
    """(row, item, frequency, distance, elapsed) of every row, event by event; asked at the time of the next event."""
    found = []
    for number, (user, start, end, shift) in enumerate(zip(*given, strict=True)):
        own = log.items[log.offsets[user] : log.offsets[user + 1]].tolist()
        times = log.times[log.offsets[user] : log.offsets[user + 1]].tolist()
        for event in range(end - 1 if last else start, end):
            had = own[: event + 1]
            asked = times[event + 1] if event + 1 < len(own) else times[event]
            for item in set(had):
                latest = max(place for place, other in enumerate(had) if other == item)
                row = number * width + shift + event - start
                found.append((row, item, had.count(item), event - latest, asked - times[latest]))
    return sorted(found)


@given(st.integers(0, 1000), st.booleans())
def test_against_a_plain_loop(seed: int, last: bool) -> None:
    random = np.random.default_rng(seed)
    log = log_of([random.integers(1, 6, random.integers(1, 15)).tolist() for _ in range(5)])
    lengths = np.diff(log.offsets)
    user = random.integers(0, 5, 4)  # one user may stand twice
    end = random.integers(1, lengths[user] + 1)
    start = random.integers(0, end)
    given = Windows(user, start, end, random.integers(0, 3, 4))
    batch = collate(log, given, time="next", repeats=True, last=last)
    assert pairs(batch) == slow(log, given, batch.history.item.shape[1], last=last)
    rows = every(batch).row
    assert rows.tolist() == sorted(rows.tolist())
    assert batch.consumed.pairs == len(rows)
    asked = torch.from_numpy(random.permutation(batch.history.item.numel()))
    assert batch.consumed.counts(asked).tolist() == rows.bincount(minlength=len(asked))[asked].tolist()


def test_by_hand() -> None:
    """A window that leaves out the first two events: they count all the same."""
    log = log_of([[7, 8, 7, 9]], timed=False)
    batch = collate(log, windows((0, 2, 4, 1)), repeats=True)
    assert batch.history.cell.tolist() == [[0, 1, 2]]
    assert pairs(batch) == [(1, 7, 2, 0, 0), (1, 8, 1, 1, 0), (2, 7, 2, 1, 0), (2, 8, 1, 2, 0), (2, 9, 1, 0, 0)]


def test_strength_is_a_count_that_fades() -> None:
    """Had at events 0, 2 and 7: at the last of them (0.5 ** (5 / h) + 0.5 ** (7 / h)) + 1."""
    log = log_of([[7, 8, 7, 9, 9, 9, 9, 7, 8]])
    had = every(collate(log, windows((0, 0, 9, 0)), repeats=True, last=True))
    found = dict(zip(had.item.tolist(), had.strength.tolist(), strict=True))
    fade = 0.5 ** (1 / HALF_LIFE)
    assert found[7] == pytest.approx(1 + fade**5 + fade**7, abs=1e-6)
    assert found[8] == pytest.approx(1 + fade**7, abs=1e-6)
    assert found[9] == pytest.approx(1 + fade + fade**2 + fade**3, abs=1e-6)


def test_nobody_has_had_what_others_had() -> None:
    log = log_of([[1, 2], [2, 1, 2]])
    batch = collate(log, windows((0, 0, 2, 0), (1, 0, 3, 0)), time="last", repeats=True, last=True)
    assert [pair[:4] for pair in pairs(batch)] == [(1, 1, 1, 1), (1, 2, 1, 0), (5, 1, 1, 1), (5, 2, 2, 0)]


def test_some_rows() -> None:
    log = log_of([[1, 2, 1, 3]])
    had = collate(log, windows((0, 0, 4, 0)), repeats=True).consumed
    some = had.of(torch.tensor([3, 0, 9, 0]))
    assert list(zip(some.row.tolist(), some.item.tolist(), some.frequency.tolist(), strict=True)) == [
        (0, 2, 1), (0, 1, 2), (0, 3, 1), (1, 1, 1), (3, 1, 1)
    ]  # fmt: skip


@pytest.mark.parametrize("time", ["none", "last", "next"])
def test_without_repeats_nothing_is_said(time: str) -> None:
    batch = collate(log_of([[1, 2, 1, 3]]), windows((0, 0, 4, 0)), time=time)
    assert batch.consumed is None
    assert batch.history.cell is None
