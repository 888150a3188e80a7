"""Item encoders: from item indices to vectors, learned ones, those of texts, or the sum of both.

Shapes: V items (row 0 of a table is PAD), D width, E width of the text model, U different items of a batch.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.models.text import TextEncoder, Tokens

STD = 0.02  # of item vectors at the start


class ItemVectors(Protocol):
    """Vectors of items, as they are during one step."""

    def __call__(self, items: Tensor) -> Tensor:
        """What goes into the backbone: (..., D) of items (...), scaled by sqrt(D), as HSTU does, with dropout."""

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """What is to be found: (V+1, D), or (..., D) of items (...)."""


class ItemEncoder(ItemVectors, Protocol):
    """A module that is asked for vectors, of one step or outside of any."""

    @property
    def count(self) -> int:
        """V, the number of items."""

    @property
    def fitted(self) -> int:
        """How many items there were when the model was fitted; those that were added since come after them."""

    def during_step(self, items: Tensor | None) -> ItemVectors:
        """The vectors of one training step, made once; of items (U,) and no others, or of all where they are None."""

    def refresh(self) -> None:
        """Take note that weights have changed, before vectors are asked for outside of a training step."""


class IdTable(nn.Module):
    """One learned vector per item, used on the way in and as the item to be found."""

    def __init__(self, *, items: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(items + 1, width).normal_(std=STD))
        self.dropout = nn.Dropout(dropout)

    @property
    def count(self) -> int:
        """V, the number of items."""
        return len(self.table) - 1

    @property
    def fitted(self) -> int:
        """All of them; none can be added."""
        return self.count

    def during_step(self, items: Tensor | None) -> "IdTable":
        """Nothing has to be made."""
        return self

    def refresh(self) -> None:
        """Nothing is kept."""

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """See `ItemVectors.vectors`."""
        return self.table if items is None else F.embedding(items, self.table)

    def forward(self, items: Tensor) -> Tensor:
        """See `ItemVectors.__call__`."""
        return self.dropout(self.vectors(items) * self.table.shape[1] ** 0.5)


class Texts(NamedTuple):
    """What is known of items beside the log."""

    vectors: Tensor  # (V+1, E) of their texts, of any float type; zeros where there is no text
    trained: Tensor  # (V+1,) bool, items that occur in training; others go without an id
    whitening: Tensor | None = None  # (E+1, E) how vectors of further texts are made like these
    made_by: Tensor | None = None  # (32,) uint8, fingerprint of the text model


class Live(NamedTuple):
    """A text model that is trained along."""

    encoder: TextEncoder
    tokens: Tokens  # of V+1 texts, the first one of PAD
    there: Tensor  # (V+1,) bool, items that have a text


class TextItems(nn.Module):
    """Item vectors as a projection of texts' vectors, with `ids` plus a learned vector per item.

    Vectors are the text model's, given once and normalised; with `live` those of the items of a step are made in the
    step, and those of all whenever `refresh` is called. In training a share `id_dropout` of the items goes without its
    id, so that the text learns to stand alone; an item that training does not have always does.
    """

    texts: Tensor
    trained: Tensor
    at_fit: Tensor  # () int64

    def __init__(
        self,
        texts: Texts,
        *,
        width: int,
        dropout: float,
        ids: bool,
        id_dropout: float = 0.0,
        live: Live | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("texts", texts.vectors)
        self.register_buffer("trained", texts.trained)
        self.register_buffer("whitening", texts.whitening)
        self.register_buffer("made_by", texts.made_by)
        self.register_buffer("at_fit", torch.tensor(len(texts.vectors) - 1))
        size = texts.vectors.shape[1]
        self.project = nn.Linear(size, width, bias=False)
        nn.init.normal_(self.project.weight, std=size**-0.5)
        self.ids = nn.Parameter(torch.empty(len(texts.vectors), width).normal_(std=STD)) if ids else None
        self.dropout, self.id_dropout, self.width = nn.Dropout(dropout), id_dropout, width
        self.encoder = None if live is None else live.encoder
        self._tokens = None if live is None else (live.tokens, live.there)

    @property
    def count(self) -> int:
        """V, the number of items."""
        return len(self.texts) - 1

    @property
    def fitted(self) -> int:
        """See `ItemEncoder.fitted`."""
        return int(self.at_fit)

    def during_step(self, items: Tensor | None) -> "Made":
        """See `ItemEncoder.during_step`."""
        if items is None:
            return Made(self._vectors(self._every(), step=True), None, self.dropout)
        items = items.unique()
        return Made(self._vectors(items, step=True), items, self.dropout)

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode all texts anew where the text model is trained."""
        if self.encoder is None:
            return
        training = self.encoder.training
        self.encoder.eval()
        self.texts.copy_(self._encoded(self._every()))
        self.encoder.train(training)

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """See `ItemVectors.vectors`; with the texts as they were read last, and all ids."""
        if items is None:
            return self._vectors(self._every())
        different, place = items.unique(return_inverse=True)
        return F.embedding(place, self._vectors(different))

    def units(self, items: Tensor | None = None) -> Tensor:
        """The texts' vectors themselves, each of length 1, or 0 where there is no text: (V+1, E), or (..., E)."""
        texts = self.texts if items is None else F.embedding(items, self.texts)
        return F.normalize(texts.to(self.project.weight.dtype), dim=-1)

    def forward(self, items: Tensor) -> Tensor:
        """See `ItemVectors.__call__`."""
        return self.dropout(self.vectors(items) * self.width**0.5)

    def _every(self) -> Tensor:
        return torch.arange(len(self.texts), device=self.texts.device)

    def _vectors(self, items: Tensor, *, step: bool = False) -> Tensor:
        """(U, D) of different items (U,); in a `step` of training texts are read and ids left out."""
        step = step and self.training
        if self.encoder is not None and step:
            texts = self._encoded(items)
        else:
            texts = F.embedding(items, self.texts).to(self.project.weight.dtype)
        vectors = STD * self.project(F.layer_norm(texts, texts.shape[-1:])).to(self.project.weight.dtype)
        if self.ids is None:
            return vectors
        kept = self.trained[items]
        if step and self.id_dropout:
            kept = kept & (torch.rand(len(items), device=items.device) >= self.id_dropout)
        return vectors + F.embedding(items, self.ids) * kept[:, None]

    def _encoded(self, items: Tensor) -> Tensor:
        """The text model's vectors (U, E) of items (U,) as it is now; zeros where there is no text."""
        assert self.encoder is not None
        assert self._tokens is not None
        tokens, there = self._tokens
        if tokens.ids.device != items.device:
            tokens, there = self._tokens = tokens.to(items.device), there.to(items.device)
        known = there[items]
        vectors = torch.zeros(len(items), self.encoder.width, device=items.device)
        return vectors.index_put((known.nonzero().flatten(),), self.encoder(tokens, items[known]).to(vectors.dtype))


class Made:
    """Vectors (U, D) of `items` (U,), ascending, or of all; made once, asked for often."""

    def __init__(self, rows: Tensor, items: Tensor | None, dropout: nn.Module) -> None:
        self.rows, self.items, self.dropout = rows, items, dropout

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """See `ItemVectors.vectors`; all of them only where they were made."""
        if items is None:
            assert self.items is None
            return self.rows
        place = items if self.items is None else torch.searchsorted(self.items, items.contiguous())
        return F.embedding(place, self.rows)

    def __call__(self, items: Tensor) -> Tensor:
        """See `ItemVectors.__call__`."""
        return self.dropout(self.vectors(items) * self.rows.shape[1] ** 0.5)
