"""What tokens are asked for, against a slow way and on memories made by hand."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from persrec.batches import Batch
from persrec.models.compressor import Looped
from persrec.models.layered import Layered
from persrec.models.model import Model
from persrec.models.recurrent import Recurrent
from persrec.training.objective import LossSettings, objective
from persrec.training.token_objectives import SetWeights, set_loss
from tests.training.test_objective import SEGMENT, batch, model_of
from tests.worlds import ITEMS, WIDTH, histories

PAST = SetWeights(past=1.0)


@torch.no_grad()
def slow(model: Model, candidates: list[int]) -> float:
    """Segment by segment: the mean over its items of the cross-entropy of each against the candidates."""
    given = batch()
    memory = model(given, score=lambda hidden, history: None, reads_all=True).memory
    closed, tokens = model.rule.closed(given.events).tolist(), len(model.compressor.tokens)
    losses = []
    for user, count in enumerate(closed):
        for segment in range(count):
            items = {int(item) for item in given.history.item[user, segment * SEGMENT : (segment + 1) * SEGMENT]} - {0}
            chosen = sorted(set(candidates) | (set() if len(candidates) == ITEMS else every_item(given, closed)))
            last = memory.rows - (count - segment) * tokens
            per_plane = []
            for plane in range(1, memory.states.shape[1]):
                slots = memory.states[user, plane, last : last + tokens]
                cosines = F.cosine_similarity(slots[:, None], model.items.table[chosen][None], dim=-1)
                chances = F.log_softmax(cosines.amax(dim=0) / model.temperature, dim=0)
                per_plane.append(-sum(chances[chosen.index(item)] for item in items) / len(items))
            losses.append(sum(per_plane) / len(per_plane))
    return float(sum(losses) / len(losses))


def every_item(given: Batch, closed: list[int]) -> set[int]:
    columns = {(user, column) for user, count in enumerate(closed) for column in range(count * SEGMENT)}
    return {int(given.history.item[place]) for place in columns} - {0}


@pytest.mark.parametrize("negatives", [None, [3, 1, 7, 7]])
def test_against_the_slow_way(negatives: list[int] | None) -> None:
    model, given = model_of(), batch()
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    found = set_loss(model, given, looped, PAST, None if negatives is None else torch.tensor(negatives))
    assert found.item() == pytest.approx(
        slow(model, list(range(1, ITEMS + 1)) if negatives is None else negatives), rel=1e-5
    )


def test_it_is_added_with_its_weight_and_shown_apart() -> None:
    given = batch()
    off = objective(model_of(), given, LossSettings(kind="full"), reads_all=True)
    model = model_of()
    on = objective(model, given, LossSettings(kind="full", sets=SetWeights(past=0.3)), reads_all=True)
    assert on.rows == off.rows == off.loss
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    assert on.loss.item() == pytest.approx((off.loss + 0.3 * set_loss(model, given, looped, PAST, None)).item())


def test_the_gradient_reaches_tokens_layers_and_items_and_the_upper_layer_only_by_rows() -> None:
    model, given = model_of(), batch()
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    set_loss(model, given, looped, PAST, None).backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name in ("compressor.tokens", "items.table", "backbone.stack.0.inner.weight"):
        assert named[name] is not None, name
        assert float(named[name].abs().sum()) > 0, name
    top = named[f"backbone.stack.{model.backbone.layers - 1}.outer.weight"]
    assert top is None or not bool(top.any()), "its output is not in the memory"


def recurrent() -> Model:
    model = model_of()
    torch.manual_seed(0)
    model.compressor = Recurrent(tokens=2, width=WIDTH)
    torch.nn.init.normal_(model.compressor.tokens)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layered", "recurrent"])
def test_the_set_of_later_items_by_hand(kind: str) -> None:
    """The items of the two events that follow the clear ones of a read just after the fold."""
    model, given = recurrent() if kind == "recurrent" else model_of(), batch()
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    segment, recent = model.rule
    losses = []
    for user, count in enumerate(model.rule.closed(given.events).tolist()):
        for fold in range(count):
            begin = (fold + 1) * segment + recent
            items = {int(item) for item in given.history.item[user, begin : begin + 2]} - {0}
            if items:
                losses.append(sum(chance(model, looped, user, fold, count, item) for item in items) / len(items))
    found = set_loss(model, given, looped, SetWeights(future=0.5, horizon=2), None)
    assert found.item() == pytest.approx(0.5 * sum(losses) / len(losses), rel=1e-5)


@torch.no_grad()
def test_a_recurrent_memory_is_asked_for_everything_it_has_read() -> None:
    model, given = recurrent(), batch()
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    losses = []
    for user, count in enumerate(model.rule.closed(given.events).tolist()):
        for fold in range(count):
            items = {int(item) for item in given.history.item[user, : (fold + 1) * SEGMENT]} - {0}
            losses.append(sum(chance(model, looped, user, fold, count, item) for item in items) / len(items))
    found = set_loss(model, given, looped, PAST, None)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("weights", [PAST, SetWeights(future=1.0, horizon=2)], ids=["past", "future"])
@pytest.mark.parametrize("shift", [0, 2])
def test_merged_rows_are_asked_for_all_segments_that_they_are_of(weights: SetWeights, shift: int) -> None:
    """Seven segments leave blocks of four, two and one, as their number has binary digits; the first may be short."""
    model = model_of()
    torch.manual_seed(0)
    model.compressor = Layered(tokens=2, width=WIDTH, layers=model.backbone.layers, merge_segments=SEGMENT)
    torch.nn.init.normal_(model.compressor.tokens)
    model.eval()
    recent = model.rule.recent or 0
    given = histories([7 * SEGMENT + recent + 1 - shift, 6 * SEGMENT + recent - shift], shift=[shift, shift])
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    losses = []
    for user, blocks in enumerate(([(0, 4), (4, 6), (6, 7)], [(0, 4), (4, 6)])):
        states = looped.memory.states[user, 1:, -2 * len(blocks) :].unflatten(1, (len(blocks), 2))  # (P, G, K, D)
        for block, (first, last) in enumerate(blocks):
            begin, end = first * SEGMENT, last * SEGMENT
            if weights.future:
                begin, end = end + recent, end + recent + 2
            items = {int(item) for item in given.history.item[user, begin:end]} - {0}
            cosines = F.cosine_similarity(states[:, block, :, None], model.items.table[1:], dim=-1)
            chances = F.log_softmax(cosines.amax(dim=1) / model.temperature, dim=-1).mean(dim=0)
            if items:
                losses.append(-sum(float(chances[item - 1]) for item in items) / len(items))
    found = set_loss(model, given, looped, weights, None)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_what_disagrees_with_references_is_added_with_its_weight() -> None:
    """In training on all segments at once; as it is served there is no reference."""
    model, given = recurrent(), batch()
    model.parallel = 1
    assert objective(model, given, LossSettings(kind="full", consistency=0.5), reads_all=True).loss.isfinite()
    model.train()
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    found = objective(model, given, LossSettings(kind="full", consistency=0.5), reads_all=True)
    assert looped.disagreement is not None
    assert looped.disagreement.item() > 0.01
    assert (found.loss - found.rows).item() == pytest.approx(0.5 * looped.disagreement.item(), rel=1e-3)


def chance(model: Model, looped: Looped, user: int, fold: int, count: int, item: int) -> float:
    """Cross-entropy of an item given what a user's fold wrote, the mean over planes."""
    if looped.memory.states.shape[1] == 1:
        planes = [looped.trail[fold].states[user, 0]]
    else:
        tokens = model.compressor.rows
        last = looped.memory.rows - (count - fold) * tokens
        planes = list(looped.memory.states[user, 1:, last : last + tokens])
    found = []
    for slots in planes:
        cosines = F.cosine_similarity(slots[:, None], model.items.table[None, 1:], dim=-1).amax(dim=0)
        found.append(-float(F.log_softmax(cosines / model.temperature, dim=0)[item - 1]))
    return sum(found) / len(found)


@pytest.mark.parametrize("history", ["recent", "full"])
def test_without_a_memory_there_is_nothing_to_ask(history: str) -> None:
    off = objective(model_of(history), batch(), LossSettings(kind="full"), reads_all=True)
    on = objective(model_of(history), batch(), LossSettings(kind="full", sets=SetWeights(past=0.3)), reads_all=True)
    assert on.loss == off.loss


def test_tokens_that_hold_the_items_pay_least() -> None:
    """A memory whose tokens are the mean vectors of the items scores these best."""
    model, given = model_of(), batch()
    looped = model(given, score=lambda hidden, history: None, reads_all=True)
    memory = looped.memory
    tokens, closed = len(model.compressor.tokens), model.rule.closed(given.events)
    right = memory.states.clone()
    for user, count in enumerate(closed.tolist()):
        for segment in range(count):
            row = memory.rows - (count - segment) * tokens
            items = given.history.item[user, segment * SEGMENT : (segment + 1) * SEGMENT]
            for slot in range(tokens):
                right[user, :, row + slot] = model.items.table[items[items > 0][slot::tokens]].mean(dim=0)
    told = set_loss(model, given, looped._replace(memory=replace(memory, states=right)), PAST, None)
    assert told < set_loss(model, given, looped, PAST, None) - 0.1


@pytest.mark.parametrize("per_row", [False, True])
def test_beside_a_sampled_loss_it_is_sampled_too(per_row: bool) -> None:
    """With all items drawn many times over, it is that over the catalogue."""
    given = batch()
    every = LossSettings(negatives=5000, per_row=per_row, sets=PAST)
    few = every._replace(negatives=2)
    full = objective(model_of(), given, LossSettings(kind="full", sets=PAST), reads_all=True)
    asked = {}
    for name, settings in (("every", every), ("few", few)):
        torch.manual_seed(0)
        found = objective(model_of(), given, settings, reads_all=True)
        asked[name] = (found.loss - found.rows).item()
    assert asked["every"] == pytest.approx((full.loss - full.rows).item(), rel=1e-3)
    assert asked["few"] < asked["every"]
