"""The layered memory: what each layer was given at the token rows, appended segment by segment.

Shapes: B users, S events of a segment, R minimum of recent events, K tokens, M remembered rows, N layers, D width.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from persrec.models import memory as memories
from persrec.models.interfaces import Backbone, Chain, Memory, Rows
from persrec.models.keeper import Keeper
from persrec.models.merging import merged
from persrec.models.rows import concatenate, shares, token_rows
from persrec.models.segments import chain_window, fold_visible


class Layered(Keeper):
    """A memory that appends K rows per segment: each layer's input at the token rows (PerSRec, arXiv 2601.03479).

    `cap` keeps the newest segments only. With `merge_segments`, S, instead two neighbouring rows of as many events
    become one, slot by slot, so that n segments leave O(log n) blocks of K rows, the oldest ones the coarsest. Needs
    N >= 2: layer 1 is given the tokens themselves, the same for every user. With `means` it is given, beside them, that
    many times the mean of each token's share of the segment's events, which is kept as well: layer 1 then reads
    something of the user, too, and a layer that knows events can do so before it has learned what tokens are. (Chunk
    means as the start of queries: SequenceO1.)
    """

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        layers: int,
        cap: int | None = None,
        merge_segments: int | None = None,
        means: float = 0.0,
        **keeping: Any,
    ) -> None:
        super().__init__(**keeping)
        if layers < 2:
            raise ValueError(
                f"a layered memory keeps what layers 2 and up were given; got a backbone of {layers} layer, "
                "expected 2 or more"
            )
        self.layers, self.rows, self.cap, self.merge_segments = layers, tokens, cap, merge_segments
        self.means = means
        # Small beside what a layer adds to it, so that the next layer is given what the token has read, not the token.
        self.tokens = nn.Parameter(torch.empty(tokens, width).normal_(std=0.005))

    @property
    def stored(self) -> int:
        """See `Compressor.stored`; the tokens themselves are the same for everybody."""
        return self.layers if self.means else self.layers - 1

    @property
    def chains(self) -> bool:
        """Whether several segments may be folded in one pass, in which later ones read tokens as they are written."""
        return self.merge_segments is None and not self.rounds

    def start(self, users: int) -> Memory:
        """An empty memory (M = 0) of N planes."""
        return memories.empty(users, self.layers, self.tokens.shape[1], like=self.tokens, maker=self.maker)

    def fold(
        self, backbone: Backbone, segment: Rows, memory: Memory, after: Rows | None = None, *, scored: bool = True
    ) -> tuple[Tensor, Memory]:
        """See `Compressor.fold`."""
        rows, tokens, keep = self._with_tokens(segment, after)
        visible = None if after is None else self._visible(segment, after, memory.rows)
        asked = None if scored else keep.expand(len(rows.x), -1)
        hidden, kept = backbone.step(rows, memory, keep=keep, visible=visible, asked=asked)
        assert kept is not None
        events = segment.valid.sum(dim=1)
        new = Memory(
            states=self._kept_planes(kept[:, : self.layers]),  # the inputs of all layers; the final output is none
            time=tokens.time,
            position=tokens.position,
            valid=tokens.valid,
            weight=(events / len(self.tokens)).to(kept.dtype)[:, None].expand(-1, len(self.tokens)),
            count=events,
        )
        return hidden[:, : int(keep[0])], self._bounded(memories.append(memory, new))

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
        """See `Compressor.fold_chain`."""
        rows, tokens, keep = self._with_tokens(segment, after)
        count = len(self.tokens)
        reserved = memories.reserved(chain, tokens, segment.valid.sum(dim=1), self.layers, like=self.tokens)
        window, reach = chain_window(chain.block, chain.blocks, memory.rows, count, self.cap)
        chain = chain._replace(window=window, reach=reach)
        visible = None if after is None else self._visible(segment, after, window.shape[1])
        options: dict[str, Any] = {"keep": keep, "visible": visible, "chain": chain}
        options["asked"] = None if scored else keep.expand(len(rows.x), -1)
        hidden, kept = backbone.step(rows, memories.append(memory, reserved), **options)
        assert kept is not None
        states = memories.put(chain, kept[:, : self.layers]).transpose(1, 2).flatten(2, 3)  # (users, N, G * K, D)
        grown = memories.append(memory, replace(reserved, states=states))
        missing = chain.blocks - torch.bincount(chain.user, minlength=chain.users)
        return hidden[:, : int(keep[0])], self._bounded(memories.align(grown, missing * count))

    def begin(self, segment: Rows) -> Tensor:
        """What layer 1 is given at the token rows of a segment: (K, D), or (B, K, D)."""
        return self.tokens + self.means * shares(segment, len(self.tokens)) if self.means else self.tokens

    def _with_tokens(self, segment: Rows, after: Rows | None) -> tuple[Rows, Rows, Tensor]:
        """All rows of a fold, the token rows among them, and their indices (K,)."""
        tokens = token_rows(self.begin(segment), segment)
        rows = concatenate([segment, tokens] if after is None else [segment, after, tokens])
        length = rows.x.shape[1]
        return rows, tokens, torch.arange(length - len(self.tokens), length, device=rows.x.device)

    def _visible(self, segment: Rows, after: Rows, remembered: int) -> Tensor:
        return fold_visible(segment.x.shape[1], after.x.shape[1], len(self.tokens), remembered, device=segment.x.device)

    def _kept_planes(self, states: Tensor) -> Tensor:
        """All planes (B, N, M, D), rounded where they are stored."""
        shared = self.layers - self.stored
        return torch.cat([states[:, :shared], self.kept(states[:, shared:])], dim=1) if self.rounds else states

    def _bounded(self, memory: Memory) -> Memory:
        if self.merge_segments is not None:
            memory = merged(memory, len(self.tokens), self.merge_segments, self._kept_planes)
        return memory if self.cap is None else memories.newest(memory, self.cap * len(self.tokens))
