"""From a recipe to modules: the only file of the models that knows settings."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from persrec.event_inputs import size
from persrec.models.decoder import DecoderBackbone, decoder_of, small_decoder
from persrec.models.event_inputs import EventInputs
from persrec.models.hosted import TokenMaps
from persrec.models.hstu import HSTU
from persrec.models.interfaces import Compressor
from persrec.models.item_encoders import IdTable, ItemEncoder, Live, TextItems, Texts
from persrec.models.layered import Layered
from persrec.models.model import Model
from persrec.models.pooled import DecayedMean, MergedNeighbours, Pooled, Prototypes, SegmentMean
from persrec.models.recent import Recent
from persrec.models.recurrent import Recurrent
from persrec.models.repeat import RepeatHead
from persrec.models.segments import SegmentRule
from persrec.models.softmax import Softmax
from persrec.models.stack import Stack
from persrec.models.text_head import TextHead

ENCODER = "items.encoder."  # names of a text model's weights begin so
POOLED: dict[str, type[Pooled]] = {
    "decayed_mean": DecayedMean,
    "merged_neighbours": MergedNeighbours,
    "prototypes": Prototypes,
}


def build(
    recipe: Any,
    *,
    items: int,
    seed: int = 0,
    texts: Texts | None = None,
    live: Live | None = None,
    decoder_config: Tensor | None = None,
) -> Model:
    """The model of one recipe (one history, one seed) over V items, with fresh weights drawn from `seed`.

    `texts` are the items', where the recipe makes vectors of them; `live` is the text model, where that is trained.
    A decoder that has been trained elsewhere comes with its weights; with `decoder_config`, which a run has kept, it is
    only built, by that.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        repeat = (
            RepeatHead(width=recipe.model.width, items=items, timed=recipe.time != "none")
            if recipe.repeat == "head"
            else None
        )
        return Model(
            items=build_items(recipe, items, texts, live),
            backbone=build_backbone(recipe, decoder_config),
            compressor=build_compressor(recipe),
            rule=build_rule(recipe),
            cosine=recipe.model.score == "cosine",
            temperature=recipe.model.temperature,
            learned_temperature=recipe.loss.kind == "info_nce",
            checkpointed=recipe.memory.checkpoint,
            detach_every=recipe.memory.detach_every,
            parallel=recipe.memory.parallel if recipe.history == "compressed" else None,
            repeat=repeat,
            inputs=build_inputs(recipe),
            text_head=build_text_head(recipe, texts),
        )


def restored(recipe: Any, weights: Mapping[str, Tensor], *, items: int) -> Model:
    """The model of a run, from its weights; vectors of texts are among them, and no text model is needed."""
    texts = None
    if recipe.items.use != "id":
        own = {name.removeprefix("items."): value for name, value in weights.items()}
        texts = Texts(own["texts"], own["trained"], own.get("whitening"), own.get("made_by"))
    model = build(recipe, items=items, texts=texts, decoder_config=weights.get("backbone.config"))
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith(ENCODER)})
    return model


def kept_weights(model: Model) -> dict[str, Tensor]:
    """The state of a model that a run keeps: of a text model only what was trained."""
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    state = model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(ENCODER) or name in trained}


def build_items(recipe: Any, items: int, texts: Texts | None, live: Live | None) -> ItemEncoder:
    """The item encoder: ids, texts or both."""
    width, dropout = recipe.model.width, recipe.model.dropout
    if recipe.items.use == "id":
        return IdTable(items=items, width=width, dropout=dropout)
    assert texts is not None
    ids, without = recipe.items.use == "id+text", recipe.items.id_dropout
    return TextItems(texts, width=width, dropout=dropout, ids=ids, id_dropout=without, live=live)


def build_inputs(recipe: Any) -> EventInputs | None:
    """What is added to item vectors for what events carry."""
    if not recipe.model.inputs:
        return None
    types = len(recipe.data.events or ())
    return EventInputs({name: size(name, types) for name in recipe.model.inputs}, width=recipe.model.width)


def build_text_head(recipe: Any, texts: Texts | None) -> TextHead | None:
    """What compares texts with those of the last events; only where item vectors are made of texts."""
    if recipe.items.text_head is None or recipe.items.use == "id":
        return None
    assert texts is not None
    return TextHead(last=recipe.items.text_head, width=texts.vectors.shape[1])


def build_rule(recipe: Any) -> SegmentRule:
    """The segment rule; `full` never closes a segment."""
    return SegmentRule(recipe.memory.segment, None if recipe.history == "full" else recipe.memory.recent)


def build_backbone(recipe: Any, decoder_config: Tensor | None = None) -> Stack | DecoderBackbone:
    """The backbone; bias tables and divisor come from S and R whatever the history, so that the three forms compare."""
    model, memory = recipe.model, recipe.memory
    if model.decoder is not None:
        found = decoder_of(model.decoder, decoder_config, width=model.width, layers=model.layers)
        return DecoderBackbone(found, build_maps(recipe), keeps_config=True)
    sizes: dict[str, Any] = {"width": model.width, "layers": model.layers, "heads": model.heads}
    if model.kind == "decoder":
        return DecoderBackbone(small_decoder(**sizes, dropout=model.dropout), build_maps(recipe))
    sizes |= {
        "exact": memory.segment + memory.recent,
        "timed": recipe.time != "none",
        "dropout": model.dropout,
    }
    if recipe.history == "compressed":  # others have no token or remembered row
        sizes |= {key: getattr(memory, key) for key in ("compete", "own_projections", "count_weight")}
    if model.kind != "hstu":
        return Softmax(model.kind, **sizes)
    first_gain = float(memory.kind != "layered" or memory.begin == "means")  # whether layer 1 has anything to read
    return HSTU(divisor=memory.segment + memory.recent, first_gain=first_gain, **sizes)


def build_maps(recipe: Any) -> TokenMaps | None:
    """What a decoder's token rows have in the place of projections of their own."""
    model, memory = recipe.model, recipe.memory
    if recipe.history != "compressed" or not memory.own_projections or model.layers < 2:
        return None
    return TokenMaps(layers=model.layers, tokens=memory.tokens, width=model.width)


def build_compressor(recipe: Any) -> Compressor:
    """The compressor of the recipe's history."""
    model, memory = recipe.model, recipe.memory
    if recipe.history != "compressed":
        return Recent(width=model.width, layers=model.layers)
    keeping = {"encoding": memory.encoding, "straight_through": memory.straight_through}
    if memory.kind == "layered":
        merge = memory.segment if memory.merge else None
        sizes = {"tokens": memory.tokens, "width": model.width, "layers": model.layers}
        means = float(memory.begin == "means")
        return Layered(**sizes, cap=memory.cap, merge_segments=merge, means=means, **keeping)
    if memory.kind == "recurrent":
        return Recurrent(tokens=memory.tokens, width=model.width, write=memory.write, **keeping)
    if memory.kind == "segment_mean":
        return SegmentMean(width=model.width, cap=memory.cap, **keeping)
    return POOLED[memory.kind](tokens=memory.tokens, width=model.width, **keeping)
