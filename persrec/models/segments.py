"""The segment rule, and every mask that follows from it.

Shapes: B users, L rows, S events of a segment, R minimum of recent events, K tokens, M remembered rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SegmentRule(NamedTuple):
    """Which of a user's n events are closed segments and which are the open block: a function of n, S and R alone."""

    segment: int  # S
    recent: int | None  # R >= 1; None = no limit: nothing is ever closed (the `full` form)

    def closed(self, events: Tensor) -> Tensor:
        """Number m of closed segments for each count of events: max(0, (n - R) // S)."""
        if self.recent is None:
            return torch.zeros_like(events)
        return ((events - self.recent) // self.segment).clamp(min=0)


def causal(rows: int, remembered: int, *, device: torch.device | None = None) -> Tensor:
    """Every row sees the memory, itself and the rows before it: bool (L, M+L), True = may attend."""
    ones = torch.ones(rows, remembered + rows, dtype=torch.bool, device=device)
    return ones.tril(diagonal=remembered)


def fold_visible(
    segment: int, after: int, tokens: int, remembered: int, *, device: torch.device | None = None
) -> Tensor:
    """Causal, but tokens do not see the events after their segment: bool (1, L, M+L) with L = segment + after + tokens.

    Rows stand in the order segment, events after it, tokens; so no event sees a token.
    """
    visible = causal(segment + after + tokens, remembered, device=device)
    visible[segment + after :, remembered + segment : remembered + segment + after] = False
    return visible[None]


def chain_window(block: Tensor, blocks: int, remembered: int, tokens: int, cap: int | None) -> tuple[Tensor, Tensor]:
    """What blocks read of memory and of each other's tokens: rows (E, W) and which of them exist, bool (E, W).

    Of a user's M remembered rows and the G * K rows after them, which hold the tokens of blocks 0 to G-1, block b reads
    the W that end before its own; with `cap` at most those of the newest `cap` segments. Right-aligned, so that a
    column is at the same distance for all entries.
    """
    width = remembered + (blocks - 1) * tokens
    width = width if cap is None else min(width, cap * tokens)
    rows = remembered + block[:, None] * tokens - width + torch.arange(width, device=block.device)
    return rows.clamp(min=0), rows >= 0


def unscored(rule: SegmentRule, block: Tensor, rows: int, *, reads_all: bool) -> Tensor:
    """Rows of each block that carry no loss: bool (E, rows).

    With `reads: all` an event is scored where it has R to R+S-1 clear events, as in serving: rows from R-1 on, except
    in block 0, before which there is nothing. With `reads: none` every row of a block is scored.
    """
    early = rule.recent - 1 if reads_all and rule.recent is not None else 0
    return (torch.arange(rows, device=block.device) < early)[None] & (block > 0)[:, None]


def open_columns(events: Tensor, closed: Tensor, rule: SegmentRule) -> tuple[Tensor, Tensor]:
    """Columns of each user's open block, (B, W) int64, and which of them exist, (B, W) bool; right-padded."""
    start = closed * rule.segment
    width = int((events - start).max()) if len(events) else 0
    columns = start[:, None] + torch.arange(width, device=events.device)
    return columns, columns < events[:, None]
