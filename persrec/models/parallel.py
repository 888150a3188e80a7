"""The recurrent memory trained on all segments at once (Rec2PM): each is folded on a reference, not on a loop's memory.

Shapes: B users, E = all closed segments of a batch, S events of a segment, R minimum of recent events, G segments that
a reference sees, K tokens, D width.
"""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import Batch
from persrec.models import memory as memories
from persrec.models.compressor import Looped, Score, T, read
from persrec.models.interfaces import Backbone, Memory
from persrec.models.recurrent import Recurrent
from persrec.models.rows import Encode, concatenate, rows_of, token_rows
from persrec.models.segments import SegmentRule, unscored


class Segments(NamedTuple):
    """All closed segments of a batch: the first ones of all users, then the second ones, and so on."""

    user: Tensor  # (E,) int64
    block: Tensor  # (E,) int64
    before: Tensor  # (E,) int64, the entry of the user's segment before; of a first one the entry itself
    users: list[int]  # how many users have a first one, a second one, ...


def at_once(
    backbone: Backbone,
    compressor: Recurrent,
    encode: Encode,
    batch: Batch,
    rule: SegmentRule,
    *,
    score: Score[T],
    reads_all: bool,
    reach: int,
) -> Looped:
    """What `loop` gives, where segment j is folded on a reference of the segments before it, for training only.

    A reference is what tokens become that see the last `reach` segments as events. `disagreement` is the mean of 1 -
    cosine between what a fold writes and the reference of the same segments, towards which it is drawn.
    """
    segments = _segments(rule.closed(batch.events))
    if not len(segments.user):
        memory = compressor.start(len(batch.events))
        opened = read(backbone, encode, batch, rule.closed(batch.events), rule, memory, reads_all=reads_all)
        return Looped([score(*opened)], memory, [])
    reference = _references(backbone, compressor, encode, batch, rule, segments, reach)
    given = _given(reference, segments)
    behind = rule.recent - 1 if reads_all and rule.recent is not None else 0
    columns = segments.block[:, None] * rule.segment + torch.arange(rule.segment + behind, device=segments.user.device)
    events = batch.history.of(segments.user, columns)
    segment, after = events.split(rule.segment)
    following = rows_of(after, encode) if behind else None
    hidden, made = compressor.fold(backbone, rows_of(segment, encode), given, following)
    skipped = unscored(rule, segments.block, columns.shape[1], reads_all=reads_all)
    scored = [score(hidden, events.without_targets(skipped))]
    away = 1 - F.cosine_similarity(made.states, reference.states.detach(), dim=-1).mean()
    starts = torch.tensor([0, *segments.users]).cumsum(0).tolist()
    trail = [memories.take(made, slice(begin, end)) for begin, end in pairwise(starts)]
    memory = _last(compressor, trail, len(batch.events))
    scored.append(score(*read(backbone, encode, batch, rule.closed(batch.events), rule, memory, reads_all=reads_all)))
    return Looped(scored, memory, trail, away)


def _segments(closed: Tensor) -> Segments:
    most = int(closed.max()) if len(closed) else 0
    users = [int((closed > block).sum()) for block in range(most)]
    block = torch.repeat_interleave(torch.arange(most), torch.tensor(users, dtype=torch.int64)).to(closed.device)
    start = torch.tensor([0, *users]).cumsum(0).to(closed.device)
    user = torch.arange(len(block), device=closed.device) - start[block]
    before = torch.where(
        block > 0, start[(block - 1).clamp(min=0)] + user, torch.arange(len(block), device=block.device)
    )
    return Segments(user, block, before, users)


def _references(
    backbone: Backbone,
    compressor: Recurrent,
    encode: Encode,
    batch: Batch,
    rule: SegmentRule,
    segments: Segments,
    reach: int,
) -> Memory:
    """What the tokens become at the end of each segment (E users) that see it and those before it as events."""
    width = reach * rule.segment
    column = (segments.block[:, None] + 1) * rule.segment - width + torch.arange(width, device=segments.block.device)
    history = batch.history.of(segments.user, column.clamp(min=0))
    history = history._replace(valid=history.valid & (column >= 0))
    events = rows_of(history, encode)
    tokens = token_rows(compressor.tokens, events)
    keep = torch.arange(width, width + compressor.rows, device=column.device)
    _, kept = backbone.step(concatenate([events, tokens]), None, keep=keep)
    assert kept is not None
    nothing = compressor.start(len(column))
    count = history.position[:, -1] + 1
    return replace(
        nothing,
        states=compressor.kept(compressor.mixed(nothing, kept[:, -1]))[:, None],
        time=tokens.time,
        position=tokens.position,
        valid=tokens.valid,
        weight=(count / compressor.rows).to(kept.dtype)[:, None].expand(-1, compressor.rows),
        count=count,
    )


def _given(reference: Memory, segments: Segments) -> Memory:
    """The memory on which each segment is folded: nothing for first ones."""
    given = memories.take(reference, segments.before)
    later = segments.block > 0
    return replace(
        given, valid=given.valid & later[:, None], count=given.count * later, weight=given.weight * later[:, None]
    )


def _last(compressor: Recurrent, trail: list[Memory], users: int) -> Memory:
    """What the last fold of each user wrote; users stand in descending order of closed segments."""
    memory, done = compressor.start(0), 0
    for step in reversed(trail):
        memory = memories.join(memory, memories.take(step, slice(done, None)))
        done = max(done, len(step.count))
    return memories.join(memory, compressor.start(users - done))
