"""Items that training never saw, put into a run: read from their texts as its own were, and numbered behind them.

Shapes: V items of the run so far, W added ones, E width of the text model.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from persrec import run as runs
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, Say
from persrec.items import table, whitening
from persrec.items.catalogue import catalogue
from persrec.items.load import VECTORS, encoded, fingerprint, live_encoder
from persrec.models.build import ENCODER
from persrec.recipe import recipe as recipes

PER_ITEM = ("items.texts", "items.trained", "items.ids", "repeat.item_bias")  # of a model's state: a row per item


def add(folder: str | Path, file: str | Path, *, say: Say, root: Path = VECTORS) -> dict[str, int]:
    """Put the items of an items table into a run folder; what is there already, or has no text, is counted and left.

    Raises:
        UserError: the run makes no vectors of texts, the table cannot be read, or it has no new item with a text.
    """
    run = runs.load(folder)
    recipe = recipes.parse(run.recipe, f"of run {folder}")
    if recipe.items.use == "id":
        raise UserError(
            f"run folder {folder}: its items are known by their events alone (items.use is id); to add items, fit with "
            "items.use text or id+text"
        )
    section = recipe.items.model_copy(update={"path": str(file)})
    rows = table.read(section)
    known = pl.Series(ITEM, run.item_ids())
    ids, there = _new_ids(rows, known, str(file))
    found = catalogue(rows, ids.cast(pl.String), section.template, where=str(file)) if len(ids) else None
    texts = [] if found is None else [text for text in found.texts if text]
    counts = {
        "added": len(texts),
        "in the run already": there,
        "without a text": len(ids) - len(texts),
        "without an id": rows[ITEM].null_count(),
    }
    if found is None or not texts:
        raise UserError(f"{file}: no new item with a text ({', '.join(f'{n:,} {what}' for what, n in counts.items())})")
    ids = ids.filter([bool(text) for text in found.texts])
    weights = run.weights()
    _check_text_model(section, weights, folder)
    vectors = _vectors(section, texts, weights, accelerator=recipe.training.accelerator, say=say, root=root)
    longer = {name: _longer(weights[name], len(texts)) for name in PER_ITEM if name in weights}
    longer["items.texts"][-len(texts) :] = vectors
    runs.with_items(run, weights={**weights, **longer}, item_ids=[*known, *ids])
    say(f"{folder}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}.")
    return counts


def _check_text_model(section: Any, weights: dict[str, Tensor], folder: str | Path) -> None:
    """Raise UserError where the text model is not the one that the run's vectors were made by."""
    own = weights.get("items.made_by")
    if own is not None and not torch.equal(own, found := fingerprint(section)):
        raise UserError(
            f"items.encoder {section.encoder}: got the fingerprint {_hex(found)}, expected {_hex(own)}, that of the "
            f"text model that {folder} was fitted with; put that one there, or fit again with this one"
        )


def _hex(digest: Tensor) -> str:
    return bytes(digest.tolist()).hex()[:16]


def _new_ids(rows: pl.DataFrame, known: pl.Series, where: str) -> tuple[pl.Series, int]:
    """The table's ids that the run does not have, each once, and how many it has; numbers where the run's are."""
    ids = rows[ITEM].drop_nulls().unique(maintain_order=True)
    cast = ids.cast(known.dtype, strict=False)
    other = cast.is_null() | (cast.cast(pl.String) != ids)  # 07 is not how a number stands in a log of numbers
    if other.any():
        raise UserError(
            f"{where}: {ITEM} {ids.filter(other)[0]!r} is no whole number, and those of the run are, such as "
            f"{known[0]!r}; give ids of the same kind"
        )
    new = cast.filter(~cast.is_in(known.implode()))
    return new, len(cast) - len(new)


def _vectors(
    section: Any, texts: list[str], weights: dict[str, Tensor], *, accelerator: str, say: Say, root: Path
) -> Tensor:
    """Vectors (W, E) as the run's own were made."""
    if section.train == "frozen":
        made = encoded(section, texts, accelerator=accelerator, say=say, root=root)[0][1:]
        if "items.whitening" in weights:
            made = whitening.whitened(made, weights["items.whitening"].numpy().astype(np.float32))
        return torch.from_numpy(made)
    encoder, tokens = live_encoder(section, texts)
    own = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    encoder.load_state_dict(own, strict=False)  # of adapters, only what was trained is there
    with torch.no_grad():
        return encoder.eval()(tokens, torch.arange(len(texts)))


def _longer(values: Tensor, rows: int) -> Tensor:
    """With so many rows of zeros behind."""
    return F.pad(values.float(), (0, 0) * (values.dim() - 1) + (0, rows)).to(values.dtype)
