"""Negatives: items that stand against the target in a sampled loss.

Shapes: N scored rows, J negatives, V items, T targets of a batch. Draws are torch's, with repetition: (J,) shared by
all rows, or (N, J) with `rows`.
"""

from typing import Literal

import torch
from torch import Tensor

from persrec.constants import PAD

Sampler = Literal["uniform", "popularity", "in-batch", "mixed"]


def uniform(count: int, *, items: int, rows: int | None = None, device: torch.device | None = None) -> Tensor:
    """Every item of 1..V alike."""
    return torch.randint(PAD + 1, items + 1, _shape(count, rows), device=device)


def popular(count: int, *, counts: Tensor, rows: int | None = None) -> Tensor:
    """Each item by how often it is a target, (V+1,) `counts`, and once more, so that none is left out."""
    edges = (counts[PAD + 1 :].double() + 1).cumsum(dim=0)
    place = torch.rand(_shape(count, rows), dtype=torch.float64, device=counts.device) * edges[-1]
    return torch.searchsorted(edges, place, right=True).clamp(max=len(edges) - 1) + PAD + 1


def in_batch(count: int, *, targets: Tensor, rows: int | None = None) -> Tensor:
    """Each of the batch's targets (T,) alike, which are items by popularity; nothing where there is none."""
    count = count if len(targets) else 0
    return targets[torch.randint(len(targets) or 1, _shape(count, rows), device=targets.device)]


def draw(
    sampler: Sampler, count: int, *, items: int, counts: Tensor | None, targets: Tensor, rows: int | None = None
) -> Tensor:
    """Negatives of a sampler; `mixed` is half uniform, half in-batch (Yang et al., WWW 2020)."""
    if sampler == "popularity":
        assert counts is not None
        return popular(count, counts=counts, rows=rows)
    alike = _alike(sampler, count)
    parts = [uniform(alike, items=items, rows=rows, device=targets.device)] if alike else []
    if alike < count:
        parts.append(in_batch(count - alike, targets=targets, rows=rows))
    return torch.cat(parts, dim=-1)


def expected(sampler: Sampler, count: int, drawn: Tensor, *, items: int, counts: Tensor | None) -> Tensor:
    """How many times each of the `drawn` items is among J draws of a sampler on average; float32, shaped as `drawn`.

    Targets of a batch are taken to be those of the whole training set, `counts` (V+1,), drawn at random.
    """
    alike = _alike(sampler, count)
    if sampler == "uniform":
        return torch.full(drawn.shape, alike / items, device=drawn.device)
    assert counts is not None
    total, often = counts[PAD + 1 :].sum().double(), counts[drawn].double()
    if sampler == "popularity":
        return (count * (often + 1) / (total + items)).float()
    if sampler == "in-batch":
        often = often.clamp(min=1)  # it was drawn, so it is a target, whatever the counts say
    return (alike / items + (count - alike) * often / total.clamp(min=1)).float()


def _alike(sampler: Sampler, count: int) -> int:
    """How many of J draws are uniform."""
    return {"uniform": count, "mixed": (count + 1) // 2}.get(sampler, 0)


def _shape(count: int, rows: int | None) -> tuple[int, ...]:
    return (count,) if rows is None else (rows, count)
