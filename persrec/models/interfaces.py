"""The seam between backbones and compressors: the values that cross it and the two protocols on its sides.

Shapes: B users, L rows, S events of a segment, R minimum of recent events, K tokens, M remembered rows, N layers, D width.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class Rows(NamedTuple):
    """Rows that enter a step, as keys and as queries."""

    x: Tensor  # (B, L, D)
    time: Tensor  # (B, L) int64 ms, of the row as a key
    query_time: Tensor  # (B, L) int64 ms, of the row as a query: its own, or the next event's
    position: Tensor  # (B, L) int64, index in the user's history
    valid: Tensor  # (B, L) bool


@dataclass(frozen=True)
class Memory:
    """What is kept of the compressed events of a batch of users: a value, never changed in place."""

    states: Tensor  # (B, P, M, D); layered: P = N and plane l is layer l's input at the token rows
    time: Tensor  # (B, M) int64 ms
    position: Tensor  # (B, M) int64
    valid: Tensor  # (B, M) bool
    weight: Tensor  # (B, M) events behind each row
    count: Tensor  # (B,) int64, events folded so far
    maker: str = ""  # fingerprint of the parameters that made it; empty while they are being trained

    @property
    def rows(self) -> int:
        """M, the number of remembered rows, invalid ones included."""
        return self.states.shape[2]


class Backbone(Protocol):
    """A stack of N layers that reads rows on top of a memory."""

    layers: int
    width: int

    def step(
        self, rows: Rows, memory: Memory | None = None, *, keep: Tensor | None = None, visible: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden (B, L, D); with `keep`, the (K,) row indices of the tokens, also (B, N+1, K, D).

        The second result holds each layer's input and the final output at the token rows. Rows are causal after the memory
        unless `visible` (B or 1, L, M+L), True = may attend, says otherwise; `valid` always applies as well.
        """
        ...


class Compressor(Protocol):
    """Turns closed segments into memory."""

    def start(self, users: int) -> Memory:
        """The memory of users of whom nothing has been folded yet."""
        ...

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None
    ) -> tuple[Tensor, Memory]:
        """Hidden (B, S, D), or (B, S+R-1, D) with `after`, and the memory with this segment in it.

        The rows of `after` are the events that follow the segment: they see memory and segment, not the new tokens.
        """
        ...
