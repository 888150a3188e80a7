"""The idea on one page: fold closed segments into a memory, read the open block on it, and loop over both.

Shapes: B users, T columns, S events of a segment, R minimum of recent events, K tokens, M remembered rows,
N layers, D width.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from persrec.batches import Batch, History
from persrec.models import memory as memories
from persrec.models.interfaces import Backbone, Chain, Compressor, Memory, Rows
from persrec.models.segments import SegmentRule, chain_window, fold_visible, open_columns, unscored

T = TypeVar("T")
Encode = Callable[[Tensor], Tensor]  # item ids (B, L) to vectors (B, L, D)
Recall = Callable[[Memory, Tensor], Memory]  # memories and users (B,) of a batch, to the memories that are read
Score = Callable[[Tensor, History], T]  # hidden (E, L, D) and the events of its rows, to whatever the caller wants


class Layered(nn.Module):
    """A memory that appends K rows per segment: each layer's input at the token rows (PerSRec, arXiv 2601.03479).

    `cap` keeps the newest segments only. Needs N >= 2: layer 1 is given the tokens themselves, the same for every user.
    """

    def __init__(self, *, tokens: int, width: int, layers: int, cap: int | None = None) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(
                f"a layered memory keeps what layers 2 and up were given; got a backbone of {layers} layer, "
                "expected 2 or more"
            )
        self.layers, self.rows, self.cap, self.maker = layers, tokens, cap, ""
        # Small beside what a layer adds to it, so that the next layer is given what the token has read, not the token.
        self.tokens = nn.Parameter(torch.empty(tokens, width).normal_(std=0.005))

    def start(self, users: int) -> Memory:
        """An empty memory (M = 0) of N planes."""
        return memories.empty(users, self.layers, self.tokens.shape[1], like=self.tokens, maker=self.maker)

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold`."""
        rows, tokens, keep = self._with_tokens(segment, after)
        visible = None if after is None else self._visible(segment, after, memory.rows)
        hidden, kept = backbone.step(rows, memory, keep=keep, visible=visible)
        assert kept is not None
        events = segment.valid.sum(dim=1)
        new = Memory(
            states=kept[:, : self.layers],  # the inputs of all layers; the final output is not an input
            time=tokens.time,
            position=tokens.position,
            valid=tokens.valid,
            weight=(events / len(self.tokens)).to(kept.dtype)[:, None].expand(-1, len(self.tokens)),
            count=events,
        )
        return hidden[:, : int(keep[0])], self._capped(memories.append(memory, new))

    def fold_chain(
        self, backbone: Backbone, segment: Rows, memory: Memory, chain: Chain, after: Rows | None = None
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold_chain`."""
        rows, tokens, keep = self._with_tokens(segment, after)
        count = len(self.tokens)
        slots = memories.slots(chain, tokens, segment.valid.sum(dim=1), self.layers, like=self.tokens)
        window, reach = chain_window(chain.block, chain.blocks, memory.rows, count, self.cap)
        chain = chain._replace(window=window, reach=reach)
        visible = None if after is None else self._visible(segment, after, window.shape[1])
        hidden, kept = backbone.step(rows, memories.append(memory, slots), keep=keep, visible=visible, chain=chain)
        assert kept is not None
        states = memories.put(chain, kept[:, : self.layers]).transpose(1, 2).flatten(2, 3)  # (users, N, G * K, D)
        grown = memories.append(memory, replace(slots, states=states))
        missing = chain.blocks - torch.bincount(chain.user, minlength=chain.users)
        return hidden[:, : int(keep[0])], self._capped(memories.align(grown, missing * count))

    def _with_tokens(self, segment: Rows, after: Rows | None) -> tuple[Rows, Rows, Tensor]:
        """All rows of a fold, the token rows among them, and their indices (K,)."""
        tokens = _token_rows(self.tokens, segment)
        rows = _concatenate([segment, tokens] if after is None else [segment, after, tokens])
        length = rows.x.shape[1]
        return rows, tokens, torch.arange(length - len(self.tokens), length, device=rows.x.device)

    def _visible(self, segment: Rows, after: Rows, remembered: int) -> Tensor:
        return fold_visible(segment.x.shape[1], after.x.shape[1], len(self.tokens), remembered, device=segment.x.device)

    def _capped(self, memory: Memory) -> Memory:
        return memory if self.cap is None else memories.newest(memory, self.cap * len(self.tokens))


class Recent(nn.Module):
    """The compressor that remembers nothing: the same segments and clear events, an empty memory."""

    anchor: Tensor

    def __init__(self, *, width: int, layers: int) -> None:
        super().__init__()
        self.layers, self.width, self.rows = layers, width, 0
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # device and dtype of the empty memory

    def start(self, users: int) -> Memory:
        """An empty memory."""
        return memories.empty(users, self.layers, self.width, like=self.anchor)

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold`."""
        rows = segment if after is None else _concatenate([segment, after])
        return backbone.step(rows)[0], memory

    def fold_chain(
        self, backbone: Backbone, segment: Rows, memory: Memory, chain: Chain, after: Rows | None = None
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold_chain`."""
        return self.fold(backbone, segment, memory, after)


class Looped(NamedTuple):
    """What a loop over a batch gives."""

    scored: list  # results of `score`: one per fold, then one for the open blocks
    memory: Memory  # of the closed segments of every user


def loop(
    backbone: Backbone,
    compressor: Compressor,
    encode: Encode,
    batch: Batch,
    rule: SegmentRule,
    *,
    score: Score[T],
    reads_all: bool = False,
    together: int = 8,
    checkpointed: bool = False,
    recall: Recall | None = None,
) -> Looped:
    """Fold every closed segment of a batch, then read the open blocks; `score` sees the hidden rows of each block.

    Users must stand in descending order of closed segments. `score` gets hidden rows (E, L, D) and the events they
    stand for; with `reads_all` only rows as a served query would have keep their targets. `together` consecutive
    segments are folded in one pass where the backbone can (the same numbers; 1 = segment by segment). `checkpointed`
    keeps no activations of a pass, items' vectors and losses included, and computes them again in the backward pass
    (the same gradient). `recall` changes what the open blocks read, to see what a memory is worth.
    """
    behind = rule.recent - 1 if reads_all and rule.recent is not None else 0
    together = together if backbone.chains else 1

    def folded(first: int, users: int, memory: Memory) -> tuple[T, Memory]:
        chain = _chain(closed[:users] - first, together)
        block = first + chain.block
        offsets = torch.arange(rule.segment + behind, device=block.device)
        events = batch.history.of(chain.user, block[:, None] * rule.segment + offsets)
        segment, after = events.split(rule.segment)
        rows, following = rows_of(segment, encode), rows_of(after, encode) if behind else None
        if together == 1:
            hidden, grown = compressor.fold(backbone, rows, memory, following)
        else:
            hidden, grown = compressor.fold_chain(backbone, rows, memory, chain, following)
        skipped = unscored(rule, block, len(offsets), reads_all=reads_all)
        return score(hidden, events.without_targets(skipped)), grown

    closed = rule.closed(batch.events)
    memory = compressor.start(len(closed))
    scored = []
    for first in range(0, int(closed.max()) if len(closed) else 0, together):
        users = int((closed > first).sum())
        active = memories.take(memory, slice(0, users)) if users < len(closed) else memory
        if checkpointed and torch.is_grad_enabled():
            result, grown = checkpoint(folded, first, users, active, use_reentrant=False)
        else:
            result, grown = folded(first, users, active)
        scored.append(result)
        memory = memories.join(grown, memories.take(memory, slice(users, None)))
    if recall is not None:
        memory = recall(memory, batch.user)
    scored.append(score(*read(backbone, encode, batch, closed, rule, memory, reads_all=reads_all)))
    return Looped(scored, memory)


def _chain(left: Tensor, together: int) -> Chain:
    """The next blocks of users who have `left` (B,) of them, at most `together` each."""
    counts = left.clamp(max=together)
    blocks = int(counts.max())
    user, block = (torch.arange(blocks, device=left.device)[None] < counts[:, None]).nonzero().unbind(dim=1)
    none = user.new_zeros(len(user), 0)  # what is read is the compressor's to say
    return Chain(user, block, len(left), blocks, none, none.bool())


def read(
    backbone: Backbone,
    encode: Encode,
    batch: Batch,
    closed: Tensor,
    rule: SegmentRule,
    memory: Memory | None,
    *,
    reads_all: bool = True,
) -> tuple[Tensor, History]:
    """The open blocks on their memories: hidden (B, W, D) and the events of the rows, right-padded."""
    columns, exist = open_columns(batch.events, closed, rule)
    opened = batch.history.at(columns, exist)
    opened = opened.without_targets(unscored(rule, closed, columns.shape[1], reads_all=reads_all))
    hidden, _ = backbone.step(rows_of(opened, encode), memory)
    return hidden, opened


def rows_of(history: History, encode: Encode) -> Rows:
    """The rows of a stretch of history."""
    return Rows(encode(history.item), history.time, history.query_time, history.position, history.valid)


def _token_rows(tokens: Tensor, segment: Rows) -> Rows:
    """Rows of the tokens: at time and position of the segment's last event, as keys and as queries."""
    users, count = len(segment.x), len(tokens)
    time = segment.time[:, -1:].expand(-1, count)
    return Rows(
        x=tokens.expand(users, -1, -1),
        time=time,
        query_time=time,
        position=segment.position[:, -1:].expand(-1, count),
        valid=segment.valid[:, -1:].expand(-1, count),
    )


def _concatenate(parts: list[Rows]) -> Rows:
    return Rows(*(torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)))
