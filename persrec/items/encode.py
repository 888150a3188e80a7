"""Texts to vectors by a text model that stays as it is: each text once, ever.

Shapes: T texts, E the text model's width.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from persrec.errors import UserError
from persrec.interactions.schema import Say
from persrec.items.cache import VectorCache
from persrec.models import pretrained
from persrec.models.text import TextEncoder, limit_of, padded_tokens, tokenize

FORMAT: Final = 1
CHUNK: Final = 2048  # texts that are kept together


@dataclass(frozen=True)
class Encoded:
    """Vectors, and what it took to get them."""

    vectors: npt.NDArray[Any]  # (T, E)
    counts: dict[str, float]


def encode(
    texts: Sequence[str],
    section: Any,
    root: Path,
    *,
    device: torch.device | None = None,
    say: Say,
    on_texts: Callable[[int, int], None] = lambda done, total: None,
) -> Encoded:
    """Vectors (T, E) of texts by the text model of an `items` section; those that `root` has are not made again.

    `on_texts` is told after each chunk how many of how many new texts are done. What was done stays when it is
    interrupted.

    Raises:
        UserError: see `pretrained.load` and `VectorCache.open`; or the numbers do not fit their type.
    """
    folder = pretrained.locate(section.encoder)
    facts = {
        "format": FORMAT,
        "encoder": pretrained.fingerprint(folder),
        "pooling": section.pooling,
        "precision": section.precision,
        "max_tokens": section.max_tokens,
        "dtype": section.dtype,
        "width": _width(folder),
    }
    with VectorCache(root, facts).open() as cache:
        missing = cache.missing(texts)
        counts = _encode_missing(missing, cache, section, device or torch.device("cpu"), say, on_texts)
        return Encoded(cache.vectors(texts), {"new texts": len(missing), "cut texts": cache.cut(texts), **counts})


def text_model(section: Any) -> tuple[Any, Any, int]:
    """Text model and tokenizer of an `items` section, and the most tokens that a text may have.

    Raises:
        UserError: see `pretrained.load`; or the first row is asked for and nothing stands first.
    """
    precision = getattr(torch, section.precision)
    model, tokenizer = pretrained.load(section.encoder, remote_code=section.remote_code, dtype=precision)
    if section.pooling == "first" and tokenizer.cls_token_id is None:
        raise UserError(
            f"items.pooling: got first, but the tokenizer of {section.encoder} puts no [CLS] before a text; expected "
            "mean, last or token"
        )
    return model, tokenizer, limit_of(model, tokenizer, section.max_tokens, section.pooling)


def _width(folder: Path) -> int:
    config = pretrained.config(folder)
    width = config.get("hidden_size") or config.get("dim")
    if not isinstance(width, int):
        raise UserError(f"items.encoder: {folder}: config.json says no hidden_size; expected an encoder or a decoder")
    return width


@torch.no_grad()
def _encode_missing(
    texts: list[str],
    cache: VectorCache,
    section: Any,
    device: torch.device,
    say: Say,
    on_texts: Callable[[int, int], None],
) -> dict[str, float]:
    """Encode and keep texts, the longest first, so that a memory that does not do shows at once."""
    if not texts:
        return {}
    model, tokenizer, limit = text_model(section)
    encoder = TextEncoder(model, pooling=section.pooling, batch_tokens=section.batch_tokens).eval().to(device)
    started = time.monotonic()
    tokens = tokenize(texts, tokenizer, limit)
    order = tokens.lengths.argsort(descending=True, stable=True)
    there = tokens.to(device)
    padded, done = 0, 0
    for chunk in order.split(CHUNK):
        found = encoder(there, chunk.to(device)).cpu().numpy()
        _check_numbers(found, texts, chunk, section)
        names = [texts[index] for index in chunk.tolist()]
        cache.append(names, found, tokens.cut[chunk].tolist())
        padded += padded_tokens(tokens.lengths[chunk], section.batch_tokens)
        done += len(chunk)
        on_texts(done, len(texts))
    seconds = time.monotonic() - started
    waste = 1 - int(tokens.lengths.sum()) / padded
    say(
        f"{section.encoder}: {len(texts):,} texts encoded, {len(texts) / seconds:,.0f} per second, {waste:.1%} "
        f"padding; {int(tokens.cut.sum()):,} of them were longer than {limit} tokens and have lost their end."
    )
    return {"texts per second": len(texts) / seconds, "padding": waste}


def _check_numbers(found: npt.NDArray[Any], texts: list[str], chunk: torch.Tensor, section: Any) -> None:
    """Raise UserError where a vector is none, as it stands or in the type that it is kept in."""
    with np.errstate(over="ignore"):
        wrong = ~np.isfinite(found.astype(section.dtype)).all(axis=1)
    if wrong.any():
        text = texts[int(chunk[int(wrong.argmax())])]
        raise UserError(
            f"items.encoder: {section.encoder} gives numbers that are none or too large for {section.dtype} (for the "
            f"text {text[:60]!r}); set items.dtype: float32"
        )
