"""The seam between backbones and compressors: the values that cross it and the two protocols on its sides.

Shapes: B users, L rows, S events of a segment, R minimum of recent events, K tokens, M remembered rows, N layers,
D width.
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


@dataclass(frozen=True, repr=False)
class Memory:
    """What is kept of the compressed events of a batch of users: a value, never changed in place."""

    states: Tensor  # (B, P, M, D); P = N: plane l is layer l's input at the rows, keys only; P = 1: rows in front
    time: Tensor  # (B, M) int64 ms
    position: Tensor  # (B, M) int64
    valid: Tensor  # (B, M) bool
    weight: Tensor  # (B, M) events behind each row
    count: Tensor  # (B,) int64, events folded so far
    maker: str = ""  # fingerprint of the parameters that made it; empty while they are being trained

    def __repr__(self) -> str:
        """Its sizes: the tensors would fill screens."""
        users, planes, rows, width = self.states.shape
        return f"Memory(users={users}, rows={rows}, planes={planes}, width={width}, dtype={self.states.dtype})"

    @property
    def rows(self) -> int:
        """M, the number of remembered rows, invalid ones included."""
        return self.states.shape[2]


class Chain(NamedTuple):
    """Consecutive blocks of users in one step: entry e of the step is block `block[e]` of user `user[e]` of the memory.

    Blocks of a user count from 0 and none is left out. The last G * K rows of the memory stand for the tokens of these
    blocks: a step fills them in, layer by layer, so that later blocks read what earlier ones write in the same pass.
    """

    user: Tensor  # (E,) int64, index into the memory's users
    block: Tensor  # (E,) int64, below G
    users: int
    blocks: int  # G
    window: Tensor  # (E, W) int64: the rows of the user's memory that an entry reads, the newest one last
    reach: Tensor  # (E, W) bool: False where there is no such row


class Backbone(Protocol):
    """A stack of N layers that reads rows on top of a memory; `chains` says whether its step understands a `Chain`."""

    layers: int
    width: int
    chains: bool

    def step(
        self,
        rows: Rows,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        visible: Tensor | None = None,
        chain: Chain | None = None,
        asked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden (B, L, D); with `keep`, the (K,) row indices of the tokens, also (B, N+1, K, D).

        Of a memory of one plane the rows stand in front, causal among themselves, and their outputs are dropped; a
        chain needs N planes. The second result holds each layer's input and the final output at the token rows. Rows
        are causal after the memory; `visible` (B or 1, L, M+L), True = may attend, narrows this, and `valid` always
        applies as well. With `chain` the rows are those of its E entries, `memory` is of its users, and `visible` is
        (E or 1, L, W+L). With `asked`, the indices (B, A) of the rows of each user that are wanted, hidden is (B, A, D)
        of these alone, and the last layer need not go over others; beside `keep` they are the tokens.
        """
        ...


class Compressor(Protocol):
    """Turns closed segments into memory; `rows` is how many rows a fold writes, `encoding` how numbers are kept."""

    rows: int
    encoding: str

    @property
    def stored(self) -> int:
        """Planes of a memory that are the user's own, which a store keeps; the last ones of all."""
        ...

    @property
    def chains(self) -> bool:
        """Whether several segments of a user may be folded in one pass."""
        ...

    def start(self, users: int) -> Memory:
        """The memory of users of whom nothing has been folded yet."""
        ...

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None, *, scored: bool = True
    ) -> tuple[Tensor, Memory]:
        """Hidden (B, S, D), or (B, S+R-1, D) with `after`, and the memory with this segment in it.

        The rows of `after` are the events that follow the segment: they see memory and segment, not the new tokens.
        Where they are not `scored`, nobody looks at hidden, and it may be anything.
        """
        ...

    def fold_chain(
        self,
        backbone: Backbone,
        segment: Rows,
        memory: Memory,
        chain: Chain,
        after: Rows | None = None,
        *,
        scored: bool = True,
    ) -> tuple[Tensor, Memory]:
        """The same for several consecutive segments of each user in one pass: rows (E, S, D), memory of the users.

        Equal to one `fold` after the other; only used where backbone and compressor understand chains.
        """
        ...
