"""All segments of a recurrent memory at once, against the loop where the two are the same."""

import pytest
import torch
from torch import Tensor

from persrec.batches import Batch, History
from persrec.models.compressor import Looped, loop
from persrec.models.parallel import at_once
from tests.worlds import ITEMS, World, histories

S, R = 4, 3
Rows = dict[tuple[int, int], Tensor]


def world(write: str = "residual", **options: object) -> World:
    return World(segment=S, recent=R, memory="recurrent", together=1, write=write, **options)  # type: ignore[arg-type]


def coded(batch: Batch) -> Batch:
    """Targets that say whose row and which it is."""
    codes = 1 + 1000 * torch.arange(len(batch.events))[:, None] + batch.history.position
    return batch._replace(history=batch.history._replace(target=codes * batch.history.valid))


def rows_of(looped: Looped) -> Rows:
    found: Rows = {}
    for hidden, history in looped.scored:
        for entry, column in (history.target > 0).nonzero().tolist():
            key = divmod(int(history.target[entry, column]) - 1, 1000)
            assert key not in found, "an event was scored twice"
            found[key] = hidden[entry, column]
    return found


def score(hidden: Tensor, history: History) -> tuple[Tensor, History]:
    return hidden, history


def both(built: World, batch: Batch, reads_all: bool, reach: int) -> tuple[Looped, Looped]:
    parts = built.backbone, built.compressor, built.encode, coded(batch), built.rule
    once = at_once(*parts, score=score, reads_all=reads_all, reach=reach)  # type: ignore[arg-type]
    return loop(*parts, score=score, reads_all=reads_all), once


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("write", ["fresh", "residual", "gated"])
def test_where_a_reference_is_the_memory_it_is_the_loop(write: str, reads_all: bool) -> None:
    """Of at most two segments the first is folded on nothing, and the second on what the first has written."""
    batch = histories([2 * S + R, 2 * S + R - 2, S + R, R, 1], shift=[1, 2, 0, 0, 0])
    slow, fast = both(world(write), batch, reads_all, reach=1)
    wanted, found = rows_of(slow), rows_of(fast)
    assert set(wanted) == set(found)
    for key, row in wanted.items():
        torch.testing.assert_close(found[key], row, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(slow.memory.states, fast.memory.states, atol=1e-5, rtol=0.0)
    for field in ("valid", "position", "time", "weight", "count"):
        assert torch.equal(getattr(slow.memory, field), getattr(fast.memory, field)), field
    assert [len(step.count) for step in fast.trail] == [len(step.count) for step in slow.trail]


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("reach", [1, 3, 9])
def test_every_event_of_long_histories_is_scored_once_and_sees_no_future(reads_all: bool, reach: int) -> None:
    built, batch = world(timed=True), histories([23, 19, 9, 2])
    before = rows_of(both(built, batch, reads_all, reach)[1])
    assert set(before) == {(user, place) for user, count in enumerate([23, 19, 9, 2]) for place in range(count)}
    changed = batch._replace(history=batch.history.each(torch.clone))
    changed.history.item[0, 11] = changed.history.item[0, 11] % ITEMS + 1
    changed.history.time[0, 11:] += 10**7
    changed.history.query_time[0, 11:] += 10**7
    after = rows_of(both(built, changed, reads_all, reach)[1])
    differ = {key for key, row in before.items() if not torch.equal(row, after[key])}
    assert (0, 11) in differ
    assert all(user == 0 and place >= 11 for user, place in differ)


def test_one_segment_agrees_with_its_reference_and_several_do_not() -> None:
    one = both(world(), histories([S + R]), True, reach=3)[1].disagreement
    several = both(world(), histories([5 * S + R]), True, reach=3)[1].disagreement
    assert one is not None
    assert several is not None
    assert float(one.detach()) == pytest.approx(0, abs=1e-6)
    assert float(several.detach()) > 0.01


def test_nobody_with_a_segment() -> None:
    slow, fast = both(world(), histories([3, 1]), True, reach=2)
    torch.testing.assert_close(slow.scored[-1][0], fast.scored[-1][0])
    assert fast.trail == []
