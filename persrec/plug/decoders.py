"""Decoders of Hugging Face transformers: the Llama, Qwen and Mistral families.

Rotary positions are distances, so rows get the position of their event, counted from the oldest row that is read.

Shapes: B users, L rows, M remembered rows, D width, V items.
"""

from typing import Any

from torch import Tensor, nn

from persrec.models.decoder import KNOWN, refuse, run_decoder
from persrec.models.interfaces import Rows
from persrec.plug.adapter import Adapter, part


class Decoder(Adapter):
    """A decoder, with or without its language-model head; the masks of `run` are four-dimensional and additive."""

    def __init__(self, model: Any) -> None:
        self.config: Any = part(model, "config", known=KNOWN, package="transformers")
        refuse(self.config)
        decoder = getattr(model, "model", model)  # ForCausalLM keeps its decoder in `model`
        layers = part(decoder, "layers", known=KNOWN, package="transformers")
        super().__init__(model, layers=list(layers), width=self.config.hidden_size)
        self.decoder: Any = decoder

    @property
    def output(self) -> Any:
        """The head as it is now, as one of another size may have taken its place; None where there is none."""
        return getattr(self.model, "lm_head", None)

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
        return run_decoder(self.decoder, rows, visible)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits where the model has a head."""
        return hidden if self.output is None else self.output(hidden)

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """The model called as usual."""
        given = {"inputs_embeds": items} if items.is_floating_point() else {"input_ids": items}
        host: Any = self.model
        return host(**given, attention_mask=valid.long(), use_cache=False)[0]
