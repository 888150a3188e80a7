"""From a recipe to modules: the only file of the models that knows settings."""

from typing import Any

import torch

from persrec.models.hstu import HSTU
from persrec.models.interfaces import Compressor
from persrec.models.item_encoders import IdTable
from persrec.models.layered import Layered
from persrec.models.model import Model
from persrec.models.pooled import DecayedMean, MergedNeighbours, Pooled, Prototypes, SegmentMean
from persrec.models.recent import Recent
from persrec.models.recurrent import Recurrent
from persrec.models.repeat import RepeatHead
from persrec.models.segments import SegmentRule
from persrec.models.softmax import Softmax
from persrec.models.stack import Stack

POOLED: dict[str, type[Pooled]] = {
    "decayed_mean": DecayedMean,
    "merged_neighbours": MergedNeighbours,
    "prototypes": Prototypes,
}


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
            detach_every=recipe.memory.detach_every,
            repeat=repeat,
        )


def build_rule(recipe: Any) -> SegmentRule:
    """The segment rule; `full` never closes a segment."""
    return SegmentRule(recipe.memory.segment, None if recipe.history == "full" else recipe.memory.recent)


def build_backbone(recipe: Any) -> Stack:
    """The backbone; bias tables and divisor come from S and R whatever the history, so that the three forms compare."""
    model, memory = recipe.model, recipe.memory
    sizes: dict[str, Any] = {
        "width": model.width,
        "layers": model.layers,
        "heads": model.heads,
        "exact": memory.segment + memory.recent,
        "timed": recipe.time != "none",
        "dropout": model.dropout,
    }
    if model.kind != "hstu":
        return Softmax(model.kind, **sizes)
    return HSTU(divisor=memory.segment + memory.recent, first_gain=float(memory.kind != "layered"), **sizes)


def build_compressor(recipe: Any) -> Compressor:
    """The compressor of the recipe's history."""
    model, memory = recipe.model, recipe.memory
    if recipe.history != "compressed":
        return Recent(width=model.width, layers=model.layers)
    keeping = {"encoding": memory.encoding, "straight_through": memory.straight_through}
    if memory.kind == "layered":
        merge = memory.segment if memory.merge else None
        sizes = {"tokens": memory.tokens, "width": model.width, "layers": model.layers}
        return Layered(**sizes, cap=memory.cap, merge_segments=merge, **keeping)
    if memory.kind == "recurrent":
        return Recurrent(tokens=memory.tokens, width=model.width, write=memory.write, **keeping)
    if memory.kind == "segment_mean":
        return SegmentMean(width=model.width, cap=memory.cap, **keeping)
    return POOLED[memory.kind](tokens=memory.tokens, width=model.width, **keeping)
