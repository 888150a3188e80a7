"""What the backbones of ours share: layers behind the step, row blocks with masks and buckets, remembered rows.

Shapes: B users, L rows, K tokens, M remembered rows, C = M + L columns, N layers, H heads, E = D / H, D width.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models.attention import Bias, Buckets, position_bucket, time_bucket
from persrec.models.interfaces import Chain, Memory, Rows
from persrec.models.memory import put
from persrec.models.rows import in_front, seen_in_front
from persrec.models.segments import causal

LEAST = 0.01  # events that a remembered row counts as at least: a share of them may be as good as none


class RowBlock(NamedTuple):
    """A run of rows and what they may see: the memory and the first rows up to the run's own end."""

    rows: slice
    columns: int  # of the C columns, the first ones are in reach
    buckets: Buckets
    visible: Tensor  # (B, rows, columns) bool


class Competing(NamedTuple):
    """Token rows that compete for events, and what they may see."""

    rows: Tensor  # (K,) int64
    divided: Tensor  # (C,) bool: columns of events, which are divided among the tokens that see them
    buckets: Buckets
    visible: Tensor  # (B, K, C) bool


class Asked(NamedTuple):
    """The rows that are wanted of the last layer."""

    row: Tensor  # (B, A) int64
    block: RowBlock  # of these rows in their order


class Columns(NamedTuple):
    """What rows may see: the memory, then the rows themselves."""

    position: Tensor  # (B or 1, C)
    time: Tensor  # (B, C)
    valid: Tensor  # (B, C)
    remembered: int  # M, of the C columns the first ones, which are no rows


class Stack(nn.Module):
    """N layers behind the step, each `layer(x, remembered, blocks, pick=, keep=, competing=, weight=, recompute=)`.

    `exact` is the distance in events up to which the position bias is exact (S + R). Causal rows are attended in
    blocks of `row_block` to twice as many, so that most of the invisible half of a long square is not computed;
    with `recompute` their scores are computed again in the backward pass instead of being kept. Where tokens `compete`,
    layers are told which rows are `competing` (Locatello et al., arXiv 2006.15055); with `count_weight`, the logarithm
    of the events behind each column (B, C).
    """

    chains = True

    def __init__(
        self,
        layers: Iterable[nn.Module],
        *,
        width: int,
        exact: int,
        timed: bool,
        row_block: int,
        recompute: bool,
        compete: bool = False,
        count_weight: bool = False,
    ) -> None:
        super().__init__()
        self.stack = nn.ModuleList(layers)
        self.layers, self.width = len(self.stack), width
        self.exact, self.timed = exact, timed
        self.row_block, self.recompute = row_block, recompute
        self.compete, self.count_weight = compete, count_weight

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
        """See `Backbone.step`; the memory has N planes, of rows that are keys only, or one, of rows put in front."""
        if memory is None or memory.states.shape[1] == self.layers > 1:
            columns = self._columns(rows, memory, chain)
            parts = self._blocks(rows, columns, visible), self._competing(rows, columns, visible, keep)
            last = None if asked is None else Asked(asked, self._block(rows, columns, visible, asked))
            weight = self._weight(rows, memory, chain)
            return self._through(rows, memory, *parts, chain, last, keep=keep, given=keep, weight=weight)
        if memory.states.shape[1] != 1:
            raise ValueError(
                f"the memory has {memory.states.shape[1]} planes, but this {type(self).__name__} has {self.layers} "
                "layers and reads one plane per layer, or one alone; fold the history with this model"
            )
        if chain is not None:
            raise ValueError("a memory of one plane is folded segment by segment, but a chain was given")
        count, weight = memory.rows, self._weight(rows, memory, None)
        rows, visible = in_front(memory, rows), seen_in_front(memory, visible)
        leading = torch.arange(count, device=rows.x.device)
        after = None if keep is None else keep + count
        columns = self._columns(rows, None, None, first=count)
        parts = self._blocks(rows, columns, visible), self._competing(rows, columns, visible, after, first=count)
        given = leading if after is None else torch.cat([leading, after])
        last = None if asked is None else Asked(asked + count, self._block(rows, columns, visible, asked + count))
        x, kept = self._through(rows, None, *parts, None, last, keep=after, given=given, weight=weight)
        return x if last is not None else x[:, count:], kept

    def _through(
        self,
        rows: Rows,
        memory: Memory | None,
        blocks: list[RowBlock],
        competing: Competing | None,
        chain: Chain | None,
        last: "Asked | None",
        *,
        keep: Tensor | None,
        given: Tensor | None,
        weight: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Rows through all layers, only those that are asked for through the last one, and what is kept of rows `keep`;
        rows `given` are tokens or made of them."""
        x = rows.x
        pick = None if chain is None else (chain.user[:, None], chain.window)
        options: dict[str, Any] = {
            "pick": pick,
            "keep": given,
            "competing": competing,
            "weight": weight,
            "recompute": self.recompute,
        }
        kept: list[Tensor] = []
        for index, layer in enumerate(self.stack):
            if keep is not None:
                kept.append(x[:, keep])
            remembered = None if memory is None else memory.states[:, index]
            if chain is not None and remembered is not None:
                written = put(chain, kept[-1]).flatten(1, 2)  # (B, G * K, D)
                remembered = torch.cat([remembered[:, : remembered.shape[1] - written.shape[1]], written], dim=1)
            if last is not None and index == self.layers - 1:
                blocks = [last.block]
                if competing is not None:
                    options["competing"] = competing._replace(rows=torch.arange(last.row.shape[1], device=x.device))
                options["asked"] = last.row
            x = layer(x, remembered, blocks, **options)
        if keep is None:
            return x, None
        return x, torch.stack([*kept, x[:, keep] if last is None else x], dim=1)

    def _columns(self, rows: Rows, memory: Memory | None, chain: Chain | None, *, first: int = 0) -> Columns:
        """What the rows of a step may see; row `first` is the first one that is no memory."""
        position, time, valid = rows.position, rows.time, rows.valid
        remembered = 0
        if memory is not None:
            old = memory.position, memory.time, memory.valid
            if chain is not None:
                here = chain.user[:, None], chain.window
                old = memory.position[here], memory.time[here], memory.valid[here] & chain.reach
            remembered = old[0].shape[1]
            position = torch.cat([old[0], position], dim=1)  # (B, C)
            time = torch.cat([old[1], time], dim=1)
            valid = torch.cat([old[2], valid], dim=1)
        position = _shared(position - position[:, remembered + first, None], valid)
        return Columns(position, time, valid, remembered)

    def _blocks(self, rows: Rows, columns: Columns, visible: Tensor | None) -> list[RowBlock]:
        """The row blocks of a step, with buckets and masks."""
        length = rows.x.shape[1]
        position, time, valid, remembered = columns
        size = -(-length // max(1, length // self.row_block))
        blocks = []
        for start in range(0, length, size):
            own = slice(start, min(start + size, length))
            reach = remembered + own.stop
            distance = position[:, remembered + start : reach, None] - position[:, None, :reach]
            gap = rows.query_time[:, own, None] - time[:, None, :reach] if self.timed else None
            buckets = Buckets(position_bucket(distance, self.exact), None if gap is None else time_bucket(gap))
            seen = causal(own.stop - start, remembered + start, device=rows.x.device)[None] & valid[:, None, :reach]
            blocks.append(RowBlock(own, reach, buckets, seen if visible is None else seen & visible[:, own, :reach]))
        return blocks

    def _block(self, rows: Rows, columns: Columns, visible: Tensor | None, asked: Tensor) -> RowBlock:
        """The rows (B, A) that are asked for, as one block."""
        position, time, valid, remembered = columns
        place, width = remembered + asked, valid.shape[1]  # (B, A), and C
        distance = position.expand(asked.shape[0], -1).gather(1, place)[:, :, None] - position[:, None]
        gap = rows.query_time.gather(1, asked)[:, :, None] - time[:, None] if self.timed else None
        buckets = Buckets(position_bucket(distance, self.exact), None if gap is None else time_bucket(gap))
        seen = (torch.arange(width, device=asked.device) <= place[:, :, None]) & valid[:, None]
        if visible is not None:
            seen = seen & visible.expand(asked.shape[0], -1, -1).gather(1, asked[:, :, None].expand(-1, -1, width))
        return RowBlock(slice(0, asked.shape[1]), width, buckets, seen)

    def _competing(
        self, rows: Rows, columns: Columns, visible: Tensor | None, keep: Tensor | None, *, first: int = 0
    ) -> Competing | None:
        """Token rows `keep` of a step, if they compete: for all rows from `first` on that are no tokens."""
        if not self.compete or keep is None:
            return None
        position, time, valid, remembered = columns
        order = torch.arange(valid.shape[1], device=keep.device)
        distance = position[:, remembered + keep, None] - position[:, None]
        gap = rows.query_time[:, keep, None] - time[:, None] if self.timed else None
        buckets = Buckets(position_bucket(distance, self.exact), None if gap is None else time_bucket(gap))
        seen = (order <= remembered + keep[:, None])[None] & valid[:, None]
        divided = (order >= remembered + first).index_fill(0, remembered + keep, False)
        return Competing(keep, divided, buckets, seen if visible is None else seen & visible[:, keep])

    def _weight(self, rows: Rows, memory: Memory | None, chain: Chain | None) -> Tensor | None:
        """Logarithm of the events behind each column (B, C), where it counts; below `LEAST` an event it is that."""
        if not self.count_weight or memory is None:
            return None
        old, valid = memory.weight, memory.valid
        if chain is not None:
            old, valid = (field[chain.user[:, None], chain.window] for field in (old, valid))
        old = old.where(valid, 1.0).clamp(min=LEAST).log().to(rows.x.dtype)
        return F.pad(old, (0, rows.x.shape[1]))


def _shared(position: Tensor, valid: Tensor) -> Tensor:
    """Relative positions (B, C), or (1, C) where they are the same for all users wherever these have valid columns."""
    if torch.compiler.is_compiling():  # a program that is exported does not depend on the values of one batch
        return position
    fullest = valid.sum(dim=1).argmax()
    one = position[fullest, None]
    return one if bool(((position == one) | ~valid).all()) else position


def projected(x: Tensor, inner: nn.Linear, of_tokens: nn.Linear | None, keep: Tensor | None) -> Tensor:
    """Rows (B, L, D) through a projection; token rows `keep` (K,) through their own, where they have one."""
    found = inner(x)
    return found if of_tokens is None or keep is None else found.index_copy(1, keep, of_tokens(x[:, keep]))


def with_remembered(old: Tensor, new: Tensor, pick: tuple[Tensor, Tensor] | None) -> Tensor:
    """Remembered rows (B, M, D) in front of new ones: (B, C, D).

    With `pick`, users (E, 1) and rows (E, W) of a memory, entry e of the new rows gets these of the remembered ones.
    """
    if pick is not None:
        users, rows = pick
        flat = (users * old.shape[1] + rows).flatten()
        old = old.flatten(0, 1).index_select(0, flat).unflatten(0, rows.shape)  # as indexing, with a faster gradient
    return torch.cat([old, new], dim=1)


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: tuple[Tensor, Tensor | None],
    blocks: list[RowBlock],
    competing: Competing | None,
    *,
    attend: Callable[..., Tensor],
    compete: Callable[..., Tensor],
) -> Tensor:
    """What rows (B, H, L, E) take from columns (B, H, C, E), heads joined again: (B, L, D).

    `attend` goes over the row blocks; `compete` over the token rows that compete, in the place of what `attend` gave.
    """
    parts = [
        attend(
            query[:, :, block.rows],
            key[:, :, : block.columns],
            value[:, :, : block.columns],
            bias=Bias(block.buckets, *tables),
            visible=block.visible,
        )
        for block in blocks
    ]
    joined = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    if competing is not None:
        options = {"bias": Bias(competing.buckets, *tables), "visible": competing.visible, "divided": competing.divided}
        joined = joined.index_copy(2, competing.rows, compete(query[:, :, competing.rows], key, value, **options))
    return joined.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) to (B, H, L, E)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def norm(x: Tensor) -> Tensor:
    """Each row with mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
