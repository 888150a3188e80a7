"""A text model as an encoder of items: tokens in batches of little padding, and one vector per text.

Shapes: T texts, N their tokens, laid end to end, L tokens of the longest text of a batch, E the text model's width.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from persrec.errors import UserError, memory_for

WASTE: Final = 0.1  # share of padding that a batch may have
PIECE: Final = 4096  # texts that are given to a tokenizer together


class Tokens(NamedTuple):
    """Texts as token ids."""

    ids: Tensor  # (N,) int64
    offsets: Tensor  # (T+1,) int64
    cut: Tensor  # (T,) bool, of a text that was too long and has lost its end

    @property
    def lengths(self) -> Tensor:
        """(T,) tokens of each text."""
        return self.offsets.diff()

    def to(self, device: torch.device) -> "Tokens":
        """The same on another device."""
        return Tokens(*(field.to(device) for field in self))


def limit_of(model: Any, tokenizer: Any, max_tokens: int, pooling: str) -> int:
    """The most tokens of a text: `max_tokens`, or what the model has positions for.

    Raises UserError where the tokenizer's own take all of them.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or max_tokens
    positions = min(positions, tokenizer.model_max_length)
    limit, own = min(max_tokens, positions - (pooling == "token")), tokenizer.num_special_tokens_to_add()
    if limit <= own:
        raise UserError(
            f"items.max_tokens: got {max_tokens}, expected more than the {own} tokens that the tokenizer puts around a "
            f"text (the model has positions for {positions})"
        )
    return limit


def tokenize(texts: list[str], tokenizer: Any, limit: int) -> Tokens:
    """Tokens of each text with the tokenizer's own special ones; of a text that is too long its end is left out."""
    rows, cut = [], []
    for start in range(0, len(texts), PIECE):
        piece = texts[start : start + PIECE]
        found = tokenizer(piece, verbose=False)["input_ids"]
        cut += [len(row) > limit for row in found]
        if max(map(len, found)) > limit:
            found = tokenizer(piece, truncation=True, max_length=limit)["input_ids"]
        rows += found
    lengths = torch.tensor([0, *map(len, rows)])
    if not bool(lengths[1:].all()):
        rows = [row or [tokenizer.pad_token_id or 0] for row in rows]  # a text of signs that the tokenizer drops
        lengths = torch.tensor([0, *map(len, rows)])
    flat = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return Tokens(flat, lengths.cumsum(0), torch.tensor(cut))


def packed(lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Batches of texts, by index, longest first: at most `budget` tokens with padding, of which a tenth is padding."""
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order]
    total = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    start = 0
    while start < len(order):
        longest = int(sizes[start])
        most = min(len(order) - start, max(1, budget // longest))
        padded = longest * torch.arange(1, most + 1, device=sizes.device)
        real = total[start + 1 : start + most + 1] - total[start]
        count = int((real >= (1 - WASTE) * padded).sum())  # padding only grows from one text to the next
        yield order[start : start + count]
        start += count


def padded_tokens(lengths: Tensor, budget: int) -> int:
    """How many tokens, padding included, the batches of `packed` have."""
    return sum(len(batch) * int(lengths[batch[0]]) for batch in packed(lengths, budget))


class TextEncoder(nn.Module):
    """A text model with its pooling: `mean` of a text's rows, its `first` or `last`, or a learned `token` at its end.

    (The learned item token: HLLM, arXiv 2409.12740.)
    """

    def __init__(self, model: Any, *, pooling: str, batch_tokens: int) -> None:
        super().__init__()
        self.model, self.pooling, self.batch_tokens = model, pooling, batch_tokens
        self.width: int = model.config.hidden_size
        embeddings = model.get_input_embeddings().weight
        token = embeddings.detach().mean(dim=0) if pooling == "token" else None
        self.token = None if token is None else nn.Parameter(token + 0.02 * torch.randn_like(token))

    def forward(self, tokens: Tokens, texts: Tensor) -> Tensor:
        """Vectors (T, E) of some texts, by index; without a gradient, raises UserError where the memory does not do."""
        batches = list(packed(tokens.lengths[texts], self.batch_tokens))
        if not batches:
            return torch.zeros(0, self.width, device=texts.device)
        # a step of training needs memory for more than this, and says so itself
        told = nullcontext() if torch.is_grad_enabled() else memory_for("encoding texts", lower=self._to_lower(tokens))
        with told:
            vectors = torch.cat([self._batch(tokens, texts[batch]) for batch in batches])
        return vectors[torch.cat(batches).argsort()]

    def _to_lower(self, tokens: Tokens) -> str:
        return (
            f"got items.batch_tokens {self.batch_tokens} and items of up to {int(tokens.lengths.max())} tokens: lower "
            "items.batch_tokens, then items.max_tokens"
        )

    def _batch(self, tokens: Tokens, texts: Tensor) -> Tensor:
        lengths = tokens.lengths[texts]
        column = torch.arange(int(lengths.max()), device=texts.device)
        there = column < lengths[:, None]  # (T, L)
        ids = tokens.ids[(tokens.offsets[texts][:, None] + column).where(there, 0)].where(there, 0)
        if self.token is None:
            hidden = self.model(input_ids=ids, attention_mask=there.long()).last_hidden_state.float()
            if self.pooling == "mean":
                return (hidden * there[:, :, None]).sum(dim=1) / lengths[:, None]
            if self.pooling == "first":
                return hidden[:, 0]
            return hidden[torch.arange(len(texts), device=texts.device), lengths - 1]
        row = torch.arange(len(texts), device=texts.device)
        given = nn.functional.pad(self.model.get_input_embeddings()(ids), (0, 0, 0, 1))
        given = given.index_put((row, lengths), self.token.expand(len(texts), -1))
        seen = nn.functional.pad(column, (0, 1), value=len(column)) <= lengths[:, None]
        hidden = self.model(inputs_embeds=given, attention_mask=seen.long()).last_hidden_state
        return hidden[row, lengths]


def with_adapters(model: Any, rank: int) -> Any:
    """The model with LoRA adapters (arXiv 2106.09685) in all its linear layers; only these are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    return inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), model)
