"""A whole model: item encoder, backbone, compressor and score, as training and serving use it.

Shapes: B users, L rows, N scored rows, D width, V items. With a text head queries and what they are matched against are
wider by E, the width of the text model: Q is D, or D + E.
"""

import hashlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.batches import Batch, History
from persrec.constants import LARGEST_SCALE, PAD
from persrec.consumption import Consumed
from persrec.losses import Bonus, pair_products
from persrec.models.compressor import Looped, Recall, Score, T, loop
from persrec.models.event_inputs import EventInputs
from persrec.models.interfaces import Backbone, Compressor, Memory
from persrec.models.item_encoders import ItemEncoder, ItemVectors, TextItems
from persrec.models.parallel import at_once
from persrec.models.recurrent import Recurrent
from persrec.models.repeat import RepeatHead
from persrec.models.rows import Encode
from persrec.models.segments import SegmentRule
from persrec.models.text_head import TextHead


class Reading(NamedTuple):
    """What is known of users after their last event."""

    query: Tensor  # (B, Q)
    memory: Memory  # that was read
    bonus: Bonus | None  # of a repeat head: what is added to the product of query and item vector


class Model(nn.Module):
    """Everything that turns histories into queries and items into the vectors they are matched against."""

    items: ItemEncoder  # a module too, as are backbone and compressor
    backbone: Backbone
    compressor: Compressor

    def __init__(
        self,
        *,
        items: ItemEncoder,
        backbone: Backbone,
        compressor: Compressor,
        rule: SegmentRule,
        cosine: bool,
        temperature: float,
        learned_temperature: bool = False,
        checkpointed: bool = False,
        detach_every: int | None = None,
        parallel: int | None = None,
        repeat: RepeatHead | None = None,
        inputs: EventInputs | None = None,
        text_head: TextHead | None = None,
    ) -> None:
        super().__init__()
        self.items, self.backbone, self.compressor, self.repeat = items, backbone, compressor, repeat
        self.inputs, self.text_head = inputs, text_head
        self.rule, self.cosine, self._temperature = rule, cosine, temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learned_temperature else None
        self.checkpointed, self.detach_every, self.parallel = checkpointed, detach_every, parallel

    def forward(
        self,
        batch: Batch,
        *,
        score: Score[T] | None,
        reads_all: bool = False,
        recall: Recall | None = None,
        items: ItemVectors | None = None,
    ) -> Looped:
        """The loop over a batch; see `compressor.loop`. In training, where asked for, all segments at once instead.

        Without `score` the last rows are `asking`, (B, Q). `items` are the vectors of a step where they have been made.
        """
        encode = self.encode(items)
        if self.text_head is not None and score is not None:  # here, as a block knows no rows before its own
            last = self.text_head.items_before(batch.history.item, batch.history.valid)
            batch = batch._replace(history=batch.history._replace(last=last))
        if self.parallel is not None and self.training and score is not None:
            assert isinstance(self.compressor, Recurrent)
            options: dict[str, Any] = {"score": score, "reads_all": reads_all, "reach": self.parallel}
            return at_once(self.backbone, self.compressor, encode, batch, self.rule, **options)
        looped = loop(
            self.backbone,
            self.compressor,
            encode,
            batch,
            self.rule,
            score=score,
            reads_all=reads_all,
            checkpointed=self.checkpointed,
            recall=recall,
            detach_every=self.detach_every if self.training else None,
        )
        return looped if score is not None else looped._replace(scored=[self.asking(looped.scored[-1], batch)])

    @property
    def query_width(self) -> int:
        """Q."""
        return self.backbone.width + (0 if self.text_head is None else self.text_head.width)

    def asking(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The last rows (B, D) of users, with what the texts of their last events ask for: (B, Q)."""
        if self.text_head is None:
            return hidden
        return self.with_texts(hidden, self.text_head.last_items(batch.history.item, batch.events))

    def with_texts(self, hidden: Tensor, items: Tensor) -> Tensor:
        """Rows (..., D) with what the texts of items (..., n) ask for beside them: (..., Q)."""
        assert self.text_head is not None
        return torch.cat([hidden, self.text_head(self.text_vectors(items))], dim=-1)

    def text_vectors(self, items: Tensor | None = None) -> Tensor:
        """What a text head compares: (V+1, E), or (..., E) of the given items."""
        assert isinstance(self.items, TextItems)
        return self.items.units(items)

    def encode(self, items: ItemVectors | None = None) -> Encode:
        """What makes the vectors of rows: of items, and of what else events carry; see `forward` for `items`."""
        own: ItemVectors = self.items if items is None else items
        return own if self.inputs is None else self.inputs.beside(own)

    @property
    def temperature(self) -> float | Tensor:
        """By which products of queries and item vectors are divided; a learned one stays above a bound."""
        if self.log_scale is None:
            return self._temperature
        return (-self.log_scale.clamp(max=math.log(LARGEST_SCALE))).exp()

    @torch.no_grad()
    def bound_temperature(self) -> None:
        """Take a learned temperature that a step has led below its bound back to it: there its gradient is zero."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE))

    @property
    def fixed_temperature(self) -> float:
        """The temperature as it is now, without a gradient."""
        found = self.temperature
        return found.item() if isinstance(found, Tensor) else found

    def maker(self) -> str:
        """Fingerprint of all that a memory depends on (layers, compressor, S, encoding), the items' vectors apart."""
        digest = hashlib.sha256(repr((self.rule.segment, getattr(self.compressor, "encoding", ""))).encode())
        if getattr(self.backbone, "compete", False):  # which no parameter shows
            digest.update(b"compete")
        for name, value in sorted(self.state_dict().items()):
            if name.startswith(("backbone.", "compressor.", "inputs.")):
                digest.update(
                    repr((name, tuple(value.shape))).encode() + value.detach().cpu().float().numpy().tobytes()
                )
        return digest.hexdigest()[:16]

    def query(self, hidden: Tensor) -> Tensor:
        """Queries (..., Q) of hidden rows; of (..., D), which ask for no texts, these ask for none either.

        What the layers made is normalised where the score is a cosine.
        """
        own, texts = self.own_query(hidden[..., : self.backbone.width]), hidden[..., self.backbone.width :]
        if self.text_head is None:
            return own
        return torch.cat([own, texts], dim=-1) if texts.shape[-1] else F.pad(own, (0, self.query_width - own.shape[-1]))

    def own_query(self, hidden: Tensor) -> Tensor:
        """The part of it (..., D) that meets what `own_vectors` gives."""
        return F.normalize(hidden, dim=-1) if self.cosine else hidden

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """What queries are matched against: (V+1, Q), or (..., Q) of the given items."""
        return self.beside_texts(self.own_vectors(items), items)

    def own_vectors(self, items: Tensor | None = None, *, made: ItemVectors | None = None) -> Tensor:
        """The part of that which the layers ask for: (V+1, D), or (..., D); `made` are the items of a step."""
        found = (self.items if made is None else made).vectors(items)
        return F.normalize(found, dim=-1) if self.cosine else found

    def beside_texts(self, vectors: Tensor, items: Tensor | None = None) -> Tensor:
        """Vectors (..., D) of all items, or of the given ones, beside their texts' for a text head: (..., Q)."""
        return vectors if self.text_head is None else torch.cat([vectors, self.text_vectors(items)], dim=-1)

    @torch.no_grad()
    def queries(self, batch: Batch) -> Tensor:
        """The query (B, Q) of each user after the last event of the batch, as served: fold, then read."""
        return self.read_out(batch).query

    @torch.no_grad()
    def read_rows(self, batch: Batch) -> tuple[Tensor, Tensor, Memory]:
        """Of all rows that have a target, this (N,) and the query (N, Q) after the row, and the memories at the end.

        One pass for many queries of a user: a row with its R to R+S-1 clear events is what would be served there.
        """

        def score(hidden: Tensor, history: History) -> tuple[Tensor, Tensor]:
            rows = history.target != PAD
            asking = hidden[rows]
            if self.text_head is not None:
                assert history.last is not None
                asking = self.with_texts(asking, history.last[rows])
            return history.target[rows], self.query(asking)

        looped = self(batch, score=score, reads_all=True)
        targets, queries = (torch.cat(parts) for parts in zip(*looped.scored, strict=True))
        return targets, queries, looped.memory

    @torch.no_grad()
    def read_out(self, batch: Batch, *, recall: Recall | None = None) -> Reading:
        """Fold, then read, as served; see `loop` for `recall`."""

        looped = self(batch, score=None, recall=recall)
        hidden = looped.scored[-1]
        query = self.query(hidden)
        if self.repeat is None or batch.consumed is None:
            return Reading(query, looped.memory, None)
        rows = torch.arange(len(hidden), device=hidden.device) * batch.history.item.shape[1] + batch.events - 1
        bonus = self.bonus(hidden, batch.consumed.of(rows))
        return Reading(query, looped.memory, bonus._replace(value=bonus.value * self.temperature))

    def bonus(self, hidden: Tensor, had: Consumed, vectors: Tensor | None = None) -> Bonus:
        """What the repeat head adds to the logits of pairs, whose `row` is that of `hidden` (N, D).

        Logits are products over the temperature. `vectors` are those of all items, where they have been made.
        """
        assert self.repeat is not None
        queries = self.query(hidden) / self.temperature
        if vectors is None:
            product = (queries[had.row] * self.vectors(had.item)).sum(dim=-1)
        else:
            product = pair_products(queries, vectors, had.row, had.item)
        return Bonus(had.row, had.item, self.repeat(hidden, had, product))
