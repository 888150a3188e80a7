"""What every plugged host promises, as checks that run on the model at hand."""

import copy
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models.layered import Layered
from persrec.models.segments import causal
from persrec.plug.case import Case, Told, blind, dense, folded, open_rows, served, since_memory

TOLERANCE = 1e-5  # of the largest number that is compared


class Finding(NamedTuple):
    """One promise: whether it holds (None: it is not made for this host), and by how much it is missed."""

    promise: str
    holds: bool | None
    difference: float | None
    note: str


Check = Callable[[Case], Finding]


def same(promise: str, one: Tensor, other: Tensor, note: str = "", *, exactly: bool = False) -> Finding:
    """A promise that two tensors agree."""
    difference = float((one - other).abs().max()) if one.shape == other.shape else float("inf")
    scale = max(1.0, float(other.abs().max()))
    tolerance = max(TOLERANCE, 2 * torch.finfo(other.dtype).eps if other.is_floating_point() else 0)
    return Finding(promise, difference == 0 if exactly else difference <= tolerance * scale, difference, note)


def outputs(case: Case, told: Told) -> Tensor:
    """What the compressed model gives for whole histories, in the host's own form."""
    return case.plugged.adapter.head(case.plugged.hidden(told.events))


def empty_memory_is_the_host(case: Case) -> Finding:
    """Histories with nothing to compress give the host's own output."""
    adapter = case.plugged.adapter
    few = [user for user, length in enumerate(case.lengths) if length < case.lengths[1]]
    told = case.of(*few).before(max(case.lengths[user] for user in few))
    return same("an empty memory is the host", outputs(case, told)[told.valid], adapter.original(*told)[told.valid])


def hidden_tokens_change_nothing(case: Case) -> Finding:
    """Remembered rows that nobody may see: the rows after them are those of the host without a memory."""
    promise = "tokens that nobody may see change nothing"
    if not case.plugged.adapter.masked or case.plugged.adapter.counts_rows:
        return Finding(promise, None, None, "the host takes no mask, or counts rows")
    memory, rows = folded(case, case.of(0)), open_rows(case)
    length = rows.x.shape[1]
    visible = causal(length, memory.rows, device=rows.x.device)
    visible[:, : memory.rows] = False
    hidden, _ = case.plugged.backbone.step(rows, memory, visible=visible[None])
    alone, _ = case.plugged.backbone.step(rows)
    return same(promise, hidden, alone)


def blind_tokens_carry_nothing(case: Case) -> Finding:
    """A memory folded from tokens that saw no event: the history has no effect at all; one that did see it has."""
    promise = "tokens that see nothing carry nothing"
    if not isinstance(case.plugged.compressor, Layered):
        return Finding(promise, None, None, "nothing is remembered")
    told, rows = case.of(0), open_rows(case)
    other = told.turned(slice(0, case.plugged.rule.segment))
    one, two = (case.plugged.backbone.step(rows, blind(case, history))[0] for history in (told, other))
    found = same(promise, one, two, exactly=True)
    one, two = (case.plugged.backbone.step(rows, folded(case, history))[0] for history in (told, other))
    return found if not torch.equal(one, two) else found._replace(holds=False, note="nor do those that see events")


def loop_is_the_masked_twin(case: Case) -> Finding:
    """All segments and tokens of a user in one masked pass, without memory, loop or hooks on remembered rows."""
    promise = "the loop is the masked pass"
    plugged = case.plugged
    if not plugged.adapter.masked or plugged.adapter.counts_rows or not isinstance(plugged.compressor, Layered):
        return Finding(promise, None, None, "the host takes no mask, or counts rows")
    rows, visible, tokens = dense(case, plugged.compressor)
    hidden, _ = plugged.backbone.step(rows, keep=tokens, visible=visible)
    return same(promise, served(plugged, case.of(0)), hidden[:, -1])


def cached_is_uncached(case: Case) -> Finding:
    """Compressing and reading, everybody at once or user by user, gives the row that training sees.

    A host that counts rows promises it for the last event only, others for every event as if it were the last.
    """
    plugged = case.plugged
    whole = plugged.hidden(case.told.events)
    last = torch.tensor(case.lengths, device=whole.device) - 1
    trained = whole[torch.arange(len(last), device=whole.device), last]
    alone = torch.cat([served(plugged, case.of(user)) for user in range(len(case.lengths))])
    together = served(plugged, case.told)
    one, other = torch.cat([trained, together]), torch.cat([alone, alone])
    note = "last events"
    if not plugged.adapter.counts_rows:
        earlier = range(plugged.rule.segment, case.lengths[0], max(1, plugged.rule.segment // 2))
        cut = [served(plugged, case.of(0).before(length)) for length in earlier]
        one, other = torch.cat([one, whole[0, [n - 1 for n in earlier]]]), torch.cat([other, *cut])
        note = "every event as if it were the last"
    return same("cached is uncached", one, other, note)


def updates_are_folds(case: Case) -> Finding:
    """A memory that is brought up to date is the memory of the whole history."""
    promise = "an update is a fold"
    plugged, rule = case.plugged, case.plugged.rule
    assert rule.recent is not None
    if not plugged.compressor.rows:
        return Finding(promise, None, None, "nothing is remembered")
    told = case.of(0)
    whole = plugged.compress(told.events)
    early = plugged.compress(told.before(rule.recent + rule.segment).events)
    late = plugged.compress(since_memory(early, told), early)
    return same(promise, late.states, whole.states)


def shape_is_the_hosts(case: Case) -> Finding:
    """The output has the host's own shape."""
    told = case.of(1).before(case.lengths[1])
    host, found = case.plugged.adapter.original(*told).shape, outputs(case, told).shape
    return Finding("the output's shape is the host's", host == found, None, f"{tuple(found)}")


def gradients_reach_the_tokens(case: Case) -> Finding:
    """The last row of a long history moves every token."""
    promise = "gradients reach the tokens"
    if not isinstance(case.plugged.compressor, Layered):
        return Finding(promise, None, None, "nothing is remembered")
    with torch.enable_grad():
        last = case.plugged.hidden(case.of(0).events)[0, case.lengths[0] - 1]
        weight = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(last)
        (gradient,) = torch.autograd.grad((last * weight).sum(), [case.plugged.compressor.tokens])
    least = float(gradient.abs().amax(dim=1).min())
    return Finding(promise, least > 0, None, f"smallest of the tokens: {least:.1e}")


def users_do_not_matter_to_each_other(case: Case) -> Finding:
    """Ragged users in any order, and one of them without any event."""
    order = list(reversed(range(len(case.lengths))))
    straight, turned = case.plugged.hidden(case.told.events), case.plugged.hidden(case.of(*order).events)
    valid = case.told.valid.clone()
    valid[1] = False
    without, expected = case.plugged.hidden(case.told._replace(valid=valid).events), straight.clone()
    expected[1] = 0.0
    one, other = torch.cat([turned[order], without]), torch.cat([straight, expected])
    return same("users do not matter to each other", one, other)


def saving_keeps_the_tokens(case: Case) -> Finding:
    """A copy with other tokens gives the same again once it has loaded the state."""
    promise = "saving and loading keep the tokens"
    before = outputs(case, case.of(0))
    file = io.BytesIO()
    torch.save(case.module.state_dict(), file)
    other = copy.deepcopy(case.module)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    plugged: Any = other.plugged
    again = outputs(case._replace(plugged=plugged), case.of(0))
    return same(promise, again, before, exactly=True)


def the_segments_are_ours(case: Case) -> Finding:
    """Each user has max(0, (n - R) // S) segments, and R to R + S - 1 clear events, whoever else is in the batch."""
    rule, memory = case.plugged.rule, case.plugged.compress(case.told.events)
    closed = rule.closed(torch.tensor(case.lengths)).tolist()
    folded = (memory.count // rule.segment).tolist()
    tokens, cap = case.plugged.compressor.rows, getattr(case.plugged.compressor, "cap", None)
    kept = [min(count, count if cap is None else cap) * tokens for count in closed]
    right = memory.valid.sum(dim=1).tolist() == kept and folded == closed
    return Finding("segments by (S, R), not by batch", right, None, f"segments: {closed}")


def the_future_never_leaks(case: Case) -> Finding:
    """Other items from a column on change nothing before it."""
    told, column = case.of(0), case.lengths[0] - 2
    other = told._replace(items=torch.cat([told.items[:, :column], told.items[:, :2]], dim=1))
    before, after = (case.plugged.hidden(history.events)[:, :column] for history in (told, other))
    return same("the future never leaks", after, before)


def an_item_is_the_same_everywhere(case: Case) -> Finding:
    """The vector of an id depends on no other column: positions are the layers' business, or that of given vectors."""
    promise, plugged = "an item's vector is the same everywhere", case.plugged
    items = case.told.items
    if items.is_floating_point():  # of nobody knows how many items there is a first one
        items = torch.ones(1, case.lengths[0], dtype=torch.int64, device=items.device)
    try:
        found = plugged.adapter.embed(items)
    except UserError:
        return Finding(promise, None, None, "the host takes vectors")
    return same(promise, plugged.adapter.embed(items[:, 1:]), found[:, 1:])


def the_host_is_left_alone(case: Case) -> Finding:
    """After all of it the host has no hook, attribute or weight that it did not have."""
    model = case.plugged.adapter.model
    hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
    names = _attributes(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    outputs(case, case.told)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])]
    left = sum(len(module._forward_pre_hooks) for module in model.modules()) - hooks
    return Finding("the host is left as it was", not (changed or left or names != _attributes(model)), None, "")


CHECKS: tuple[Check, ...] = (
    empty_memory_is_the_host,
    hidden_tokens_change_nothing,
    blind_tokens_carry_nothing,
    loop_is_the_masked_twin,
    cached_is_uncached,
    updates_are_folds,
    shape_is_the_hosts,
    gradients_reach_the_tokens,
    users_do_not_matter_to_each_other,
    saving_keeps_the_tokens,
    the_segments_are_ours,
    the_future_never_leaks,
    an_item_is_the_same_everywhere,
    the_host_is_left_alone,
)


def _attributes(model: nn.Module) -> list[tuple[str, list[str]]]:
    return [(name, sorted(vars(module))) for name, module in model.named_modules()]
