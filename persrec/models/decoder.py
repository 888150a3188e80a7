"""Decoders of Hugging Face transformers as hosts: the Llama, Qwen and Mistral families, over vectors of items.

Rotary positions are distances, so rows get the position of their event, counted from the oldest row that is read.

Shapes: B users, L rows, M remembered rows, D width.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models import pretrained
from persrec.models.hosted import Hosted, TokenMaps, installed, too_long
from persrec.models.interfaces import Chain, Memory, Rows
from persrec.models.rows import in_front, rows_at, seen_in_front

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
KNOWN: Final = "transformers 5 (Llama, Mistral, Qwen2 and Qwen3)"
KEY: Final = "model.decoder"  # of a recipe, that names one
POSITIONS: Final = 1 << 15  # of a decoder of our own: events from the oldest row that is read to the newest


class DecoderHost:
    """What `hosted` has to know of a decoder."""

    masked = True

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.layers: Sequence[nn.Module] = list(decoder.layers)
        self.width: int = decoder.config.hidden_size

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """The decoder over vectors, without a cache of its own; see `Host.run`."""
        return run_decoder(self.decoder, rows, visible)


class DecoderBackbone(nn.Module):
    """A decoder as a backbone; see `Backbone`. It reads the order of events, and no times.

    With `maps` token rows, remembered or not, are given to layers as these make them. With `keeps_config` its state
    says how the decoder is built.
    """

    chains = False

    def __init__(self, decoder: Any, maps: TokenMaps | None = None, *, keeps_config: bool = False) -> None:
        super().__init__()
        config = decoder.config.to_json_string(use_diff=False).encode() if keeps_config else None
        self.register_buffer("config", None if config is None else torch.tensor(list(config), dtype=torch.uint8))
        decoder.embed_tokens = None  # rows come as vectors
        self.decoder, self.maps = decoder, maps
        self.layers, self.width = len(decoder.layers), int(decoder.config.hidden_size)

    def step(
        self,
        rows: Rows,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        visible: Tensor | None = None,
        chain: Chain | None = None,
        asked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Hosted.step`; a memory of one plane is rows in front of the others."""
        hosted = Hosted(DecoderHost(self.decoder), own_masks=True, maps=self.maps)
        if memory is None or memory.states.shape[1] == self.layers > 1:
            return hosted.step(rows, memory, keep=keep, visible=visible, chain=chain, asked=asked)
        count = memory.rows
        visible = seen_in_front(memory, visible)
        tokens = torch.arange(count if self.maps is not None else 0, device=rows.x.device)
        given = tokens if keep is None else torch.cat([tokens, keep + count])
        keep_all = given if len(given) else None
        hidden, kept = hosted.step(in_front(memory, rows), None, keep=keep_all, visible=visible, chain=chain)
        found = hidden[:, count:] if asked is None else rows_at(hidden, asked + count)
        return found, None if keep is None or kept is None else kept[:, :, len(tokens) :]


def small_decoder(*, width: int, layers: int, heads: int, dropout: float) -> Any:
    """A decoder of the Llama family of random weights (its `dropout` is that of attention)."""
    config, model = _transformers("LlamaConfig", "LlamaModel")
    return model(
        config(
            vocab_size=1,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=POSITIONS,
            attention_dropout=dropout,
            use_cache=False,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def decoder_of(name: str, config: Tensor | None, *, width: int, layers: int) -> Any:
    """The decoder of a model folder; with the `config` of a run, which has its weights, only what it is built like.

    Raises:
        UserError: see `pretrained.load`; it is no decoder that can carry a memory, or of another size.
    """
    configs, model = _transformers("AutoConfig", "AutoModel")
    if config is None:
        decoder = pretrained.load(name, key=KEY)[0]
    else:
        values = json.loads(bytes(config.tolist()))
        decoder = model.from_config(configs.for_model(values.pop("model_type"), **values))
    refuse(decoder.config)
    for key, wanted, got in (
        ("width", width, decoder.config.hidden_size),
        ("layers", layers, decoder.config.num_hidden_layers),
    ):
        if wanted != got:
            raise UserError(f"model.{key}: got {wanted}, expected {got}, that of the decoder {name}")
    return decoder.train()  # it comes as it is used elsewhere, without dropout


def _transformers(*names: str) -> list[Any]:
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"model.kind decoder: {pretrained.EXTRA}") from error
    return [getattr(transformers, name) for name in names]


def run_decoder(decoder: Any, rows: Rows, visible: Tensor) -> Tensor:
    """Hidden (B, M+L, D) of a decoder over rows; `visible` is bool (M+L, M+L), or (B, M+L, M+L) of each user."""
    recomputed = any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules())
    if decoder.training and recomputed:
        raise UserError(
            "the host computes its layers again in the backward pass, when the memory is no longer in place: turn "
            "its gradient checkpointing off and attach with checkpointed=True instead"
        )
    oldest = rows.position.where(rows.valid, torch.iinfo(torch.int64).max).amin(dim=1, keepdim=True)
    place = (rows.position - oldest).where(rows.valid, 0)  # (B, M+L)
    span, limit = int(place.max()) + 1, decoder.config.max_position_embeddings
    if span > limit:
        raise too_long(
            f"{span} positions, from the oldest remembered event to the newest,", limit, "max_position_embeddings"
        )
    seen = visible if visible.dim() == 3 else visible[None]
    mask = torch.zeros_like(seen, dtype=rows.x.dtype).masked_fill(~seen, torch.finfo(rows.x.dtype).min)[:, None]
    return decoder(
        inputs_embeds=rows.x,
        attention_mask=mask.expand(len(rows.x), -1, -1, -1),  # always given: equal positions would mean packed rows
        position_ids=place,
        use_cache=False,
    ).last_hidden_state


def refuse(config: Any) -> None:
    """Refuse configurations whose rows are not functions of what stands before them at any distance."""
    family = getattr(config, "model_type", None)
    if family not in FAMILIES:
        raise UserError(
            f"config.model_type: got {family!r}, expected one of {', '.join(FAMILIES)}; known: {KNOWN}; installed: "
            f"transformers {installed('transformers')}"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and (family == "mistral" or getattr(config, "use_sliding_window", False)):
        raise UserError(
            f"config.sliding_window: got {window}; a window would hide the memory from newer rows; load the model with "
            "sliding_window=None (Mistral) or use_sliding_window=False (Qwen)"
        )
    scaling = getattr(config, "rope_parameters", None) or {}
    kind = scaling.get("rope_type", "default")
    if kind in ("dynamic", "longrope"):
        raise UserError(
            f"config.rope_parameters: got rope_type {kind!r}, whose rotations depend on the longest row of a batch; "
            "expected one that does not (default, linear, yarn, llama3)"
        )
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("eager", "sdpa", None):
        raise UserError(
            f"attn_implementation: got {attention!r}, expected 'sdpa' or 'eager', which take a mask; load the model "
            "with attn_implementation='sdpa'"
        )
