"""Rows of a step: those of events, those of tokens, and several one after the other.

Shapes: B users, L rows, S events of a segment, K tokens, M remembered rows, D width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import History
from persrec.models.interfaces import Memory, Rows
from persrec.models.segments import causal

Encode = Callable[..., Tensor]  # item ids (B, L), and inputs (B, L, F) where there are any, to vectors (B, L, D)


def rows_of(history: History, encode: Encode) -> Rows:
    """The rows of a stretch of history."""
    x = encode(history.item) if history.inputs is None else encode(history.item, history.inputs)
    return Rows(x, history.time, history.query_time, history.position, history.valid)


def token_rows(tokens: Tensor, segment: Rows) -> Rows:
    """Rows of tokens (K, D) or (B, K, D): at time and position of the segment's last event, as keys and as queries."""
    count = tokens.shape[-2]
    time = segment.time[:, -1:].expand(-1, count)
    return Rows(
        x=tokens.expand(len(segment.x), -1, -1),
        time=time,
        query_time=time,
        position=segment.position[:, -1:].expand(-1, count),
        valid=segment.valid[:, -1:].expand(-1, count),
    )


def shares(segment: Rows, tokens: int) -> Tensor:
    """Means (B, K, D) of the vectors of a segment's events: of each token's share of them, in their order; zeros where
    a share has none."""
    events = segment.x.shape[1]
    share = torch.arange(events, device=segment.x.device) * tokens // events
    own = (share == torch.arange(tokens, device=share.device)[:, None]) & segment.valid[:, None]  # (B, K, S)
    return own.to(segment.x.dtype) @ segment.x / own.sum(dim=2).clamp(min=1)[..., None]


def concatenate(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after the other."""
    return Rows(*(torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)))


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """Of rows (B, L, D) those at the places (B, A) of each user: (B, A, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def in_front(memory: Memory, rows: Rows) -> Rows:
    """The rows of a memory's first plane, then the others: (B, M+L)."""
    before = Rows(memory.states[:, 0].to(rows.x.dtype), memory.time, memory.time, memory.position, memory.valid)
    return concatenate([before, rows])


def seen_in_front(memory: Memory, visible: Tensor | None) -> Tensor | None:
    """What rows may see (B or 1, M+L, M+L), causal among those of the memory, of what others may (B or 1, L, M+L)."""
    if visible is None:
        return None
    among = causal(memory.rows, 0, device=visible.device)[None].expand(len(visible), -1, -1)
    return torch.cat([F.pad(among, (0, visible.shape[2] - memory.rows)), visible], dim=1)
