"""Random histories for a plugged host, and the passes over them that its promises are held against.

Shapes: B users, T columns, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from persrec.models.interfaces import Memory, Rows
from persrec.models.layered import Layered
from persrec.models.rows import rows_of, token_rows
from persrec.models.segments import causal
from persrec.plug.compressed import Plugged
from persrec.plug.events import Events, since


class Told(NamedTuple):
    """Histories with everything said of them, padded on the right."""

    items: Tensor  # (B, T) ids or (B, T, D) vectors
    times: Tensor  # (B, T)
    query_times: Tensor  # (B, T)
    valid: Tensor  # (B, T)

    @property
    def events(self) -> Events:
        """The same, as the verbs take it."""
        return Events(*self)

    def before(self, length: int) -> "Told":
        """The first columns."""
        return Told(*(field[:, :length] for field in self))

    def turned(self, columns: slice) -> "Told":
        """The same histories with the items of some columns in the opposite order."""
        items = self.items.clone()
        items[:, columns] = items[:, columns].flip(1)
        return self._replace(items=items)


class Case(NamedTuple):
    """A plugged host in eval mode, and ragged histories: many segments down to a single event."""

    plugged: Plugged
    module: nn.Module  # holds host and compressor
    told: Told
    lengths: list[int]

    def of(self, *users: int) -> Told:
        """The histories of some users."""
        return Told(*(field[list(users)] for field in self.told))


def made(plugged: Plugged, module: nn.Module, *, seed: int = 0) -> Case:
    """Random histories that fit the host and the segment rule."""
    adapter, rule = plugged.adapter, plugged.rule
    assert rule.recent is not None
    longest = rule.recent + 3 * rule.segment - 1  # two closed segments, and as many clear events as there can be
    lengths = [longest, rule.recent + rule.segment, rule.recent + rule.segment - 1, max(1, rule.recent // 2), 1]
    random = torch.Generator().manual_seed(seed)
    device = next(adapter.model.parameters()).device
    shape = (len(lengths), longest)
    valid = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    clock = torch.randint(1, 10**6, (len(lengths), longest + 1), generator=random).cumsum(dim=1) * 1000
    items = torch.randint(1, adapter.items(), shape, generator=random) * valid if adapter.items() else None
    like = next(adapter.layers[0].parameters())
    given = torch.randn(*shape, adapter.width, generator=random).to(like) if items is None else items.to(device)
    times, asked = (clock[:, :-1] * valid).to(device), (clock[:, 1:] * valid).to(device)
    return Case(plugged, module, Told(given, times, asked, valid.to(device)), lengths)


@contextmanager
def visible_tokens(plugged: Plugged) -> Iterator[None]:
    """Fresh tokens are small and their maps do nothing; while this lasts they are large, and the maps do something."""
    before = {name: value.clone() for name, value in plugged.compressor.state_dict().items()}
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in plugged.compressor.named_parameters():
            value.add_(torch.randn(value.shape, generator=random).to(value), alpha=1.0 if name == "tokens" else 0.1)
    try:
        yield
    finally:
        plugged.compressor.load_state_dict(before)


def served(plugged: Plugged, told: Told) -> Tensor:
    """Hidden rows (B, D) at the last events, by a memory and what came after it."""
    memory = plugged.compress(told.events)
    return plugged.read(memory, since_memory(memory, told))


def since_memory(memory: Memory, told: Told) -> Events:
    """The events that are not in the memory."""
    return Events(*since(memory, *told, valid=told.valid))


def open_rows(case: Case) -> Rows:
    """The clear events of the first user."""
    start = case.plugged.rule.closed(torch.tensor(case.lengths[:1])) * case.plugged.rule.segment
    return _rows(case, case.of(0), int(start), case.lengths[0])


def _rows(case: Case, told: Told, start: int, end: int) -> Rows:
    """Rows of columns start to end - 1 of the only user."""
    batch, vectors = case.plugged.batch(told.events)
    return rows_of(batch.history.part(1, start, end), lambda place: vectors[place])


def folded(case: Case, told: Told) -> Memory:
    """The memory of histories, as a step reads it."""
    return case.plugged.compress(told.events)


def blind(case: Case, told: Told) -> Memory:
    """The memory of the first user, of tokens that were folded without their segments."""
    plugged, memory = case.plugged, folded(case, told)
    assert isinstance(plugged.compressor, Layered)
    count = len(plugged.compressor.tokens)
    found = plugged.compressor.start(1)
    for first in range(0, memory.rows, count):
        place = memory.position[:, first : first + count], memory.time[:, first : first + count]
        rows = Rows(plugged.compressor.tokens[None], place[1], place[1], place[0], place[0] >= 0)
        _, kept = plugged.backbone.step(rows, found, keep=torch.arange(count, device=rows.x.device))
        assert kept is not None
        found = replace(memory, states=torch.cat([found.states, kept[:, :-1]], dim=2))
        end = found.states.shape[2]
        fields = {name: getattr(memory, name)[:, :end] for name in ("time", "position", "valid", "weight")}
        found = replace(found, **fields)
    return found


def dense(case: Case, compressor: Layered) -> tuple[Rows, Tensor, Tensor]:
    """One pass over [segment 0, tokens 0, segment 1, tokens 1, ..., open block] of the first user, and its mask."""
    rule, end = case.plugged.rule, case.lengths[0]
    closed, count = int(rule.closed(torch.tensor(end))), len(compressor.tokens)
    parts, block, token = [], [], []
    for index in range(closed + 1):
        start, stop = index * rule.segment, (index + 1) * rule.segment if index < closed else end
        parts.append(_rows(case, case.of(0), start, stop))
        block += [index] * (stop - start)
        token += [False] * (stop - start)
        if index < closed:
            parts.append(token_rows(compressor.begin(parts[-1]), parts[-1]))
            block += [index] * count
            token += [True] * count
    rows = Rows(*(torch.cat(fields, dim=1) for fields in zip(*parts, strict=True)))
    of, is_token = torch.tensor(block, device=rows.x.device), torch.tensor(token, device=rows.x.device)
    earlier = (of[:, None] > of[None]) & is_token[None]
    if compressor.cap is not None:
        earlier &= of[:, None] - of[None] <= compressor.cap
    own = (of[:, None] == of[None]) & causal(len(of), 0, device=rows.x.device)
    return rows, (own | earlier)[None], is_token.nonzero().flatten()
