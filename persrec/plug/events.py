"""Histories as the user of a host has them: what they look like, what is refused, and what of them is not in a memory.

Shapes: B users, T columns, W columns of the longest history, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from persrec.batches import Batch
from persrec.constants import PAD
from persrec.errors import UserError
from persrec.models.interfaces import Memory
from persrec.plug.adapter import Adapter


class Events(NamedTuple):
    """Histories as a user of a host has them, padded on either side."""

    items: Tensor  # (B, T) ids, PAD = no event; or vectors (B, T, D)
    times: Tensor | None = None  # (B, T) int64 ms
    query_times: Tensor | None = None  # (B, T) int64 ms: when a row is asked; default: its own time
    valid: Tensor | None = None  # (B, T) bool; default: where there is an id
    ids: Tensor | None = None  # (B, T) of the items where these are vectors; for the loss of the tokens


def check(events: Events, adapter: Adapter) -> None:
    """Refuse what are no histories of one shape: ids or vectors, times and `valid`."""
    items = events.items
    if not isinstance(items, Tensor):
        raise UserError(f"items: got {type(items).__name__}, expected a tensor: torch.as_tensor(items)")
    vectors, width = items.is_floating_point(), adapter.width
    if items.dim() != 2 + vectors or not items.shape[1] or (vectors and items.shape[2] != width):
        raise UserError(
            f"items: got {items.dtype} {tuple(items.shape)}, expected ids (users, events), or vectors (users, events, "
            f"{width}), of one event or more"
        )
    if not vectors:
        last = adapter.items() - 1
        low, high = (int(items.min()), int(items.max())) if len(items) else (0, 0)
        if low < 0 or 0 <= last < high:
            known = f"to {last}" if last >= 0 else "on"
            raise UserError(f"items: got ids from {low} to {high}, expected 0 for padding and items from 1 {known}")
    for name in ("times", "query_times", "valid", "ids"):
        given = getattr(events, name)
        if given is None:
            continue
        kind = torch.bool if name == "valid" else torch.int64
        if (
            not isinstance(given, Tensor)
            or given.shape != items.shape[:2]
            or (given.dtype != kind and (kind == torch.bool or given.is_floating_point()))
        ):
            got = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise UserError(f"{name}: got {got}, expected {kind} {tuple(items.shape[:2])}, as many as there are items")


def check_follows(memory: Memory | None, events: Events, batch: Batch) -> None:
    """Refuse events that lie before what is in the memories, as whole histories do, where there are times."""
    if memory is None or events.times is None or not memory.rows:
        return
    last = memory.time[batch.user, -1]
    early = (batch.history.time[:, 0] < last) & (batch.events > 0) & memory.valid[batch.user, -1]
    if bool(early.any()):
        raise UserError(
            f"user {int(batch.user[early.int().argmax()])} has events before the end of what is in the memory; "
            "expected those after it alone: *since(memory, items, times)"
        )


def packed(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (B, W) of each user's events, padded on the right, and which of them exist; `valid` on any side."""
    count, front = valid.sum(dim=1), valid.int().argmax(dim=1)
    columns = torch.arange(max(1, int(count.max())) if len(count) else 1, device=valid.device)
    exist = columns < count[:, None]
    found = (front[:, None] + columns).clamp(max=valid.shape[1] - 1)
    broken = (valid.gather(1, found) != exist) & exist
    if bool(broken.any()):
        raise UserError(
            f"row {int(broken.any(dim=1).int().argmax())} has padding between its events; expected the events of a "
            "user in neighbouring columns, oldest first"
        )
    return found, exist


def since(memory: Memory, items: Tensor, *others: Tensor, valid: Tensor | None = None) -> tuple[Tensor, ...]:
    """Of whole histories the events that are not in the memory, padded with zeros on the right: items, then the others.

    `items`, `others` and `valid` are (B, T, ...) as they were compressed.
    """
    if len(items) != len(memory.count):
        raise UserError(
            f"since: got {len(items)} users and the memories of {len(memory.count)}; expected the same users"
        )
    columns, exist = packed(items != PAD if valid is None else valid)
    left = exist.sum(dim=1) - memory.count
    if bool((left < 0).any()):
        user = int(left.argmin())
        raise UserError(
            f"since: got {int(exist[user].sum())} events of row {user}, of whom {int(memory.count[user])} are in the "
            "memory already; expected whole histories, not cut to a window"
        )
    width = max([1, *left.tolist()])
    offset = torch.arange(width, device=items.device)
    start = columns[:, :1] + memory.count[:, None]
    index, there = (start + offset).clamp(max=items.shape[1] - 1), offset < left[:, None]
    users = torch.arange(len(items), device=items.device)[:, None]
    return tuple(
        field[users, index] * there.reshape(there.shape + (1,) * (field.dim() - 2)) for field in (items, *others)
    )
