"""The idea on one page: fold closed segments into a memory, read the open block on it, and loop over both.

Shapes: B users, T columns, S events of a segment, R minimum of recent events, K tokens, M remembered rows, N layers, D width.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from persrec.batches import Batch, History
from persrec.models import memory as memories
from persrec.models.interfaces import Backbone, Compressor, Memory, Rows
from persrec.models.segments import SegmentRule, first_scored_row, fold_visible, open_columns

T = TypeVar("T")
Encode = Callable[[Tensor], Tensor]  # item ids (B, L) to vectors (B, L, D)
Score = Callable[[Tensor, History, int], T]  # hidden (B, L, D), the events of its rows, clear events before the first


class Layered(nn.Module):
    """A memory that appends K rows per segment: what each layer was given at the token rows (PerSRec, arXiv 2601.03479).

    `cap` keeps the newest segments only. Needs N >= 2: layer 1 is given the tokens themselves, the same for every user.
    """

    def __init__(self, *, tokens: int, width: int, layers: int, cap: int | None = None) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(
                f"a layered memory keeps what layers 2 and up were given; got a backbone of {layers} layer, expected 2 or more"
            )
        self.layers, self.cap, self.maker = layers, cap, ""
        self.tokens = nn.Parameter(torch.empty(tokens, width).normal_(std=0.02 * width**0.5))

    def start(self, users: int) -> Memory:
        """An empty memory (M = 0) of N planes."""
        return memories.empty(users, self.layers, self.tokens.shape[1], like=self.tokens, maker=self.maker)

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold`."""
        count, events = len(self.tokens), segment.x.shape[1] + (0 if after is None else after.x.shape[1])
        tokens = _token_rows(self.tokens, segment)
        rows = _concatenate([segment, tokens] if after is None else [segment, after, tokens])
        device = segment.x.device
        visible = None
        if after is not None:
            visible = fold_visible(segment.x.shape[1], after.x.shape[1], count, memory.rows, device=device)
        keep = torch.arange(events, events + count, device=device)
        hidden, kept = backbone.step(rows, memory, keep=keep, visible=visible)
        assert kept is not None
        grown = memories.append(memory, self._remember(kept, tokens, segment))
        return hidden[:, :events], grown if self.cap is None else memories.newest(grown, self.cap * count)

    def _remember(self, kept: Tensor, tokens: Rows, segment: Rows) -> Memory:
        """The new rows: the inputs (B, N, K, D) of all layers at the tokens; the final output is not an input."""
        events = segment.valid.sum(dim=1)
        return Memory(
            states=kept[:, : self.layers],
            time=tokens.time,
            position=tokens.position,
            valid=tokens.valid,
            weight=(events / len(self.tokens)).to(kept.dtype)[:, None].expand(-1, len(self.tokens)),
            count=events,
        )


class Recent(nn.Module):
    """The compressor that remembers nothing: the same segments and clear events, an empty memory."""

    def __init__(self, *, width: int, layers: int) -> None:
        super().__init__()
        self.layers, self.width = layers, width
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
    checkpointed: bool = False,
) -> Looped:
    """Fold every closed segment of a batch, then read the open blocks; `score` sees the hidden rows of each block.

    Users must stand in descending order of closed segments. `score` gets hidden rows (b, l, D), the events they stand for
    and how many rows of the block come before them; with `reads_all` only rows as a served query would have. `checkpointed` keeps no activations of a fold,
    items' vectors and losses included, and computes them again in the backward pass (the same gradient).
    """

    def folded(block: int, users: int, memory: Memory) -> tuple[T, Memory]:
        start = block * rule.segment
        end = start + rule.segment
        segment, after = batch.history.part(users, start, end), batch.history.part(users, end, end + behind)
        hidden, grown = compressor.fold(
            backbone, rows_of(segment, encode), memory, rows_of(after, encode) if behind else None
        )
        first = first_scored_row(rule, block, reads_all=reads_all)
        return score(hidden[:, first:], batch.history.part(users, start + first, end + behind), first), grown

    behind = rule.recent - 1 if reads_all and rule.recent is not None else 0

    closed = rule.closed(batch.events)
    memory = compressor.start(len(closed))
    scored = []
    for block in range(int(closed.max()) if len(closed) else 0):
        users = int((closed > block).sum())
        active = memories.take(memory, slice(0, users)) if users < len(closed) else memory
        if checkpointed and torch.is_grad_enabled():
            result, grown = checkpoint(folded, block, users, active, use_reentrant=False)
        else:
            result, grown = folded(block, users, active)
        scored.append(result)
        memory = memories.join(grown, memories.take(memory, slice(users, None)))
    hidden, opened = read(backbone, encode, batch, closed, rule, memory, reads_all=reads_all)
    scored.append(score(hidden, opened, 0))
    return Looped(scored, memory)


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
    if reads_all and rule.recent is not None:
        early = torch.arange(columns.shape[1], device=columns.device) < rule.recent - 1
        opened = opened.without_targets(early[None] & (closed > 0)[:, None])
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
