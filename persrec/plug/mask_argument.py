"""Hosts that are given their mask: `forward(x, mask)`, as HLLM's and PerSRec's `HSTUJagged`.

Shapes: B users, L rows, M remembered rows, D width.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models.interfaces import Rows
from persrec.models.segments import causal
from persrec.plug.adapter import Adapter, evaluating, too_long


class MaskArgument(Adapter):
    """Any model with `forward(x (B, N, D), mask (B, 1, N, N)) -> (B, N, D)`; of a tuple the first is taken.

    `mask` says what the model does with it: "bool" (True = may attend), "multiply" (1 = may attend, 0 = may not) or
    "add" (0 = may attend, very negative = may not). `divisor` is for models that divide attention by the number of rows
    and multiply by the mask: the length that they were trained with, so that the sum weighs the same at any length.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Iterable[nn.Module],
        width: int,
        mask: Literal["bool", "multiply", "add"] = "bool",
        divisor: float | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model, layers=layers, width=width)
        if mask not in ("bool", "multiply", "add") or (divisor is not None and mask != "multiply"):
            raise UserError(
                f'mask: got "{mask}" with divisor {divisor}, expected "bool", "multiply" or "add", and a divisor with '
                '"multiply" only'
            )
        self.mask, self.divisor, self.table = mask, divisor, embed
        self._probe()

    def embed(self, items: Tensor) -> Tensor:
        """By the function that was given for it."""
        return super().embed(items) if self.table is None else self.table(items)

    def tables(self) -> list[nn.Parameter]:
        """The parameters of an embedding module."""
        return list(self.table.parameters()) if isinstance(self.table, nn.Module) else []

    def beside(self) -> nn.Module | None:
        """The embedding module, where the model does not have it already."""
        known = {id(module) for module in self.model.modules()}
        return self.table if isinstance(self.table, nn.Module) and id(self.table) not in known else None

    def items(self) -> int:
        """The rows of an embedding."""
        return self.table.num_embeddings if isinstance(self.table, nn.Embedding) else 0

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """The model over all rows, with the mask in its own form."""
        scale = 1.0 if self.divisor is None else len(visible) / self.divisor
        mask = self._mask(visible, rows.x)
        found = self.model(rows.x, (mask if scale == 1.0 else mask * scale).expand(len(rows.x), -1, -1, -1))
        return found[0] if isinstance(found, tuple) else found

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """The model called as usual, under a causal mask; with a `divisor` on that many rows."""
        x = items if items.is_floating_point() else self.embed(items)
        length = x.shape[1] if self.divisor is None else int(self.divisor)
        if length < x.shape[1]:
            raise too_long(f"{x.shape[1]} rows", length, "the divisor, the length it was trained with")
        wide = torch.cat([x, x.new_zeros(len(x), length - x.shape[1], self.width)], dim=1)
        found = self.model(wide, self._mask(causal(length, 0, device=x.device), x).expand(len(x), -1, -1, -1))
        return (found[0] if isinstance(found, tuple) else found)[:, : x.shape[1]]

    def _mask(self, visible: Tensor, x: Tensor) -> Tensor:
        """(1, 1, N, N)"""
        if self.mask == "bool":
            return visible[None, None]
        if self.mask == "add":
            least = torch.finfo(x.dtype).min
            return torch.zeros_like(visible, dtype=x.dtype).masked_fill(~visible, least)[None, None]
        return visible.to(x.dtype)[None, None]

    @torch.no_grad()
    def _probe(self) -> None:
        """Rows that stand behind others, or unseen in front of them, must not change them."""
        like = next(self.model.parameters())
        x = torch.randn(1, 12, self.width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
        position = torch.arange(12, device=x.device)[None]
        every = Rows(x, position, position, position, position >= 0)
        hidden = causal(12, 0, device=x.device)
        hidden[6:, :6] = False
        with evaluating(self.model):
            self._check_width(every)
            first, last = (self._alone(every, part) for part in (slice(0, 6), slice(6, 12)))
            followed = self.run(every, 0, causal(12, 0, device=x.device))[:, :6]
            behind = self.run(every, 0, hidden)[:, 6:]
        for one, other, where in ((followed, first, "stand behind them"), (behind, last, "stand unseen in front")):
            change = float((one - other).abs().max())
            if not change <= 1e-4 * float(other.abs().max()):  # NaN included
                raise UserError(
                    f"{type(self.model).__name__}: 6 rows change by {change:.2g} when 6 more {where}; either "
                    f'mask="{self.mask}" is not how it takes its mask, or it divides by the number of rows (give '
                    "`divisor`, the length it was trained with), or it has a position table of its own (add positions "
                    "before it, to vectors that you give in the place of ids, or give an Adapter of your own)"
                )

    def _check_width(self, rows: Rows) -> None:
        name, given = type(self.model).__name__, tuple(rows.x.shape)
        try:
            found = self.run(rows, 0, causal(rows.x.shape[1], 0, device=rows.x.device))
        except RuntimeError as error:
            raise UserError(
                f'{name}: fails on rows {given} with mask="{self.mask}": {error}; is the width {self.width}, and the '
                "mask of the form that it takes?"
            ) from error
        if found.shape != rows.x.shape:
            raise UserError(
                f"{name}: made {tuple(found.shape)} of rows {given}, expected hidden rows of the same shape; leave its "
                "head out, or give an Adapter of your own, whose `head` is that"
            )

    def _alone(self, every: Rows, part: slice) -> Tensor:
        rows = Rows(*(field[:, part] for field in every))
        return self.run(rows, 0, causal(rows.x.shape[1], 0, device=rows.x.device))
