"""From a recipe to modules: the only file of the models that knows settings."""

from typing import Any

import torch

from persrec.models.compressor import Layered, Recent
from persrec.models.hstu import HSTU
from persrec.models.item_encoders import IdTable
from persrec.models.model import Model
from persrec.models.repeat import RepeatHead
from persrec.models.segments import SegmentRule


def build(recipe: Any, *, items: int, seed: int = 0) -> Model:
    """The model of one recipe (one history, one seed) over V items, with fresh weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        repeat = (
            RepeatHead(width=recipe.model.width, items=items, timed=recipe.time != "none")
            if recipe.repeat == "head"
            else None
        )
        return Model(
            items=IdTable(items=items, width=recipe.model.width, dropout=recipe.model.dropout),
            backbone=build_backbone(recipe),
            compressor=build_compressor(recipe),
            rule=build_rule(recipe),
            cosine=recipe.model.score == "cosine",
            temperature=recipe.model.temperature,
            checkpointed=recipe.memory.checkpoint,
            repeat=repeat,
        )


def build_rule(recipe: Any) -> SegmentRule:
    """The segment rule; `full` never closes a segment."""
    return SegmentRule(recipe.memory.segment, None if recipe.history == "full" else recipe.memory.recent)


def build_backbone(recipe: Any) -> HSTU:
    """The backbone; bias tables and divisor come from S and R whatever the history, so that the three forms compare."""
    model, memory = recipe.model, recipe.memory
    return HSTU(
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        exact=memory.segment + memory.recent,
        timed=recipe.time != "none",
        dropout=model.dropout,
        divisor=memory.segment + memory.recent,
    )


def build_compressor(recipe: Any) -> Layered | Recent:
    """The compressor of the recipe's history."""
    model, memory = recipe.model, recipe.memory
    if recipe.history == "compressed":
        return Layered(tokens=memory.tokens, width=model.width, layers=model.layers, cap=memory.cap)
    return Recent(width=model.width, layers=model.layers)
