"""Decoders of Hugging Face transformers: the Llama, Qwen and Mistral families.

Rotary positions are distances, so rows get the position of their event, counted from the oldest row that is read.

Shapes: B users, L rows, M remembered rows, D width, V items.
"""

from typing import Any

import torch
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models.interfaces import Rows
from persrec.plug.adapter import Adapter, installed, part, too_long

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
KNOWN = "transformers 5 (Llama, Mistral, Qwen2 and Qwen3)"


class Decoder(Adapter):
    """A decoder, with or without its language-model head; the masks of `run` are four-dimensional and additive."""

    def __init__(self, model: Any) -> None:
        self.config: Any = part(model, "config", known=KNOWN, package="transformers")
        _refuse(self.config)
        decoder = getattr(model, "model", model)  # ForCausalLM keeps its decoder in `model`
        layers = part(decoder, "layers", known=KNOWN, package="transformers")
        super().__init__(model, layers=list(layers), width=self.config.hidden_size)
        self.decoder: Any = decoder
        self.output: Any = getattr(model, "lm_head", None)

    def embed(self, items: Tensor) -> Tensor:
        """The decoder's input embeddings."""
        return self.decoder.embed_tokens(items)

    def tables(self) -> list[nn.Parameter]:
        """Input and output embeddings."""
        output = [] if self.output is None else self.output.parameters()
        return [self.decoder.embed_tokens.weight, *output]

    def items(self) -> int:
        """The vocabulary."""
        return self.config.vocab_size

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """The decoder over vectors, without a cache of its own."""
        recomputed = any(getattr(module, "gradient_checkpointing", False) for module in self.decoder.modules())
        if self.decoder.training and recomputed:
            raise UserError(
                "the host computes its layers again in the backward pass, when the memory is no longer in place: turn "
                "its gradient checkpointing off and attach with checkpointed=True instead"
            )
        oldest = rows.position.where(rows.valid, torch.iinfo(torch.int64).max).amin(dim=1, keepdim=True)
        place = (rows.position - oldest).where(rows.valid, 0)  # (B, M+L)
        span, limit = int(place.max()) + 1, self.config.max_position_embeddings
        if span > limit:
            raise too_long(
                f"{span} positions, from the oldest remembered event to the newest,", limit, "max_position_embeddings"
            )
        mask = torch.zeros_like(visible, dtype=rows.x.dtype).masked_fill(~visible, torch.finfo(rows.x.dtype).min)
        return self.decoder(
            inputs_embeds=rows.x,
            attention_mask=mask.expand(len(rows.x), 1, -1, -1),  # always given: equal positions would mean packed rows
            position_ids=place,
            use_cache=False,
        ).last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        """Logits where the model has a head."""
        return hidden if self.output is None else self.output(hidden)

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """The model called as usual."""
        given = {"inputs_embeds": items} if items.is_floating_point() else {"input_ids": items}
        host: Any = self.model
        return host(**given, attention_mask=valid.long(), use_cache=False)[0]


def _refuse(config: Any) -> None:
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
