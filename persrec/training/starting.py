"""Weights to start from: those of a run, its items matched by id with the items of a log that has grown.

Shapes: V items, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from persrec import run as runs
from persrec.errors import UserError
from persrec.models.attention import LOG_SPAN, position_table
from persrec.models.build import ENCODER
from persrec.models.model import Model
from persrec.prepared import Prepared
from persrec.recipe.recipe import Recipe
from persrec.recipe.sections import Items

BY_ITEM = ("items.table", "items.ids", "repeat.item_bias")  # parameters whose row i is item i
MEMORY = "compressor."  # parameters that only a model with a memory has
OF_TOKEN_ROWS = (".token_inner.", ".count_power", "backbone.maps.")  # and, by its options, in the backbone
GAIN = ".token_gain"  # end of the names of those that only a memory trains
BY_DISTANCE = ".position_bias"  # end of the names of tables by distance, which is exact up to S + R
OF_TEXTS = ("items.texts", "items.trained", "items.at_fit", "items.made_by")  # which come with the items table


def start_from(
    model: Model, folder: str | Path, data: Prepared, *, recipe: Recipe, load: bool = True
) -> dict[str, Any]:
    """Put the weights of a run into a fresh model; how many items were matched, are new, have vanished.

    `recipe` is that of the model.

    An item that the run does not know keeps its fresh weights, and so do memory tokens, and the gains of attention that
    are theirs, where the run had no memory; projections of token rows begin as those of the other rows. Position
    biases of another S + R go over by distance. Without `load` it is only counted. Raises UserError for weights that do
    not fit, by name.
    """
    run = runs.load(folder)
    _check_items(run.recipe["items"], recipe.items, folder)
    before, now = matched(run.item_ids(), data.item_ids())
    given = run.weights()
    fresh = bool(_of_memory(model.state_dict()) - _of_memory(given))
    resized = {name for name, value in model.state_dict().items() if name.endswith(BY_DISTANCE) and name in given}
    resized = {name for name in resized if given[name].shape != model.state_dict()[name].shape}
    if load:
        own = {name: value for name, value in model.state_dict().items() if name not in OF_TEXTS}
        _check_texts(given, model.state_dict(), folder)
        _check_fit(given, own, folder)
        both = _of_memory(given) and _of_memory(own)
        _check_types(run.recipe, recipe, folder)
        _check_kinds(run.recipe, recipe, ("model.score", "memory.kind") if both else ("model.score",), folder)
        for name, value in given.items():
            twin = name.replace(".inner.", ".token_inner.")
            if fresh and name != twin and twin in own:
                own[twin].copy_(value)
            if name in BY_ITEM:
                own[name][torch.from_numpy(now)] = value[torch.from_numpy(before)]
            elif name in resized:
                own[name].copy_(position_table(value, own[name].shape[1] - LOG_SPAN))
            elif name in own and not (fresh and name.endswith(GAIN)):
                own[name].copy_(value)
    known = len(before)
    return {
        "run": str(folder),
        "matched": known,
        "new": data.items_count - known,
        "vanished": len(run.item_ids()) - known,
        "fresh_memory": fresh,
        "other_distances": bool(resized),
    }


def matched(before: pa.Array, now: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the same items in two tables (row 0 is PAD), by id; 7 and "7" are the same."""
    place = pc.index_in(pc.cast(now, pa.string()), value_set=pc.cast(before, pa.string()))
    there = place.is_valid().to_numpy(zero_copy_only=False)
    return place.drop_null().to_numpy().astype(np.int64) + 1, np.flatnonzero(there) + 1


def _of_memory(weights: Mapping[str, Tensor]) -> set[str]:
    """The names that only models with a memory have."""
    return {name for name in weights if name.startswith(MEMORY) or any(part in name for part in OF_TOKEN_ROWS)}


def _check_fit(given: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: str | Path) -> None:
    """Every weight has its counterpart of the same shape; only the number of items may differ."""

    def shape(tree: Mapping[str, Tensor], name: str) -> str:
        if name not in tree:
            return "none"
        sizes = tuple(tree[name].shape)
        if name.endswith(BY_DISTANCE):
            sizes = sizes[:1]
        return str(("V+1", *sizes[1:]) if name in BY_ITEM else sizes)

    names = (given.keys() | own.keys()) - set(OF_TEXTS)
    if not _of_memory(given):
        names -= _of_memory(own)
    wrong = sorted(name for name in names if not name.startswith(ENCODER) and shape(given, name) != shape(own, name))
    if wrong:
        listed = "; ".join(f"{name}: {shape(given, name)} there, {shape(own, name)} here" for name in wrong[:5])
        raise UserError(
            f"--from {folder}: {len(wrong)} weights of the run do not fit the recipe ({listed}); expected the same "
            "model, memory, items.use, items.text_head, items.whiten, repeat and whether time is none. Print the run's "
            "recipe.yaml beside yours"
        )


def _check_types(before: Mapping[str, Any], now: Recipe, folder: str | Path) -> None:
    """Weights of types stand in the order of `data.events`."""
    got, wanted = ([str(kind) for kind in types or ()] for types in (now.data.events, before["data"]["events"]))
    if "event" in now.model.inputs and got != wanted:
        raise UserError(
            f"--from {folder}: got data.events [{', '.join(got)}], expected [{', '.join(wanted)}], in whose order the "
            "run's weights number the types; list them so, or fit without --from"
        )


def _check_kinds(before: Mapping[str, Any], now: Recipe, keys: Sequence[str], folder: str | Path) -> None:
    """What no shape tells: how scores are made of the weights, and what tokens were trained to be."""
    for section, name in (key.split(".") for key in keys):
        got, wanted = getattr(getattr(now, section), name), before[section][name]
        if got != wanted:
            raise UserError(
                f"--from {folder}: got {section}.{name} {got}, expected {wanted}, for which the weights of the run "
                f"were trained; add --set {section}.{name}={wanted}"
            )


def _check_items(before: Mapping[str, Any], now: Items, folder: str | Path) -> None:
    """A text model that was trained goes on being trained, in the same way: its texts' vectors are what it learned."""
    if "id" in (before["use"], now.use):
        return
    keys = ["pooling"]
    if before["train"] != "frozen":  # a frozen one may be trained from now on
        keys += ["train"] + ["lora_rank"] * (before["train"] == "lora")
    for key in keys:
        if before[key] != getattr(now, key):
            raise UserError(
                f"--from {folder}: got items.{key} {getattr(now, key)}, expected {before[key]}, as the run has it: "
                "what its model knows of texts holds for vectors that were made so. Set it, or fit without --from"
            )


def _check_texts(given: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: str | Path) -> None:
    """What the weights know of texts' vectors holds for those of the same text model."""
    made_by = [tree.get("items.made_by") for tree in (given, own)]
    if None not in made_by and not torch.equal(*made_by):  # type: ignore[arg-type]
        raise UserError(
            f"--from {folder}: its texts were read by another text model than that of items.encoder; expected the same "
            "one: put it there, or fit without --from"
        )
