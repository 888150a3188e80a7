"""From a recipe and its log to what is known of the items: the table read, put beside the log, and encoded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.progress import Progress

from persrec.interactions.schema import ITEM, Say
from persrec.items import encode, table
from persrec.items.catalogue import Catalogue, catalogue
from persrec.items.whitening import whitened
from persrec.models import pretrained
from persrec.models.item_encoders import Live, Texts
from persrec.models.text import TextEncoder, limit_of, tokenize, with_adapters
from persrec.prepared import ROOT, Prepared

VECTORS: Final = ROOT / "texts"  # where the vectors of texts are kept


class Known(NamedTuple):
    """What a model is built with, and what is told of it."""

    texts: Texts
    live: Live | None
    counts: dict[str, Any]


def load(section: Any, data: Prepared, *, accelerator: str, say: Say, root: Path = VECTORS) -> Known:
    """What is known of a log's items by an `items` section that uses texts; raises UserError for what is wrong."""
    found = catalogue_of(section, pl.Series(ITEM, data.item_ids()), say)
    trained = torch.from_numpy(data.training_events_per_item > 0)
    there = torch.tensor([False, *map(bool, found.texts)])
    if section.train != "frozen":
        live = _live(section, found, there, say)
        vectors = torch.zeros(len(there), live.encoder.width)
        return Known(Texts(vectors, trained), live, {**found.counts, "cut texts": int(live.tokens.cut.sum())})
    vectors, counts = encoded(section, found.texts, accelerator=accelerator, say=say, root=root)
    if section.whiten:
        vectors = whitened(vectors, np.flatnonzero((trained & there).numpy()), there.numpy())
    return Known(Texts(torch.from_numpy(vectors), trained), None, {**found.counts, **counts})


def catalogue_of(section: Any, item_ids: pl.Series, say: Say) -> Catalogue:
    """The texts of the items of these ids, with a sentence on what was found."""
    found = catalogue(table.read(section), item_ids, section.template, where=str(section.path))
    say(f"{section.path}: {found}")
    return found


def encoded(
    section: Any, texts: list[str], *, accelerator: str, say: Say, root: Path = VECTORS
) -> tuple[np.ndarray, dict[str, float]]:
    """Vectors (V+1, E) of texts (V,) by a text model that stays as it is; zeros for PAD and where there is no text."""
    cuda = accelerator != "cpu" and torch.cuda.is_available()
    known = [text for text in texts if text]
    with _bar("encoding texts") as told:
        device = torch.device("cuda" if cuda else "cpu")
        found = encode.encode(known, section, root, device=device, say=say, on_texts=told)
    vectors = np.zeros((len(texts) + 1, found.vectors.shape[1]), found.vectors.dtype)
    vectors[1:][np.array([bool(text) for text in texts])] = found.vectors
    return vectors, found.counts


def _live(section: Any, found: Catalogue, there: torch.Tensor, say: Say) -> Live:
    """The text model, to be trained, and the tokens of all items."""
    model, tokenizer = pretrained.load(section.encoder, remote_code=section.remote_code)
    limit = limit_of(model, tokenizer, section.max_tokens, section.pooling)
    tokens = tokenize(["", *found.texts], tokenizer, limit)
    model = with_adapters(model, section.lora_rank) if section.train == "lora" else model
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    encoder = TextEncoder(model, pooling=section.pooling, batch_tokens=section.batch_tokens)
    trained = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    cut = int(tokens.cut.sum())
    say(f"{section.encoder}: {trained:,} of its numbers are trained; {cut:,} texts have lost their end.")
    return Live(encoder, tokens, there)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, as a function that is told how many of how many are done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
