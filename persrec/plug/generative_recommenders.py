"""Meta's generative-recommenders: the research `HSTU`, and `STULayer`s in an `STUStack` (jagged, PyTorch kernel).

The package is not on PyPI and needs fbgemm; nothing of it is imported here but what `run` calls.

Shapes: B users, L rows, M remembered rows, D width; jagged tensors are (B * (M+L), D), all users of equal length.
"""

from typing import Any

import torch
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models.interfaces import Rows
from persrec.plug.adapter import Adapter, part, too_long
from persrec.plug.relative_bias import distances, looked_up, places, replaced

KNOWN = "generative-recommenders at commit 2e81fab (HSTU; of an STUStack attach JaggedSTU(stack, length=...))"
PACKAGE = "generative-recommenders"


class ResearchHSTU(Adapter):
    """The `HSTU` of the papers' experiments: absolute positions are counted from a block's first event."""

    counts_rows = True

    def __init__(self, model: Any) -> None:
        self.host = model
        layers = part(model, "_hstu._attention_layers", known=KNOWN, package=PACKAGE)
        for path in ("_embedding_module", "_input_features_preproc._pos_emb", "_output_postproc", "_attn_mask"):
            part(model, path, known=KNOWN, package=PACKAGE)
        if any(layer._normalization == "softmax_rel_bias" for layer in layers):
            raise UserError(
                'normalization: got "softmax_rel_bias", which masks after the softmax, so that rows behind a row '
                'count; expected "rel_bias"'
            )
        super().__init__(model, layers=list(layers), width=model._embedding_dim)
        self.scale = model._embedding_dim**0.5
        self.length = int(model._attn_mask.shape[-1])  # what attention is divided by

    def embed(self, items: Tensor) -> Tensor:
        """The embedding module."""
        return self.host.get_item_embeddings(items)

    def tables(self) -> list[nn.Parameter]:
        """The embedding module."""
        return list(self.host._embedding_module.parameters())

    def items(self) -> int:
        """The rows of the item table."""
        return self.tables()[0].shape[0]

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """The jagged stack over vectors, with positions and dropout as the preprocessor has them."""
        before = self.host._input_features_preproc
        place = (rows.position - rows.position[:, remembered : remembered + 1]).clamp(min=0)
        limit, far = before._pos_emb.num_embeddings, int(place.max()) + 1
        if far > limit:
            raise too_long(f"{far} events, of a segment and after it,", limit, "position embeddings")
        x = before._emb_dropout(rows.x * self.scale + before._pos_emb(place)) * rows.valid[..., None]
        events, seconds = distances(rows)
        tables = [layer._rel_attn_bias for layer in self.layers if layer._rel_attn_bias is not None]
        offsets = torch.arange(len(x) + 1, device=x.device) * x.shape[1]
        with replaced(tables, lambda table: _bias(table, events, seconds)):
            found, _ = self.host._hstu(
                x=x,
                x_offsets=offsets,
                all_timestamps=rows.time if bool(rows.time.any()) else None,  # without times it adds no bias at all
                invalid_attn_mask=visible * (len(visible) / self.length),  # it divides by the rows of this pass
            )
        return found

    def head(self, hidden: Tensor) -> Tensor:
        """The output postprocessor."""
        return self.host._output_postproc(hidden)

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """The model called as usual, on windows of its full length; the target's time stands behind the last event."""
        count, missing = valid.sum(dim=1), self.length - items.shape[1]
        wide = nn.functional.pad(items * valid, (0, missing))
        clock = nn.functional.pad(times * valid, (0, missing))
        asked = query_times.gather(1, (count - 1)[:, None])
        payloads = {"timestamps": clock.scatter(1, count[:, None], asked) // 1000}
        return self.model(count, wide, self.embed(wide), payloads)[:, : items.shape[1]]


class JaggedSTU(Adapter):
    """An `STUStack`: no positions or times of its own; `length` is the `max_seq_len` that it was trained with."""

    masked = False

    def __init__(self, model: nn.Module, *, length: int) -> None:
        layers = part(model, "_stu_layers", known=KNOWN, package=PACKAGE)
        for layer in layers:
            if not layer._causal or layer._max_attn_len or layer._contextual_seq_len:
                raise UserError(
                    f"STULayerConfig: got causal={layer._causal}, max_attn_len={layer._max_attn_len}, "
                    f"contextual_seq_len={layer._contextual_seq_len}; expected causal=True and neither a window, which "
                    "would hide the memory, nor contextual rows"
                )
        super().__init__(model, layers=list(layers), width=int(layers[0]._embedding_dim))
        self.length = length

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """The stack over rows laid end to end."""
        lengths = torch.full((len(rows.x),), rows.x.shape[1], device=rows.x.device)
        return self._stack(rows.x.flatten(0, 1), lengths).unflatten(0, rows.x.shape[:2])

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """The stack on jagged histories."""
        found = torch.zeros_like(items)
        found[valid] = self._stack(items[valid], valid.sum(dim=1))
        return found

    def _stack(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Rows (sum of lengths, D) through the layers, which divide attention by `length` whatever is given."""
        longest = int(lengths.max())
        if longest > self.length:
            raise too_long(f"{longest} rows, remembered ones included,", self.length, "length")
        return self.model(
            x=x,
            x_lengths=lengths,
            x_offsets=nn.functional.pad(lengths.cumsum(dim=0), (1, 0)),
            max_seq_len=self.length,
            num_targets=torch.zeros_like(lengths),
        )


def _bias(table: Any, events: Tensor, seconds: Tensor) -> Tensor:
    """Relative bias (B, L, L) of one layer; positions alone where it has no table of times."""
    if not hasattr(table, "_ts_w"):
        return looked_up(table._w, places(events, len(table._w)))
    bucket = table._bucketization_fn(seconds).clamp(0, table._num_buckets)
    return looked_up(table._pos_w, places(events, len(table._pos_w))) + looked_up(table._ts_w, bucket)
