"""The idea on one page: fold closed segments into a memory, read the open block on it, and loop over both.

Shapes: B users, T columns, S events of a segment, R minimum of recent events, K tokens, M remembered rows,
N layers, D width.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from persrec.batches import Batch, History
from persrec.models import memory as memories
from persrec.models.interfaces import Backbone, Chain, Compressor, Memory
from persrec.models.rows import Encode, rows_of
from persrec.models.segments import SegmentRule, open_columns, unscored

T = TypeVar("T")
Recall = Callable[[Memory, Tensor], Memory]  # memories and users (B,) of a batch, to the memories that are read
Score = Callable[[Tensor, History], T]  # hidden (E, L, D) and the events of its rows, to whatever the caller wants


class Looped(NamedTuple):
    """What a loop over a batch gives."""

    scored: list  # results of `score`, one per fold, then one for the open blocks; or what is asked for without it
    memory: Memory  # of the closed segments of every user
    trail: list[Memory]  # after each pass, of those users who had a segment in it
    disagreement: Tensor | None = None  # () of memories made in another way, see `models.parallel`


def loop(
    backbone: Backbone,
    compressor: Compressor,
    encode: Encode,
    batch: Batch,
    rule: SegmentRule,
    *,
    score: Score[T] | None,
    reads_all: bool = False,
    together: int = 8,
    checkpointed: bool = False,
    recall: Recall | None = None,
    detach_every: int | None = None,
) -> Looped:
    """Fold every closed segment of a batch, then read the open blocks; `score` sees the hidden rows of each block.

    Users must stand in descending order of closed segments. `score` gets hidden rows (E, L, D) and the events they
    stand for; without it only the last row (B, D) of each user is computed, which is `scored` then. With `reads_all`
    only rows as a served query would have keep their targets. `together` consecutive segments are folded in one pass
    where the backbone can (the same numbers; 1 = segment by segment). `checkpointed` keeps no activations of a pass,
    items' vectors and losses included, and computes them again in the backward pass (the same gradient). `recall`
    changes what the open blocks read, to see what a memory is worth. With `detach_every` the gradient ends at memories
    so many segments apart, from a random one on.
    """
    behind = rule.recent - 1 if reads_all and rule.recent is not None else 0
    together = together if backbone.chains and compressor.chains and not detach_every else 1
    cut = int(torch.randint(detach_every, ())) if detach_every else 0

    def folded(first: int, users: int, memory: Memory) -> tuple[T | None, Memory]:
        chain = _chain(closed[:users] - first, together)
        block = first + chain.block
        offsets = torch.arange(rule.segment + behind, device=block.device)
        events = batch.history.of(chain.user, block[:, None] * rule.segment + offsets)
        segment, after = events.split(rule.segment)
        rows, following = rows_of(segment, encode), rows_of(after, encode) if behind else None
        wanted = score is not None
        if together == 1:
            hidden, grown = compressor.fold(backbone, rows, memory, following, scored=wanted)
        else:
            hidden, grown = compressor.fold_chain(backbone, rows, memory, chain, following, scored=wanted)
        if score is None:
            return None, grown
        skipped = unscored(rule, block, len(offsets), reads_all=reads_all)
        return score(hidden, events.without_targets(skipped)), grown

    closed = rule.closed(batch.events)
    memory = compressor.start(len(closed))
    scored, trail = [], []
    for first in range(0, int(closed.max()) if len(closed) else 0, together):
        users = int((closed > first).sum())
        active = memories.take(memory, slice(0, users)) if users < len(closed) else memory
        if detach_every and first and first % detach_every == cut:
            active = replace(active, states=active.states.detach())
        if checkpointed and torch.is_grad_enabled():
            result, grown = checkpoint(folded, first, users, active, use_reentrant=False)
        else:
            result, grown = folded(first, users, active)
        scored += [] if score is None else [result]
        trail.append(grown)
        memory = memories.join(grown, memories.take(memory, slice(users, None)))
    if recall is not None:
        memory = recall(memory, batch.user)
    if score is None:
        scored.append(read(backbone, encode, batch, closed, rule, memory, last=True)[0][:, 0])
    else:
        scored.append(score(*read(backbone, encode, batch, closed, rule, memory, reads_all=reads_all)))
    return Looped(scored, memory, trail)


def _chain(left: Tensor, together: int) -> Chain:
    """The next blocks of users who have `left` (B,) of them, at most `together` each."""
    counts = left.clamp(max=together)
    blocks = int(counts.max())
    user, block = (torch.arange(blocks, device=left.device)[None] < counts[:, None]).nonzero().unbind(dim=1)
    none = user.new_zeros(len(user), 0)  # what is read is the compressor's to say
    return Chain(user, block, len(left), blocks, none, none.bool())


def fold_all(
    backbone: Backbone,
    compressor: Compressor,
    encode: Encode,
    batch: Batch,
    closed: Tensor,
    segment: int,
    memory: Memory,
) -> Memory:
    """The memories with the first `closed` (B,) segments of each user in them, in descending order; one by one."""
    for block in range(int(closed.max()) if len(closed) else 0):
        users, start = int((closed > block).sum()), block * segment
        rows = rows_of(batch.history.part(users, start, start + segment), encode)
        _, grown = compressor.fold(backbone, rows, memories.take(memory, slice(0, users)), scored=False)
        memory = memories.join(grown, memories.take(memory, slice(users, None)))
    return memory


def read(
    backbone: Backbone,
    encode: Encode,
    batch: Batch,
    closed: Tensor,
    rule: SegmentRule,
    memory: Memory | None,
    *,
    reads_all: bool = True,
    last: bool = False,
) -> tuple[Tensor, History]:
    """The open blocks on their memories: hidden (B, W, D), or (B, 1, D) of the `last` events alone, and the events of
    the rows, right-padded; each user has one or more."""
    columns, exist = open_columns(batch.events, closed, rule)
    opened = batch.history.at(columns, exist)
    opened = opened.without_targets(unscored(rule, closed, columns.shape[1], reads_all=reads_all))
    asked = exist.sum(dim=1, keepdim=True) - 1 if last else None
    hidden, _ = backbone.step(rows_of(opened, encode), memory, asked=asked)
    return hidden, opened
