"""torch-rechub's `HSTUModel`, on a built model.

It takes ids only, so `run` repeats what its forward does before and leaves the layers to it. Absolute positions are
those of a padded window, relative ones count rows: two passes, no mask.

Shapes: B users, L rows, M remembered rows, D width, V items.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.errors import UserError
from persrec.models.interfaces import Rows
from persrec.plug.adapter import Adapter, part, too_long

KNOWN = "torch-rechub 0.9"
NEEDED = ("token_embedding", "position_embedding", "hstu_block.layers", "max_seq_len", "d_model", "temperature")


class RechubHSTU(Adapter):
    """`padding` says on which side the model's training windows of `max_seq_len` columns were padded."""

    masked = False
    counts_rows = True

    def __init__(self, model: Any, *, padding: Literal["left", "right"] = "left") -> None:
        for path in NEEDED:
            part(model, path, known=KNOWN, package="torch-rechub")
        part(model.hstu_block.layers[0], "rab", known=KNOWN, package="torch-rechub")
        if padding not in ("left", "right"):
            raise UserError(f'padding: got "{padding}", expected "left" or "right"')
        super().__init__(model, layers=list(model.hstu_block.layers), width=model.d_model)
        self.host, self.padding = model, padding
        self.scale = model.d_model**0.5 if model.scale_input_embedding else 1.0

    def embed(self, items: Tensor) -> Tensor:
        """The token embedding."""
        return self.host.token_embedding(items)

    def tables(self) -> list[nn.Parameter]:
        """What items are scored by, and their embedding."""
        output = self.host.output_projection
        bias = [] if self.host.output_bias is None else [self.host.output_bias]
        return [self.host.token_embedding.weight, *bias, *([] if output is None else output.parameters())]

    def items(self) -> int:
        """The vocabulary."""
        return self.host.vocab_size

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """The block over vectors, with positions and times added as the model adds them."""
        host, length = self.host, rows.x.shape[1]
        if length > host.max_seq_len:
            raise too_long(f"{length} rows, {remembered} of them remembered,", host.max_seq_len, "max_seq_len")
        x = rows.x * self.scale + host.position_embedding(self._places(rows, remembered))
        ago = _seconds_ago(rows)
        if host.use_time_embedding:  # which takes missing times for zeros, in the layers too
            ago = torch.zeros_like(rows.time) if ago is None else ago
            x = x + host.time_embedding(host._time_diff_to_bucket(ago))
        x = host.dropout(x * rows.valid[..., None])
        return host.hstu_block(x, padding_mask=rows.valid, time_diffs=ago) * rows.valid[..., None]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary."""
        host = self.host
        scored = host.token_embedding if host.tie_embeddings else host.output_projection
        bias = host.output_bias if host.tie_embeddings else host.output_projection.bias
        weight = scored.weight
        if host.score_norm == "l2":
            hidden, weight = (F.normalize(side, dim=-1, eps=host.l2_norm_eps) for side in (hidden, weight))
        return F.linear(hidden, weight, bias) / host.temperature

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """The model called as usual, on windows padded as it was trained."""
        shift = (self.host.max_seq_len - valid.sum(dim=1)) * (self.padding == "left")  # (B,)
        column = torch.arange(items.shape[1], device=items.device)
        place = (column + shift[:, None]).clamp(max=self.host.max_seq_len - 1)
        ago = _seconds_ago(Rows(self.embed(items), times, query_times, times, valid))
        window = [self._window(field * valid, place, valid) for field in (items, ago) if field is not None]
        output = self.model(*window)
        return output[torch.arange(len(items), device=items.device)[:, None], place]

    def _window(self, field: Tensor, place: Tensor, valid: Tensor) -> Tensor:
        """A field (B, T) in windows of max_seq_len columns."""
        wide = field.new_zeros(len(field), self.host.max_seq_len)
        return wide.scatter_add(1, place, field * valid)

    def _places(self, rows: Rows, remembered: int) -> Tensor:
        """Columns (B, M+L) that rows have in a window padded as in training; of placeholders it does not matter."""
        if self.padding == "right":
            first = rows.position[:, remembered : remembered + 1]
            return (rows.position - first).clamp(min=0)
        newest = rows.position.where(rows.valid, -1).amax(dim=1, keepdim=True)
        last = self.host.max_seq_len - 1
        return (last - newest + rows.position).clamp(min=0, max=last)


def _seconds_ago(rows: Rows) -> Tensor | None:
    """Seconds (B, L) from each row to the last query of its user, as `time_diffs` are made; None without times."""
    if not bool(rows.time.any()):
        return None
    anchor = rows.query_time.where(rows.valid, torch.iinfo(torch.int64).min).amax(dim=1, keepdim=True)
    return torch.div(anchor - rows.time, 1000, rounding_mode="floor") * rows.valid
