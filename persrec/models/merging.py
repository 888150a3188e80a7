"""Merging old rows of a memory, so that their number grows with the logarithm of the events.

Shapes: B users, P planes, G blocks of K rows, D width.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from persrec.models import memory as memories
from persrec.models.interfaces import Memory


def merged(memory: Memory, tokens: int, segment: int, kept: Callable[[Tensor], Tensor]) -> Memory:
    """The memory in which no two of the newest blocks of a user are of the same size class.

    A block holds `tokens` rows; one of 2**l segments is of class l (a short first segment counts as one). Two become
    one as digits carry: slot by slot the mean of the states weighted by events, at time and position of the newer,
    passed through `kept`. (The logarithmic method of Bentley and Saxe, 1980, as in log-structured stores.)
    """
    while memory.rows >= 2 * tokens:
        size = memory.weight.unflatten(1, (-1, tokens)).sum(dim=2)[:, -2:] / segment  # (B, 2)
        level = size.clamp(min=1).log2().sub(1e-4).ceil()  # weights are sums of K-th parts of S
        carry = (level[:, 0] == level[:, 1]) & memory.valid[:, -2 * tokens]
        if not bool(carry.any()):
            break
        memory = _where(carry, _carried(memory, tokens, kept), memory)
    unused = ~memory.valid.any(dim=0)
    used = memory.rows - int(unused.cumprod(dim=0).sum())
    return memories.newest(memory, used)


def _carried(memory: Memory, tokens: int, kept: Callable[[Tensor], Tensor]) -> Memory:
    """The same number of rows, the newest two blocks being one."""
    older, newer = slice(-2 * tokens, -tokens), slice(-tokens, None)
    weight = memory.weight[:, older] + memory.weight[:, newer]
    share = (memory.weight[:, newer] / weight.clamp(min=torch.finfo(weight.dtype).tiny))[:, None, :, None]
    states = torch.lerp(memory.states[:, :, older], memory.states[:, :, newer], share)
    one = replace(memories.newest(memory, tokens), states=kept(states), weight=weight, count=memory.count)
    before = memories.oldest(memory, memory.rows - 2 * tokens)
    return memories.widen(memories.append(before, replace(one, count=torch.zeros_like(one.count))), memory.rows)


def _where(chosen: Tensor, one: Memory, other: Memory) -> Memory:
    """Memory `one` for the users (B,) that are chosen, `other` for the rest; of equally many rows."""
    return replace(
        other,
        states=torch.where(chosen[:, None, None, None], one.states, other.states),
        time=torch.where(chosen[:, None], one.time, other.time),
        position=torch.where(chosen[:, None], one.position, other.position),
        valid=torch.where(chosen[:, None], one.valid, other.valid),
        weight=torch.where(chosen[:, None], one.weight, other.weight),
    )
