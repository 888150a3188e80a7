"""A memory of one plane is rows in front; row blocks and recomputed scores change no number."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from persrec.batches import Batch
from persrec.models.hstu import HSTU
from persrec.models.interfaces import Chain, Memory, Rows
from persrec.models.rows import rows_of
from persrec.models.segments import fold_visible
from persrec.models.softmax import Softmax
from persrec.models.stack import Stack
from tests.worlds import KINDS, WIDTH, World, backbone_of, histories

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
REMEMBERED = 3


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> World:
    return World(segment=5, recent=4, kind=request.param)


def given(world: World) -> tuple[Memory, Rows]:
    """One plane of three rows for three users, of which one has a row less and one has none; and their next events."""
    torch.manual_seed(2)
    batch = histories([12, 9, 5])
    time = torch.tensor([[5, 5, 70_000]] * 3)
    memory = Memory(
        states=torch.randn(3, 1, REMEMBERED, WIDTH, requires_grad=True),
        time=time,
        position=torch.tensor([[-9, -9, -1], [-9, -7, -7], [0, 0, 0]]),
        valid=torch.tensor([[True] * 3, [False, True, True], [False] * 3]),
        weight=torch.ones(3, REMEMBERED),
        count=torch.tensor([9, 9, 0]),
    )
    return memory, rows_of(batch.history, world.encode)


def by_hand(memory: Memory, rows: Rows) -> Rows:
    """The remembered rows in front of the others."""
    front = (memory.states[:, 0], memory.time, memory.time, memory.position, memory.valid)
    return Rows(*(torch.cat(pair, dim=1) for pair in zip(front, rows, strict=True)))


def test_a_memory_of_one_plane_is_rows_in_front(world: World) -> None:
    memory, rows = given(world)
    hidden, kept = world.backbone.step(rows, memory)
    wanted, _ = world.backbone.step(by_hand(memory, rows), keep=torch.arange(REMEMBERED))  # HSTU scales their values
    assert kept is None
    torch.testing.assert_close(hidden[rows.valid], wanted[:, REMEMBERED:][rows.valid], **TOLERANCE)
    (gradient,) = torch.autograd.grad(hidden[rows.valid].square().sum(), memory.states)
    found = gradient[:, 0].abs().sum(dim=2) > 0
    assert torch.equal(found, memory.valid), "every row that is valid is read, and no other"


@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize("planes", [0, 1, 3])
def test_rows_that_are_asked_for_are_those_of_the_whole_step(world: World, planes: int, compete: bool) -> None:
    """Of a read, and of a fold, where the tokens are asked for; the last layer goes over no other rows."""
    one, rows = given(world)
    world.backbone.compete = compete
    memory = replace(one, states=one.states.detach().repeat(1, planes, 1, 1)) if planes else None
    last = rows.valid.sum(dim=1, keepdim=True) - 1
    asked = torch.cat([last, last // 2], dim=1)
    every, _ = world.backbone.step(rows, memory)
    found, _ = world.backbone.step(rows, memory, asked=asked)
    torch.testing.assert_close(found, every[torch.arange(3)[:, None], asked], **TOLERANCE)
    keep, visible = torch.arange(9, 12), fold_visible(5, 4, 3, REMEMBERED if planes else 0)
    hidden, kept = world.backbone.step(rows, memory, keep=keep, visible=visible)
    tokens, again = world.backbone.step(rows, memory, keep=keep, visible=visible, asked=keep.expand(3, -1))
    there = rows.valid[:, keep]
    torch.testing.assert_close(tokens[there], hidden[:, keep][there], **TOLERANCE)
    assert kept is not None
    assert again is not None
    torch.testing.assert_close(again.transpose(1, 2)[there], kept.transpose(1, 2)[there], **TOLERANCE)


def test_a_fold_over_a_memory_of_one_plane(world: World) -> None:
    """Tokens at the end, which do not see the events after their segment: five events, four more, three tokens."""
    memory, rows = given(world)
    keep = torch.arange(9, 12)
    hidden, kept = world.backbone.step(rows, memory, keep=keep, visible=fold_visible(5, 4, 3, REMEMBERED))
    square = torch.ones(1, 15, 15, dtype=torch.bool).tril()
    square[:, REMEMBERED + 9 :, REMEMBERED + 5 : REMEMBERED + 9] = False
    places = [0, 1, 2, 12, 13, 14]
    wanted, states = world.backbone.step(by_hand(memory, rows), keep=torch.tensor(places), visible=square)
    assert kept is not None
    torch.testing.assert_close(hidden[rows.valid], wanted[:, REMEMBERED:][rows.valid], **TOLERANCE)
    assert kept.shape == (3, world.backbone.layers + 1, 3, WIDTH)
    seen = rows.valid[:, keep]
    torch.testing.assert_close(kept.transpose(1, 2)[seen], states[:, :, 3:].transpose(1, 2)[seen], **TOLERANCE)


def test_users_without_a_valid_row_read_what_an_empty_memory_says(world: World) -> None:
    memory, rows = given(world)
    nothing = replace(memory, valid=torch.zeros_like(memory.valid))
    none = {field: getattr(memory, field)[:, :0] for field in ("time", "position", "valid", "weight")}
    empty = replace(memory, states=memory.states[:, :, :0], **none)
    alone, _ = world.backbone.step(rows)
    for other in (nothing, empty):
        torch.testing.assert_close(world.backbone.step(rows, other)[0][rows.valid], alone[rows.valid], **TOLERANCE)


def test_rows_in_front_are_causal_among_themselves_and_see_no_event(world: World) -> None:
    """Whatever `visible` says of the rows behind them."""
    memory, rows = given(world)
    changed = memory.states.detach().clone()
    changed[:, 0, 2] += 1
    visible = torch.ones(1, 12, 12 + REMEMBERED, dtype=torch.bool)
    for mask in (None, visible):
        first = _leading(world, memory, rows, mask)
        second = _leading(world, replace(memory, states=changed), rows._replace(x=rows.x + 1), mask)
        assert torch.equal(first[0, :2], second[0, :2])
        assert not torch.equal(first[0, 2], second[0, 2])


def _leading(world: World, memory: Memory, rows: Rows, visible: Tensor | None) -> Tensor:
    """What the last layer was given at the rows in front: (B, M, D)."""
    seen: list[Tensor] = []
    hook = world.backbone.stack[-1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    world.backbone.step(rows, memory, visible=visible)
    hook.remove()
    return seen[0][:, :REMEMBERED]


def test_a_chain_over_a_memory_of_one_plane_is_refused(world: World) -> None:
    memory, rows = given(world)
    none = torch.zeros(3, 0, dtype=torch.int64)
    chain = Chain(torch.arange(3), torch.zeros(3, dtype=torch.int64), 3, 1, none, none.bool())
    with pytest.raises(ValueError, match="a memory of one plane is folded segment by segment, but a chain was given"):
        world.backbone.step(rows, memory, chain=chain)


def test_only_with_a_first_gain_does_the_first_hstu_layer_read_values_of_tokens() -> None:
    for gain, reads in ((0.0, False), (1.0, True)):
        torch.manual_seed(0)
        sizes = {"width": WIDTH, "layers": 1, "heads": 2, "exact": 9, "timed": True, "dropout": 0.0, "divisor": 7.0}
        world = World(segment=5, recent=4)
        world.backbone = HSTU(first_gain=gain, **sizes)  # type: ignore[arg-type]
        memory, rows = given(world)
        hidden, _ = world.backbone.step(rows, memory)
        (gradient,) = torch.autograd.grad(hidden[rows.valid].sum(), memory.states)
        assert bool(gradient.any()) == reads


def test_rows_that_are_no_events_may_hold_anything_and_stay_finite(world: World) -> None:
    """Padding in front and behind, a user without any event among them, and gradients through all of it."""
    batch: Batch = histories([9, 6, 1], shift=[3, 0, 4])
    valid = batch.history.valid.clone()
    valid[2] = False
    rows = rows_of(batch.history._replace(valid=valid), world.encode)
    hidden, _ = world.backbone.step(rows)
    assert bool(hidden.isfinite().all())
    hidden[valid].square().sum().backward()
    gradients = [leaf.grad for leaf in (world.table, *world.backbone.parameters()) if leaf.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_row_blocks_and_recomputed_scores_change_no_number(kind: str) -> None:
    found = []
    for change in ({"row_block": 64}, {"row_block": 3}, {"row_block": 3, "recompute": True}):
        world = World(segment=5, recent=4, kind=kind, **change)  # type: ignore[arg-type]
        world.double()
        rows = rows_of(histories([17, 12]).history, world.encode)
        hidden, _ = world.backbone.step(rows)
        leaves = [world.table, *world.backbone.parameters()]
        loss = hidden[rows.valid].square().sum()
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)  # nobody is a token here
        found.append([hidden[rows.valid], *(gradient for gradient in gradients if gradient is not None)])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", ["sasrec", "ligr"])
def test_softmax_backbones_have_no_table_of_absolute_positions(kind: str) -> None:
    """The same rows 1,000 events later are the same numbers."""
    world = World(segment=5, recent=4, kind=kind)
    assert isinstance(world.backbone, Softmax)
    rows = rows_of(histories([17, 12]).history, world.encode)
    later = rows._replace(position=rows.position + 1000)
    torch.testing.assert_close(world.backbone.step(rows)[0], world.backbone.step(later)[0], atol=0.0, rtol=0.0)


def test_hstu_parameters_keep_their_names() -> None:
    """Weights of published runs are loaded by them."""
    backbone: Stack = backbone_of("hstu", layers=1, exact=9, timed=True)
    names = ("divisor", "inner.weight", "outer.bias", "outer.weight", "position_bias", "time_bias", "token_gain")
    assert sorted(backbone.state_dict()) == [f"stack.0.{name}" for name in names]
