"""Options of token rows: slots that compete, projections of their own, remembered rows that count by their events."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from persrec.errors import UserError
from persrec.models.attention import Bias, Buckets, competing_pointwise, competing_softmax, shared_out
from persrec.models.build import build
from persrec.models.interfaces import Memory
from persrec.models.rows import rows_of
from persrec.recipe.recipe import Recipe, parse
from tests.worlds import KINDS, WIDTH, World, histories

OPTIONS = ("compete", "own_projections", "count_weight")


def recipe_of(kind: str = "hstu", *, history: str = "compressed", memory: str = "layered", **options: bool) -> Recipe:
    sections = {
        "model": {"kind": kind, "width": WIDTH},
        "memory": {"kind": memory, "segment": 5, "recent": 4, **options},
    }
    return parse({"history": history, **sections}, "of this test")


def competing(scores: list[list[float]], **more: Any) -> dict[str, Any]:
    """Queries that are one-hot, so that keys are the scores (K rows, C columns), which stand in values one-hot too."""
    given = torch.tensor(scores, dtype=torch.float64)
    rows, columns = given.shape
    nowhere = Buckets(torch.zeros(1, rows, columns, dtype=torch.int32), None)
    return {
        "q": torch.eye(rows, dtype=torch.float64)[None, None],
        "k": given.T[None, None],
        "v": torch.eye(columns, dtype=torch.float64)[None, None],
        "bias": Bias(nowhere, torch.zeros(1, 1, dtype=torch.float64), None),
        "visible": torch.ones(1, rows, columns, dtype=torch.bool),
        "divided": torch.ones(columns, dtype=torch.bool),
        **more,
    }


def test_two_rows_share_a_column_by_softmax_and_what_is_not_divided_stays() -> None:
    """Shares of 0.8 and 0.2 in the first column; the second is seen by one row alone; the third is not divided."""
    scores = torch.tensor([[4.0, 3.0, 7.0], [1.0, 9.0, 8.0]]).log()[None, None]
    visible = torch.tensor([[True, True, True], [True, False, True]])[None, None]
    found = shared_out(scores, visible, torch.tensor([True, True, False])).exp()[0, 0]
    torch.testing.assert_close(found, torch.tensor([[1.6, 1.0, 1.0], [0.4, 1.0, 1.0]]))


def test_over_events_alone_it_is_slot_attention() -> None:
    """Softmax over the slots, then the mean over the events weighted by it (arXiv 2006.15055, equations 1 and 2)."""
    scores = torch.randn(3, 5, dtype=torch.float64)
    share = (scores * 3**-0.5).softmax(dim=0)
    found = competing_softmax(**competing(scores.tolist()))
    torch.testing.assert_close(found[0, 0], share / share.sum(dim=1, keepdim=True))


def test_slots_that_agree_attend_as_if_they_did_not_compete() -> None:
    """HSTU's weights: silu of the score, over the divisor, times rows that compete, times the share."""
    scores = [[2.0, -1.0], [2.0, 1.0]]
    found = competing_pointwise(**competing(scores), divisor=torch.tensor(4.0))[0, 0]
    plain = torch.nn.functional.silu(torch.tensor(scores, dtype=torch.float64)) / 4
    torch.testing.assert_close(found[:, 0], plain[:, 0])
    torch.testing.assert_close(found[:, 1], plain[:, 1] * 2 * torch.tensor([-1.0, 1.0]).double().softmax(dim=0))


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_token_takes_is_missing_to_the_others(kind: str) -> None:
    """Changing one token's vector changes what earlier tokens write, which do not see it, only where tokens compete."""
    segment = rows_of(histories([5]).history, World(segment=5, recent=4).encode)
    for options, depends in (((), False), (("compete",), True)):
        world = World(segment=5, recent=4, tokens=3, kind=kind, token_options=options)
        before = world.compressor.fold(world.backbone, segment, world.compressor.start(1))[1].states.detach()
        with torch.no_grad():
            world.compressor.tokens[2] += 1.0
        after = world.compressor.fold(world.backbone, segment, world.compressor.start(1))[1].states
        assert torch.equal(before[:, :, :2], after[:, :, :2]) != depends


def thrice(world: World) -> tuple[Memory, Memory]:
    """Rows that stand for 3 events, and the same rows, each three times, that stand for 1."""
    rows = 2
    torch.manual_seed(1)
    states = torch.randn(1, world.backbone.layers, rows, WIDTH)
    time, position = torch.tensor([[9, 70_000]]), torch.tensor([[-7, -2]])
    one = Memory(
        states=states,
        time=time,
        position=position,
        valid=torch.ones(1, rows, dtype=torch.bool),
        weight=torch.full((1, rows), 3.0),
        count=torch.tensor([6]),
    )
    three = replace(
        one,
        states=states.repeat(1, 1, 3, 1),
        **{name: getattr(one, name).repeat(1, 3) for name in ("time", "position", "valid")},
        weight=torch.ones(1, 3 * rows),
    )
    return one, three


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_stands_for_three_events_counts_as_three_rows(kind: str) -> None:
    """At the power of 1 at which it starts."""
    world = World(segment=5, recent=4, kind=kind, token_options=("count_weight",))
    for name, parameter in world.backbone.named_parameters():
        if name.endswith("count_power"):
            torch.nn.init.ones_(parameter)
    rows = rows_of(histories([7]).history, world.encode)
    one, three = (world.backbone.step(rows, memory)[0] for memory in thrice(world))
    torch.testing.assert_close(one, three, atol=1e-5, rtol=0.0)
    plain = World(segment=5, recent=4, kind=kind)
    one, three = (plain.backbone.step(rows, memory)[0] for memory in thrice(plain))
    assert not torch.allclose(one, three, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_no_event_and_rows_that_do_not_exist_leave_numbers_finite(kind: str) -> None:
    world = World(segment=5, recent=4, kind=kind, token_options=OPTIONS)
    memory = replace(thrice(world)[0], weight=torch.zeros(1, 2), valid=torch.tensor([[False, True]]))
    hidden, _ = world.backbone.step(rows_of(histories([7]).history, world.encode), memory)
    gradients = torch.autograd.grad(hidden.square().sum(), [*world.backbone.parameters()], allow_unused=True)
    assert all(bool(found.isfinite().all()) for found in (hidden, *gradients) if found is not None)


def outputs(recipe: Recipe) -> Tensor:
    """The queries of an untrained model of a recipe."""
    return build(recipe, items=40).eval().queries(histories([23, 9]))


@pytest.mark.parametrize("kind", KINDS)
def test_own_projections_start_as_those_of_events(kind: str) -> None:
    """So a model with them begins as the same function, and training tells them apart."""
    plain, own = recipe_of(kind), recipe_of(kind, own_projections=True)
    torch.testing.assert_close(outputs(plain), outputs(own), atol=0.0, rtol=0.0)
    model = build(own, items=40).eval()
    before = model.queries(histories([23]))
    batch = histories([23])
    model(batch, score=lambda hidden, events: hidden.sum()).scored[-1].backward()
    grown = {name: each for name, each in model.named_parameters() if "token_inner" in name}
    assert any(bool(each.grad.any()) for each in grown.values() if each.grad is not None)
    with torch.no_grad():
        for each in grown.values():
            each.normal_(std=0.3)
    assert not torch.allclose(before, model.queries(histories([23])), atol=1e-4)
    unfolded = histories([8])  # with fewer than R + S events no row is a token
    torch.testing.assert_close(build(plain, items=40).eval().queries(unfolded), model.queries(unfolded))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("history", ["full", "recent"])
def test_histories_without_a_memory_are_the_same_models_with_and_without_them(kind: str, history: str) -> None:
    plain = build(recipe_of(kind, history=history), items=40)
    other = build(recipe_of(kind, history=history, **dict.fromkeys(OPTIONS, True)), items=40)
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert plain.maker() == other.maker()


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_makes_another_fingerprint(option: str) -> None:
    """Also where no parameter tells: a memory that was divided is not read by a model that divides nothing."""
    assert build(recipe_of(), items=40).maker() != build(recipe_of(**{option: True}), items=40).maker()


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("memory", ["layered", "recurrent"])
def test_a_step_of_training_with_bfloat16_around(option: str, memory: str) -> None:
    for kind in KINDS:
        model = build(recipe_of(kind, memory=memory, **{option: True}), items=40)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            looped = model(histories([23, 9]), score=lambda hidden, events: hidden.square().sum(), reads_all=True)
        torch.stack(looped.scored).sum().backward()
        assert all(bool(each.grad.isfinite().all()) for each in model.parameters() if each.grad is not None)


def test_pooled_rows_count_as_well() -> None:
    """Means of more and fewer events: prototypes whose rows weigh differently."""
    world = World(segment=5, recent=4, memory="prototypes", token_options=("count_weight",))
    batch = histories([23])
    memory = world.run(batch, score=lambda hidden, events: None).memory
    opened = rows_of(batch.history.part(1, 15, 23), world.encode)
    heavier = replace(memory, weight=memory.weight * torch.tensor([1.0, 9.0]))
    assert not torch.allclose(world.backbone.step(opened, memory)[0], world.backbone.step(opened, heavier)[0])


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"memory": {"kind": "decayed_mean", "compete": True}}, "got compete with kind decayed_mean, expected count_w"),
        ({"memory": {"kind": "prototypes", "own_projections": True}}, "got own_projections with kind prototypes"),
        ({"memory": {"compete": True, "tokens": 1}}, "got compete with tokens 1, expected 2 or more: one alone has"),
        (
            {"model": {"kind": "decoder"}, "memory": {"count_weight": True}},
            "memory.count_weight: got true, expected false: it is an option of the layers of hstu, sasrec",
        ),
    ],
)
def test_what_the_recipe_refuses(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(values, "of this test")
    assert fault in str(refused.value)
