"""What every backbone and compressor of ours promises (the same suite for each of them).

A trained row, a cached read, the loop from scratch and a dense masked twin are the same numbers; nothing depends on the
other users of a batch; nothing depends on the future.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from persrec.batches import Batch
from persrec.models import memory as memories
from persrec.models.compressor import loop, read
from persrec.models.hstu import HSTU
from persrec.models.interfaces import Memory, Rows
from persrec.models.layered import Layered
from persrec.models.pooled import DecayedMean, SegmentMean
from persrec.models.rows import rows_of, token_rows
from persrec.models.segments import SegmentRule
from tests.worlds import KINDS, LENGTHS, WIDTH, World, histories

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
TOKEN_OPTIONS = ("compete", "own_projections", "count_weight")
WORLDS: dict[str, dict[str, Any]] = {
    "layered": {"segment": 5, "recent": 4},
    "layered, two layers, no time": {"segment": 5, "recent": 4, "layers": 2, "timed": False},
    "layered, segment by segment": {"segment": 5, "recent": 4, "together": 1},
    "layered, two segments at once": {"segment": 3, "recent": 4, "together": 2},
    "layered, capped": {"segment": 3, "recent": 2, "cap": 2},
    "layered, capped, three at once": {"segment": 2, "recent": 3, "cap": 4, "together": 3},
    "layered, capped, segment by segment": {"segment": 3, "recent": 2, "cap": 2, "together": 1},
    "layered, R = 1": {"segment": 4, "recent": 1, "tokens": 3},
    "layered, R > S": {"segment": 2, "recent": 6},
    "layered, merged": {"segment": 3, "recent": 2, "merge_segments": 3},
    "layered, int8": {"segment": 3, "recent": 2, "encoding": "int8"},
    "layered, merged, int4": {"segment": 3, "recent": 2, "merge_segments": 3, "encoding": "int4"},
    "layered, shares": {"segment": 5, "recent": 4, "means": 1.0},
    "layered, shares, capped, three at once": {"segment": 2, "recent": 3, "cap": 4, "together": 3, "means": 1.0},
    "layered, shares, merged, int4": {
        "segment": 3,
        "recent": 2,
        "merge_segments": 3,
        "encoding": "int4",
        "means": 1.0,
    },
    "recurrent": {"segment": 5, "recent": 4, "memory": "recurrent"},
    "recurrent, fresh, no time": {"segment": 3, "recent": 4, "memory": "recurrent", "write": "fresh", "timed": False},
    "recurrent, gated, int8": {"segment": 3, "recent": 2, "memory": "recurrent", "write": "gated", "encoding": "int8"},
    "segment means": {"segment": 5, "recent": 4, "memory": "segment_mean"},
    "segment means, capped, float16": {
        "segment": 3,
        "recent": 2,
        "memory": "segment_mean",
        "cap": 2,
        "encoding": "float16",
    },
    "decayed means": {"segment": 5, "recent": 4, "memory": "decayed_mean"},
    "merged neighbours": {"segment": 5, "recent": 4, "memory": "merged_neighbours", "tokens": 4},
    "prototypes, int4": {"segment": 5, "recent": 4, "memory": "prototypes", "encoding": "int4"},
    "recent": {"segment": 5, "recent": 4, "history": "recent"},
    "full": {"segment": 5, "recent": None, "history": "full"},
    "full, small row blocks": {"segment": 5, "recent": None, "history": "full", "row_block": 4},
    "layered, tokens compete": {"segment": 5, "recent": 4, "tokens": 3, "row_block": 4, "token_options": ("compete",)},
    "layered, own projections": {"segment": 3, "recent": 4, "token_options": ("own_projections",)},
    "layered, capped, counted": {
        "segment": 3,
        "recent": 2,
        "cap": 2,
        "together": 2,
        "token_options": ("count_weight",),
    },
    "recurrent, all token options": {"segment": 5, "recent": 4, "memory": "recurrent", "token_options": TOKEN_OPTIONS},
}


# How a memory is pooled, merged or encoded is nothing to the layers: with others than HSTU's, the rest.
SAME_FOR_ALL = ("means", "neighbours", "prototypes", "int8", "int4", "merged")
CASES = {
    f"{kind}, {name}": {"kind": kind, **options}
    for kind in KINDS
    for name, options in WORLDS.items()
    if kind == "hstu" or not any(word in name for word in SAME_FOR_ALL)
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def world(request: pytest.FixtureRequest) -> World:
    return World(**request.param)


def user(batch: Batch, index: int, events: int) -> Batch:
    """One user's first events, as a batch of its own."""
    front = int((batch.history.position[index] < 0).sum())
    history = batch.history.each(lambda field: field[index : index + 1, front : front + events])
    return Batch(history, torch.tensor([events]), batch.user[index : index + 1])


def served(world: World, batch: Batch) -> Tensor:
    """Normalised query (D,) after the last event of a batch of one user."""
    looped = world.run(batch, score=lambda hidden, *_: hidden)
    return world.vectors(looped.scored[-1][0, -1])


def scored_rows(world: World, batch: Batch, *, reads_all: bool) -> dict[tuple[int, int], Tensor]:
    """Normalised rows by (user, position), as training scores them; targets say whose row and which it is."""
    codes = 1 + 1000 * torch.arange(len(batch.events))[:, None] + batch.history.position
    batch = batch._replace(history=batch.history._replace(target=codes * batch.history.valid))
    looped = world.run(batch, reads_all=reads_all, score=lambda hidden, history: (world.vectors(hidden), history))
    found: dict[tuple[int, int], Tensor] = {}
    for hidden, history in looped.scored:
        for entry, column in (history.target > 0).nonzero().tolist():
            key = divmod(int(history.target[entry, column]) - 1, 1000)
            assert key not in found, "an event was scored twice"
            assert key[1] == int(history.position[entry, column])
            found[key] = hidden[entry, column]
    return found


def test_trained_row_is_the_served_query(world: World) -> None:
    lengths = LENGTHS
    batch = histories(lengths)
    rows = scored_rows(world, batch, reads_all=True)
    assert len(rows) == sum(lengths)
    for (index, position), row in rows.items():
        torch.testing.assert_close(row, served(world, user(batch, index, position + 1)), **TOLERANCE)


@pytest.mark.parametrize("reads_all", [False, True])
def test_every_event_is_scored_once_with_a_random_first_segment(world: World, reads_all: bool) -> None:
    if world.rule.recent is None:
        pytest.skip("full has no segments")
    closable = world.rule.segment + world.rule.recent
    lengths, shift = [23, 19, closable, 1], [world.rule.segment - 1, 1, world.rule.segment - 1, 0]
    order = sorted(range(4), key=lambda i: -max(0, (lengths[i] + shift[i] - world.rule.recent) // world.rule.segment))
    lengths, shift = [lengths[i] for i in order], [shift[i] for i in order]
    rows = scored_rows(world, histories(lengths, shift=shift), reads_all=reads_all)
    assert set(rows) == {(i, p) for i, n in enumerate(lengths) for p in range(n)}
    assert all(bool(row.isfinite().all()) for row in rows.values())


def test_a_shift_of_zero_columns_in_front_changes_nothing_but_the_boundaries(world: World) -> None:
    """A first segment of o events equals a log whose first S - o events never were."""
    if world.rule.recent is None:
        pytest.skip("full has no segments")
    shift = world.rule.segment - 1
    padded = histories([17], shift=[shift])
    hidden = world.run(padded, score=lambda hidden, *_: hidden).scored[-1]
    filled = padded._replace(history=padded.history._replace(item=padded.history.item.clone()))
    filled.history.item[:, :shift] = 3  # padding in front is invisible whatever stands in it
    again = world.run(filled, score=lambda hidden, *_: hidden).scored[-1]
    torch.testing.assert_close(hidden, again, atol=0.0, rtol=0.0)


def test_cached_read_is_the_loop(world: World) -> None:
    """A memory made earlier, on its own, gives the same query as folding and reading at once."""
    lengths = LENGTHS
    batch = histories(lengths)
    whole = world.run(batch, score=lambda hidden, *_: hidden)
    closed = world.rule.closed(batch.events)
    for index, events in enumerate(lengths):
        alone = user(batch, index, events)
        folded = int(closed[index])
        memory = world.compressor.start(1)
        for block in range(folded):  # as a store would: one segment at a time, nothing but the memory kept
            part = alone.history.part(1, block * world.rule.segment, (block + 1) * world.rule.segment)
            _, memory = world.compressor.fold(world.backbone, rows_of(part, world.encode), memory)
            memory = stored(memory)
        hidden, _ = read(world.backbone, world.encode, alone, closed[index : index + 1], world.rule, memory)
        opened = events - folded * world.rule.segment
        torch.testing.assert_close(
            world.vectors(hidden[0, opened - 1]), world.vectors(whole.scored[-1][index, opened - 1]), **TOLERANCE
        )


def stored(memory: Memory) -> Memory:
    """What is left of a memory after it was written and read: numbers without a graph."""
    return Memory(**{name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in vars(memory).items()})


def test_update_is_one_fold(world: World) -> None:
    """Events that arrive later are folded into the old memory; the result is the memory of the whole log."""
    if not world.compressor.rows:
        pytest.skip("nothing is remembered")
    batch = histories([23])
    early = world.run(user(batch, 0, 12), score=lambda *_: None).memory
    late = world.run(batch, score=lambda *_: None).memory
    memory = early
    start, whole = int(early.count[0]), int(world.rule.closed(batch.events)[0]) * world.rule.segment
    for begin in range(start, whole, world.rule.segment):
        part = batch.history.part(1, begin, begin + world.rule.segment)
        _, memory = world.compressor.fold(world.backbone, rows_of(part, world.encode), memory)
    assert int(memory.count[0]) == int(late.count[0]) == whole
    torch.testing.assert_close(memory.states, late.states, **TOLERANCE)
    torch.testing.assert_close(memory.time, late.time)


def test_other_users_padding_and_order_do_not_matter(world: World) -> None:
    lengths = LENGTHS
    batch = histories(lengths)
    together = world.run(batch, score=lambda hidden, *_: hidden)
    closed = world.rule.closed(batch.events)
    for index, events in enumerate(lengths):
        opened = events - int(closed[index]) * world.rule.segment
        torch.testing.assert_close(
            world.vectors(together.scored[-1][index, opened - 1]),
            served(world, user(batch, index, events)),
            **TOLERANCE,
        )


@pytest.mark.parametrize("reads_all", [False, True])
def test_the_future_never_leaks(world: World, reads_all: bool) -> None:
    """Changing item and time of event i changes no row before i."""
    batch = histories([19, 14])
    before = scored_rows(world, batch, reads_all=reads_all)
    for event in (1, 7, 13, 18):
        changed = batch._replace(history=batch.history.each(torch.clone))
        changed.history.item[0, event] = changed.history.item[0, event] % 40 + 1
        changed.history.time[0, event:] += 10**7
        changed.history.query_time[0, event:] += 10**7
        after = scored_rows(world, changed, reads_all=reads_all)
        for (index, position), row in before.items():
            same = torch.allclose(row, after[index, position], atol=0.0, rtol=0.0)
            assert same or (index == 0 and position >= event)
        assert not torch.equal(before[0, event], after[0, event])


def test_under_next_only_the_time_of_the_next_event_reaches_a_row(world: World) -> None:
    if not world.backbone.timed:
        pytest.skip("no time signal")
    batch = histories([19], time="next")
    before = scored_rows(world, batch, reads_all=True)
    changed = batch._replace(history=batch.history.each(torch.clone))
    changed.history.time[0, 10:] += 10**8
    changed.history.query_time[0, 9:] += 10**8
    after = scored_rows(world, changed, reads_all=True)
    differs = [position for (_, position), row in before.items() if not torch.equal(row, after[0, position])]
    assert min(differs) == 9


def test_a_memory_does_not_depend_on_the_query_time_of_its_last_event(world: World) -> None:
    """Under `next` the last row of a segment knows its successor's time; tokens, which see it, may too, but no more."""
    batch = histories([19], time="next")
    rule = world.rule
    closed = int(rule.closed(batch.events)[0])
    if not world.compressor.rows or closed == 0:
        pytest.skip("nothing is remembered")
    end = closed * rule.segment
    changed = batch._replace(history=batch.history.each(torch.clone))
    changed.history.item[0, end:] = 1
    changed.history.time[0, end + 1 :] += 10**8
    changed.history.query_time[0, end:] += 10**8
    memory, other = (
        loop(
            world.backbone,
            world.compressor,
            world.encode,
            b,
            rule,
            together=world.together,
            score=lambda *_: None,
            reads_all=True,
        ).memory
        for b in (batch, changed)
    )
    torch.testing.assert_close(memory.states, other.states, atol=0.0, rtol=0.0)


def dense_twin(world: World, batch: Batch) -> dict[tuple[int, int], Tensor]:
    """All segments, tokens and reads of one user as a single masked pass, without memory, loop or cache.

    Rows are [segment 0, tokens 0, segment 1, tokens 1, ..., open block]; a row sees its own block causally, and the
    tokens of earlier blocks. It is the served computation of rows with 1 to S clear events, `reads: none`.
    Where remembered rows count by their events there are two copies of all tokens, which see the same: the first is
    seen by its fellows, the second by later blocks, and counts.
    """
    rule, tokens = world.rule, world.compressor.tokens
    copies = 2 if world.backbone.count_weight else 1
    history = batch.history
    events = int(batch.events[0])
    closed = int(rule.closed(batch.events)[0])
    whole = rows_of(history, world.encode)
    parts, block_of, copy_of, slot_of, place = [], [], [], [], []
    for block in range(closed + 1):
        start = block * rule.segment
        end = start + rule.segment if block < closed else events
        parts.append(Rows(*(field[:, start:end] for field in whole)))
        block_of += [block] * (end - start)
        copy_of += [0] * (end - start)
        slot_of += [-1] * (end - start)
        place += range(start, end)
        for copy in range(copies if block < closed else 0):
            segment = Rows(*(field[:, start:end] for field in whole))
            parts.append(token_rows(world.compressor.begin(segment), segment))
            block_of += [block] * len(tokens)
            copy_of += [copy] * len(tokens)
            slot_of += range(len(tokens))
            place += [-1] * len(tokens)
    rows = Rows(*(torch.cat(fields, dim=1) for fields in zip(*parts, strict=True)))
    block, copy, slot = torch.tensor(block_of), torch.tensor(copy_of), torch.tensor(slot_of)
    order, token = torch.arange(len(block)), slot >= 0
    own = (block[:, None] == block[None]) & (order[:, None] >= order[None]) & (copy == 0)[None]
    own &= ~token[:, None] | (slot[:, None] >= slot[None])
    remembered = token & (copy == copies - 1)
    earlier = (block[:, None] > block[None]) & remembered[None]
    if world.compressor.cap is not None:
        earlier &= block[:, None] - block[None] <= world.compressor.cap
    with pytest.MonkeyPatch.context() as patch:
        if copies == 2:
            weight = torch.where(remembered, math.log(rule.segment / len(tokens)), 0.0)[None]
            patch.setattr(world.backbone, "_weight", lambda *given: weight)  # no memory is given that would say so
        hidden, _ = world.backbone.step(rows, visible=(own | earlier)[None], keep=token.nonzero().flatten())
    return {(0, p): world.vectors(hidden[0, r]) for r, p in enumerate(place) if p >= 0}


def test_loop_is_the_dense_masked_twin(world: World) -> None:
    if not (isinstance(world.compressor, Layered) and world.compressor.chains):
        pytest.skip("no layered memory of numbers as they are")
    batch = histories([23])
    looped, dense = scored_rows(world, batch, reads_all=False), dense_twin(world, batch)
    assert set(looped) == set(dense)
    for key, row in looped.items():
        torch.testing.assert_close(row, dense[key], **TOLERANCE)


def test_checkpointed_folds_have_the_same_gradient(world: World) -> None:
    batch = histories([23, 19, 8])
    leaves = [world.table, *world.backbone.parameters()]
    leaves += world.compressor.parameters()
    found = []
    for checkpointed in (False, True):
        looped = world.run(
            batch,
            score=lambda hidden, history: (hidden * history.target[..., None]).square().mean(),
            reads_all=True,
            checkpointed=checkpointed,
        )
        found.append(torch.autograd.grad(torch.stack(looped.scored).sum(), leaves, allow_unused=True))
    for plain, again in zip(*found, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(plain, again)


def test_a_gradient_reaches_the_tokens_and_old_items(world: World) -> None:
    if not world.compressor.rows:
        pytest.skip("nothing is remembered")
    batch = histories([23])
    batch.history.item[0, :] = torch.arange(1, 24)
    looped = world.run(batch, score=lambda hidden, *_: hidden)
    table, *own = torch.autograd.grad(looped.scored[-1].square().sum(), [world.table, *world.compressor.parameters()])
    assert all(bool(gradient.any()) for gradient in own)
    if hasattr(world.compressor, "tokens"):
        assert bool((own[0].abs().sum(dim=1) > 0).all())
    segments = int(world.rule.closed(batch.events)[0])
    remembered = min(segments, getattr(world.compressor, "cap", None) or segments)
    newest_item = segments * world.rule.segment  # items are their position plus 1
    oldest = newest_item - remembered * world.rule.segment + 1
    assert bool((table[oldest : newest_item + 1].abs().sum(dim=1) > 0).all())


def test_the_memory_counts_its_events(world: World) -> None:
    batch = histories([23, 9])
    memory = world.run(batch, score=lambda *_: None).memory
    if not world.compressor.rows:
        assert memory.rows == 0
        return
    closed = world.rule.closed(batch.events)
    assert memory.count.tolist() == (closed * world.rule.segment).tolist()
    kept = closed.clamp(max=getattr(world.compressor, "cap", None) or 100)
    weight = (memory.weight * memory.valid).sum(dim=1)
    if not isinstance(world.compressor, DecayedMean):  # whose weights fade
        torch.testing.assert_close(weight, (kept * world.rule.segment).float())
    assert not memory.weight[~memory.valid].any()
    if isinstance(world.compressor, Layered) and world.compressor.merge_segments is not None:
        kept = torch.tensor([int(segments).bit_count() for segments in closed])
    if isinstance(world.compressor, Layered | SegmentMean):
        assert memory.valid.sum(dim=1).tolist() == (kept * world.compressor.rows).tolist()
    else:
        assert memory.valid.sum(dim=1).tolist() == [world.compressor.rows * bool(one) for one in closed]


def test_layered_needs_two_layers() -> None:
    with pytest.raises(ValueError, match="got a backbone of 1 layer, expected 2 or more"):
        Layered(tokens=2, width=4, layers=1)


def test_a_memory_of_another_depth_is_refused() -> None:
    world, deeper = World(segment=5, recent=4, layers=2), World(segment=5, recent=4, layers=3)
    batch = histories([12])
    memory = deeper.run(batch, score=lambda *_: None).memory
    with pytest.raises(ValueError, match="the memory has 3 planes, but this HSTU has 2 layers"):
        read(world.backbone, world.encode, batch, torch.tensor([1]), SegmentRule(5, 4), memory)


def test_joined_memories_are_right_aligned() -> None:
    like = torch.zeros(())
    first, second = memories.empty(2, 3, WIDTH, like=like), memories.empty(1, 3, WIDTH, like=like)
    assert memories.join(memories.widen(first, 4), second).states.shape == (3, 3, 4, WIDTH)


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("together", [2, 3, 8])
def test_segments_folded_together_are_segments_folded_one_by_one(world: World, together: int, reads_all: bool) -> None:
    """Hidden rows, memories and gradients; the loop segment by segment is the slow twin."""
    world.double()
    batch = histories([23, 22, 14, 9, 8, 3])
    leaves = [world.table, *world.backbone.parameters(), *world.compressor.parameters()]
    found = []
    for count in (1, together):
        looped = world.run(
            batch,
            together=count,
            reads_all=reads_all,
            score=lambda hidden, history: (hidden * (history.target > 0)[..., None]).sum(dim=-1).square().sum(),
        )
        total = torch.stack(looped.scored).sum()
        found.append((total, looped.memory, torch.autograd.grad(total, leaves, allow_unused=True)))
    (one, memory, gradients), (many, other, others) = found
    torch.testing.assert_close(many, one)
    assert torch.equal(memory.valid, other.valid)
    assert torch.equal(memory.count, other.count)
    for name in ("states", "time", "position", "weight"):
        mine, theirs = getattr(memory, name), getattr(other, name)
        kept = memory.valid[:, None, :, None] if name == "states" else memory.valid
        torch.testing.assert_close(mine * kept, theirs * kept)
    for mine, theirs in zip(gradients, others, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


def test_a_fresh_model_reads_memory_in_every_layer_but_the_first() -> None:
    """Layer 1 is given the same tokens for everybody: they start without weight there, and only there."""
    torch.manual_seed(0)
    fresh = HSTU(width=WIDTH, layers=3, heads=2, exact=9, timed=True, dropout=0.0, divisor=9.0)
    world = World(segment=5, recent=4)
    batch = histories([23])
    closed = world.rule.closed(batch.events)
    memory = loop(fresh, world.compressor, world.encode, batch, world.rule, score=lambda *_: None).memory
    hidden, _ = read(fresh, world.encode, batch, closed, world.rule, memory)
    for plane in range(3):
        changed = replace(memory, states=memory.states.clone())
        changed.states[:, plane] = torch.randn_like(changed.states[:, plane])
        other, _ = read(fresh, world.encode, batch, closed, world.rule, changed)
        assert torch.equal(hidden, other) == (plane == 0)
