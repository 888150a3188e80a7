"""Operations on memories: empty, append, cap, choose users, join batches. Right-aligned: the newest row is the last.

Shapes: B users, P planes, M remembered rows, D width; E entries and G blocks of a chain, K tokens.
"""

from dataclasses import replace

import torch
from torch import Tensor

from persrec.models.interfaces import Chain, Memory, Rows


def empty(users: int, planes: int, width: int, *, like: Tensor, maker: str = "") -> Memory:
    """The memory of users with nothing folded: M = 0, on the device and in the dtype of `like`."""
    integers = like.new_zeros(users, 0, dtype=torch.int64)
    return Memory(
        states=like.new_zeros(users, planes, 0, width),
        time=integers,
        position=integers,
        valid=integers.bool(),
        weight=like.new_zeros(users, 0),
        count=like.new_zeros(users, dtype=torch.int64),
        maker=maker,
    )


def append(memory: Memory, new: Memory) -> Memory:
    """`new`'s rows after `memory`'s; counts add up."""
    return Memory(
        states=torch.cat([memory.states, new.states], dim=2),
        time=torch.cat([memory.time, new.time], dim=1),
        position=torch.cat([memory.position, new.position], dim=1),
        valid=torch.cat([memory.valid, new.valid], dim=1),
        weight=torch.cat([memory.weight, new.weight], dim=1),
        count=memory.count + new.count,
        maker=memory.maker,
    )


def newest(memory: Memory, rows: int) -> Memory:
    """Only the last `rows` rows; the count of folded events stays."""
    if memory.rows <= rows:
        return memory
    first = memory.rows - rows
    return replace(
        memory,
        states=memory.states[:, :, first:],
        time=memory.time[:, first:],
        position=memory.position[:, first:],
        valid=memory.valid[:, first:],
        weight=memory.weight[:, first:],
    )


def oldest(memory: Memory, rows: int) -> Memory:
    """Only the first `rows` rows; the count of folded events stays."""
    return replace(
        memory,
        states=memory.states[:, :, :rows],
        time=memory.time[:, :rows],
        position=memory.position[:, :rows],
        valid=memory.valid[:, :rows],
        weight=memory.weight[:, :rows],
    )


def take(memory: Memory, users: slice | Tensor) -> Memory:
    """The memories of some users of the batch."""
    return replace(
        memory,
        states=memory.states[users],
        time=memory.time[users],
        position=memory.position[users],
        valid=memory.valid[users],
        weight=memory.weight[users],
        count=memory.count[users],
    )


def reserved(chain: Chain, tokens: Rows, events: Tensor, planes: int, *, like: Tensor) -> Memory:
    """Empty rows (users, planes, G * K, D) for the tokens of a chain's blocks; invalid where there is no block.

    `tokens` are the token rows (E, K) of its entries, `events` (E,) the events that each of them folds.
    """
    count = tokens.time.shape[1]

    def place(field: Tensor) -> Tensor:  # (E, K) to (users, G * K)
        return put(chain, field).flatten(1)

    return Memory(
        states=like.new_zeros(chain.users, planes, chain.blocks * count, tokens.x.shape[-1]),
        time=place(tokens.time),
        position=place(tokens.position),
        valid=place(tokens.valid),
        weight=place((events / count).to(like.dtype)[:, None].expand(-1, count)),
        count=put(chain, events).sum(dim=1),
    )


def put(chain: Chain, entries: Tensor) -> Tensor:
    """What belongs to a chain's entries (E, ...) by user and block: (users, G, ...), zeros where there is no block."""
    if len(entries) == chain.users * chain.blocks:
        return entries.unflatten(0, (chain.users, chain.blocks))
    blank = entries.new_zeros(chain.users, chain.blocks, *entries.shape[1:])
    return blank.index_put((chain.user, chain.block), entries)


def align(memory: Memory, missing: Tensor) -> Memory:
    """Move each user's last `missing` (B,) rows, which are invalid, to the front."""
    if not bool(missing.any()):
        return memory
    index = (torch.arange(memory.rows, device=missing.device)[None] - missing[:, None]) % memory.rows  # (B, M)
    users, planes, _, width = memory.states.shape
    wide = index[:, None, :, None].expand(users, planes, -1, width)
    return replace(
        memory,
        states=memory.states.gather(2, wide),
        time=memory.time.gather(1, index),
        position=memory.position.gather(1, index),
        valid=memory.valid.gather(1, index),
        weight=memory.weight.gather(1, index),
    )


def widen(memory: Memory, rows: int) -> Memory:
    """The same memory with M = `rows`, by invalid rows in front."""
    missing = rows - memory.rows
    if missing <= 0:
        return memory
    users, planes, _, width = memory.states.shape
    blank = empty(users, planes, width, like=memory.states)
    blank = replace(
        blank,
        states=memory.states.new_zeros(users, planes, missing, width),
        time=memory.time.new_zeros(users, missing),
        position=memory.position.new_zeros(users, missing),
        valid=memory.valid.new_zeros(users, missing),
        weight=memory.weight.new_zeros(users, missing),
    )
    return replace(append(blank, memory), maker=memory.maker)


def join(first: Memory, second: Memory) -> Memory:
    """The users of `first`, then those of `second`, widened to the same number of rows."""
    if not len(second.count):
        return first
    rows = max(first.rows, second.rows)
    first, second = widen(first, rows), widen(second, rows)
    return Memory(
        states=torch.cat([first.states, second.states]),
        time=torch.cat([first.time, second.time]),
        position=torch.cat([first.position, second.position]),
        valid=torch.cat([first.valid, second.valid]),
        weight=torch.cat([first.weight, second.weight]),
        count=torch.cat([first.count, second.count]),
        maker=first.maker,
    )


def emptied(memory: Memory) -> Memory:
    """The same memory, of which nothing can be read."""
    return replace(memory, valid=torch.zeros_like(memory.valid))


def of_others(memory: Memory, users: Tensor) -> Memory:
    """For each user (B,) the memory of the next other one in the batch that has one and has folded no more events, so
    that nothing in it is later than the reader's own; empty where there is none."""
    rows = torch.arange(len(users), device=users.device)
    givers = (memory.count > 0)[None] & (memory.count[None] <= memory.count[:, None])
    other = (users[:, None] != users[None]) & givers  # (B, B)
    distance = (rows[None] - rows[:, None]) % max(len(users), 1)
    giver = distance.masked_fill(~other, len(users) + 1).argmin(dim=1)
    found = take(memory, giver)
    return replace(found, valid=found.valid & other.any(dim=1)[:, None], count=memory.count)
