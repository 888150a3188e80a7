"""A host with a compressor: train it on whole histories, compress old events, read recent ones on the memory.

Shapes: B users, T columns, W columns of the longest open block, D width.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from persrec.batches import Batch, History
from persrec.constants import PAD
from persrec.errors import UserError
from persrec.models import memory as memories
from persrec.models.compressor import Looped, fold_all, loop, read
from persrec.models.hosted import Hosted, TokenMaps
from persrec.models.interfaces import Memory
from persrec.models.layered import Layered
from persrec.models.recent import Recent
from persrec.models.segments import SegmentRule
from persrec.plug.adapter import Adapter, evaluating
from persrec.plug.events import Events, check, check_follows, packed
from persrec.training.token_objectives import past_set_loss

SAMPLE = 512  # numbers of each parameter that go into a fingerprint
TEMPERATURE = 0.1  # of the cosines of tokens and items


class Compressed(nn.Module):
    """A host and its compressor; called on whole histories it gives what the host gives, each row as if served.

    `host`, `compressor` and `beside`, an embedding that is not the host's, are modules of it: one `state_dict`, one
    optimizer over `parameters()`.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        segment: int,
        recent: int,
        tokens: int,
        cap: int | None = None,
        past_set: float = 0.1,
        reads: float = 0.3,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        self.host, self.beside = adapter.model, adapter.beside()
        self.compressor = compressor(adapter, tokens=tokens, cap=cap)
        options: dict[str, Any] = {"past_set": past_set, "reads": reads, "checkpointed": checkpointed}
        self.plugged = Plugged(adapter, self.compressor, rule(segment, recent), **options)

    def forward(
        self,
        items: Tensor,
        times: Tensor | None = None,
        query_times: Tensor | None = None,
        valid: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """The host's output (B, T, ...) for whole histories, every row on R to R + S - 1 clear events and the memory.

        In training that is so in a share `reads` of the calls; in others rows see no event before their own segment.
        `items` are ids (B, T), 0 = padding on either side, or vectors (B, T, D) with `valid` (B, T), and with `ids` for
        `token_loss`; times are int64 milliseconds.
        """
        return self.plugged.adapter.head(self.plugged.hidden(Events(items, times, query_times, valid, ids)))

    def token_loss(self) -> Tensor:
        """What to add to the loss () of the call before, in training: how well tokens tell what they have read.

        `past_set` times the cross-entropy of the items of their segments, among those of the batch: without it tokens
        are learned late, as nothing but rows that already read them well asks anything of them. Raises UserError after
        a call on vectors without ids.
        """
        return self.plugged.token_loss()

    def compress(
        self,
        items: Tensor,
        times: Tensor | None = None,
        query_times: Tensor | None = None,
        valid: Tensor | None = None,
        *,
        memory: Memory | None = None,
    ) -> Memory:
        """The memory of every closed segment; with `memory`, that memory and the closed segments of what came since."""
        return self.plugged.compress(Events(items, times, query_times, valid), memory)

    def read(
        self,
        memory: Memory,
        items: Tensor,
        times: Tensor | None = None,
        query_times: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """The host's output (B, ...) at each user's last event; `items` are the events that are not in the memory."""
        return self.plugged.adapter.head(self.plugged.read(memory, Events(items, times, query_times, valid)))

    def detach(self) -> nn.Module:
        """The host, as it was but for training."""
        return self.host


def rule(segment: int, recent: int) -> SegmentRule:
    """The segment rule, checked."""
    for name, value in (("segment", segment), ("recent", recent)):
        if not _whole(value, 1):
            raise UserError(f"{name}: got {value!r}, expected a whole number of events, 1 or more")
    return SegmentRule(segment, recent)


def compressor(adapter: Adapter, *, tokens: int, cap: int | None) -> "Mapped | Recent":
    """A fresh compressor for a host, on its device and in its dtype; `tokens` = 0 remembers nothing."""
    if not _whole(tokens, 0) or (cap is not None and not _whole(cap, 1)):
        raise UserError(
            f"tokens, cap: got {tokens!r} and {cap!r}, expected whole numbers: tokens >= 0, cap >= 1 segments or None"
        )
    layers = len(adapter.layers)
    if tokens and layers < 2:
        raise UserError(
            f"{type(adapter.model).__name__} has {layers} layer(s), expected 2 or more: a layered memory is what the "
            "layers above the first were given at the tokens; name all layers, or attach with tokens=0"
        )
    made = Mapped(tokens=tokens, width=adapter.width, layers=layers, cap=cap, means=adapter.scale) if tokens else None
    like = next(adapter.layers[0].parameters())
    return (made or Recent(width=adapter.width, layers=layers)).to(device=like.device, dtype=like.dtype)


class Mapped(Layered):
    """A layered memory whose tokens have maps in front of a host's layers."""

    def __init__(self, *, tokens: int, width: int, layers: int, **options: Any) -> None:
        super().__init__(tokens=tokens, width=width, layers=layers, **options)
        self.maps = TokenMaps(layers=layers, tokens=tokens, width=width)


class Plugged:
    """The three verbs on hidden rows, over an adapter, a compressor and the segment rule; owns no parameter."""

    def __init__(
        self,
        adapter: Adapter,
        compressor: "Mapped | Recent",
        rule: SegmentRule,
        *,
        past_set: float = 0.0,
        reads: float = 1.0,
        checkpointed: bool = False,
    ) -> None:
        if past_set < 0:
            raise UserError(f"past_set: got {past_set}, expected a weight of 0 or more")
        if not 0 <= reads <= 1:
            raise UserError(f"reads: got {reads}, expected a share of the training passes from 0 to 1")
        self.adapter, self.compressor, self.rule = adapter, compressor, rule
        self.past_set, self.reads, self.checkpointed = past_set, reads, checkpointed
        self.backbone = Hosted(adapter, maps=compressor.maps if isinstance(compressor, Mapped) else None)
        self._token_loss: Tensor | None = None  # of the last training pass
        self._unknown = False  # that was on vectors of nobody knows what

    def __getstate__(self) -> dict[str, Any]:
        """Without the loss of a pass, whose graph cannot be copied."""
        return self.__dict__ | {"_token_loss": None}

    def hidden(self, events: Events) -> Tensor:
        """Hidden rows (B, T, D) of whole histories, each as it would be served; zeros where there is no event.

        In training this holds for a share `reads` of the passes; in others rows see no event before their own segment.
        """
        batch, vectors = self.batch(events)
        training = self.adapter.model.training and isinstance(self.compressor, Mapped)
        short = training and self.reads < 1 and self.reads < float(torch.rand(()))

        def scored(hidden: Tensor, history: History) -> tuple[Tensor, Tensor]:
            rows = history.target > 0
            return hidden[rows], history.target[rows] - 1

        looped = loop(
            self.backbone,
            self.compressor,
            lambda place: vectors[place],
            batch,
            self.rule,
            score=scored,
            reads_all=not short,
            checkpointed=self.checkpointed,
        )
        ids = events.ids if events.items.is_floating_point() else events.items
        asked = training and self.past_set > 0
        self._token_loss = self._of_tokens(batch, looped, vectors, ids) if asked and ids is not None else None
        self._unknown = asked and ids is None
        rows, places = (torch.cat(parts) for parts in zip(*looped.scored, strict=True))
        blank = rows.new_zeros(len(vectors), rows.shape[1])
        return blank.index_copy(0, places, rows).unflatten(0, events.items.shape[:2])

    def token_loss(self) -> Tensor:
        """See `Compressed.token_loss`."""
        if self._unknown:
            raise UserError(
                "token_loss: got vectors of items without their ids; give `ids` too, or attach with past_set=0"
            )
        return self.compressor.start(0).states.sum() if self._token_loss is None else self._token_loss

    def _of_tokens(self, batch: Batch, looped: Looped, vectors: Tensor, ids: Tensor) -> Tensor:
        """The weighted loss () of the items that tokens have read, among those of the batch; `ids` are (B, T)."""
        by_place = ids.flatten()
        candidates, inverse = by_place.unique(return_inverse=True)
        place = torch.zeros_like(candidates).scatter_(0, inverse, torch.arange(len(by_place), device=ids.device))
        real = candidates != PAD
        told = batch._replace(history=batch.history._replace(item=by_place[batch.history.item]))
        loss = past_set_loss(
            self.compressor.rows, self.rule, told, looped, candidates[real], vectors[place[real]], TEMPERATURE
        )
        return self.past_set * loss

    @torch.no_grad()
    def compress(self, events: Events, memory: Memory | None = None) -> Memory:
        """The memories of B users, in their order."""
        check(events, self.adapter)
        if memory is not None:
            self.accept(memory, len(events.items))
        with self._evaluating():
            batch, vectors = self.batch(events, memory)
            check_follows(memory, events, batch)
            closed = self.rule.closed(batch.events)
            found = self.compressor.start(len(closed)) if memory is None else memories.take(memory, batch.user)
            found = fold_all(
                self.backbone,
                self.compressor,
                lambda place: vectors[place],
                batch,
                closed,
                self.rule.segment,
                found,
            )
        before = 0 if memory is None else memory.count[batch.user]
        found = replace(found, count=before + closed * self.rule.segment)  # also where nothing is remembered of them
        return replace(memories.take(found, batch.user.argsort()), maker=self.maker())

    @torch.no_grad()
    def read(self, memory: Memory, events: Events) -> Tensor:
        """Hidden row (B, D) at the last of the events that are not in the memory; zeros for a user without any."""
        check(events, self.adapter)
        self.accept(memory, len(events.items))
        with self._evaluating():
            batch, vectors = self.batch(events, memory)
            check_follows(memory, events, batch)
            most = int(batch.events.max())
            if most == 0:
                return vectors.new_zeros(len(batch.events), self.adapter.width)
            if self.rule.recent is not None and most >= self.rule.recent + self.rule.segment:
                raise UserError(
                    f"user {int(batch.user[batch.events.argmax()])} has {most} events that are not in the memory, "
                    f"expected fewer than recent + segment = {self.rule.recent + self.rule.segment}; compress the "
                    "whole histories again first, or, where the host takes `memory=`, these events"
                )
            closed = torch.zeros_like(batch.events)  # nothing of what is given is in the memory
            hidden, _ = read(
                self.backbone,
                lambda place: vectors[place],
                batch,
                closed,
                self.rule,
                memories.take(memory, batch.user),
            )
        last = hidden[torch.arange(len(hidden), device=hidden.device), (batch.events - 1).clamp(min=0)]
        return (last * (batch.events > 0)[:, None])[batch.user.argsort()]

    def maker(self) -> str:
        """Fingerprint of everything that a memory depends on, item tables apart."""
        tables = {id(table) for table in self.adapter.tables()}
        named = dict(self.adapter.model.named_parameters()) | dict(self.compressor.named_parameters(prefix="persrec"))
        named = {name: value for name, value in named.items() if id(value) not in tables}
        numbers = torch.cat([_sample(value) for value in named.values()]).cpu()
        plain = (int, float, str, type(None))
        settings = sorted((name, value) for name, value in vars(self.adapter).items() if isinstance(value, plain))
        text = repr([(name, tuple(value.shape)) for name, value in named.items()]) + repr(self.rule.segment)
        text += repr((settings, getattr(self.compressor, "cap", None)))
        return hashlib.sha256(text.encode() + numbers.numpy().tobytes()).hexdigest()[:16]

    def accept(self, memory: Memory, users: int) -> None:
        """Refuse a memory of other users, of another host, or made before further training."""
        if not isinstance(memory, Memory):
            raise UserError(f"memory: got {type(memory).__name__}, expected what `compress` gave, before the events")
        if len(memory.count) != users:
            raise UserError(f"got the memories of {len(memory.count)} users for the events of {users}")
        if memory.maker != (mine := self.maker()):
            raise UserError(
                f"this memory was made by {memory.maker or 'a model in training'}, the model that reads it is {mine}: "
                "made by another host, or before further training; compress the histories again"
            )

    def batch(self, events: Events, memory: Memory | None = None) -> tuple[Batch, Tensor]:
        """Users in descending order of closed segments, and the vectors (B * T, D) that their items are places of."""
        check(events, self.adapter)
        items, valid = events.items, events.valid
        if not items.is_floating_point():
            valid = items != PAD if valid is None else valid
            items = self.adapter.embed(items)
            if items.shape != (*valid.shape, self.adapter.width):
                expected = (*valid.shape, self.adapter.width)
                raise UserError(f"embed: gave {tuple(items.shape)}, expected vectors of the host's width, {expected}")
        elif valid is None:
            raise UserError("vectors need `valid` (users, events), True where there is an event; got none")
        columns, exist = packed(valid)
        count = exist.sum(dim=1)
        place = torch.arange(len(valid), device=valid.device)[:, None] * valid.shape[1] + columns
        times = torch.zeros_like(columns) if events.times is None else events.times.gather(1, columns) * exist
        asked = times if events.query_times is None else events.query_times.gather(1, columns) * exist
        position = torch.arange(columns.shape[1], device=valid.device) + torch.zeros_like(columns)
        if memory is not None:
            position = position + memory.count[:, None]
        history = History(place, times, asked, (place + 1) * exist, position, exist)
        order = self.rule.closed(count).argsort(descending=True, stable=True)
        return Batch(history.each(lambda field: field[order]), count[order], order), items.flatten(0, 1)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout while this lasts."""
        with evaluating(self.adapter.model, self.adapter.beside()):
            yield


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _sample(value: Tensor) -> Tensor:
    """A few numbers of a parameter, spread over it."""
    flat = value.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLE)].float()
