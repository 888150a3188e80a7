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

from persrec.errors import UserError
from persrec.interactions.schema import ITEM, Say
from persrec.items import encode, table, whitening
from persrec.items.catalogue import Catalogue, catalogue
from persrec.models import pretrained
from persrec.models.item_encoders import Live, Texts
from persrec.models.text import TextEncoder, Tokens, tokenize, with_adapters
from persrec.prepared import ROOT, Prepared

VECTORS: Final = ROOT / "texts"  # where the vectors of texts are kept


class Known(NamedTuple):
    """What a model is built with, and what is told of it."""

    texts: Texts
    live: Live | None
    counts: dict[str, Any]


def load(
    section: Any,
    data: Prepared,
    *,
    accelerator: str,
    say: Say,
    root: Path = VECTORS,
    whitened_by: torch.Tensor | None = None,
) -> Known:
    """What is known of a log's items by an `items` section that uses texts; raises UserError for what is wrong.

    Texts are whitened as in `whitened_by` (E+1, E), that of a run which is gone on from, or as these texts ask for.
    """
    found = catalogue_of(section, pl.Series(ITEM, data.item_ids()), say)
    trained = torch.from_numpy(data.training_events_per_item > 0)
    there = torch.tensor([False, *map(bool, found.texts)])
    if section.train != "frozen":
        live = _live(section, found, there, say)
        unread = torch.zeros(len(there), live.encoder.width)
        return Known(
            Texts(unread, trained, made_by=fingerprint(section)),
            live,
            {**found.counts, "cut texts": int(live.tokens.cut.sum())},
        )
    vectors, counts = encoded(section, found.texts, accelerator=accelerator, say=say, root=root)
    how = None
    if section.whiten:
        if whitened_by is not None and len(whitened_by) == vectors.shape[1] + 1:
            how = whitened_by.numpy().astype(np.float32)
        else:
            how = whitening.fitted(vectors, np.flatnonzero((trained & there).numpy()))
        vectors = whitening.whitened(vectors, how)
    texts = Texts(
        torch.from_numpy(vectors), trained, None if how is None else torch.from_numpy(how), fingerprint(section)
    )
    return Known(texts, None, {**found.counts, **counts})


def fingerprint(section: Any) -> torch.Tensor:
    """Fingerprint (32,), uint8, of the text model of a section."""
    found = bytes.fromhex(pretrained.fingerprint(pretrained.locate(section.encoder)))
    return torch.tensor(list(found), dtype=torch.uint8)


def catalogue_of(section: Any, item_ids: pl.Series, say: Say) -> Catalogue:
    """The texts of the items of these ids, with a sentence on what was found."""
    found = catalogue(table.read(section), item_ids, section.template, where=str(section.path))
    read_as = ", read as Latin-1" if table.charset(section) == "latin-1" else ""
    say(f"{section.path}{read_as}: {found}")
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


def live_encoder(section: Any, texts: list[str]) -> tuple[TextEncoder, Tokens]:
    """The text model of a section, to be trained, and the tokens of texts."""
    model, tokenizer, limit = encode.text_model(section)
    tokens = tokenize(texts, tokenizer, limit)
    try:
        model = with_adapters(model, section.lora_rank) if section.train == "lora" else model
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()  # not needed then, and such hooks cannot go to other processes
    except ValueError as error:
        raise UserError(
            f"items.train: got {section.train}, but {section.encoder} cannot be trained in that way ({error}); "
            "expected frozen"
        ) from error
    return TextEncoder(model, pooling=section.pooling, batch_tokens=section.batch_tokens).train(), tokens


def _live(section: Any, found: Catalogue, there: torch.Tensor, say: Say) -> Live:
    """The text model, to be trained, and the tokens of all items."""
    encoder, tokens = live_encoder(section, ["", *found.texts])
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
