"""Memories taken away and exchanged."""

from dataclasses import replace

import torch

from persrec.models import memory as memories
from persrec.models.interfaces import Memory


def memory_of(*counts: int) -> Memory:
    """One row per user, which holds the user's number; nobody with a count of 0 has a valid one."""
    count = torch.tensor(counts)
    empty = memories.empty(len(counts), 2, 3, like=torch.zeros(()))
    own = torch.arange(len(counts))
    states = own[:, None, None, None].expand(-1, 2, 1, 3).float()
    fields = {"time": own[:, None], "position": own[:, None], "weight": own[:, None].float()}
    return replace(empty, states=states, valid=count[:, None] > 0, count=count, **fields)


def given(memory: Memory) -> list[int | None]:
    """Whose memory each user reads."""
    return [
        int(states[0, 0, 0]) if valid else None
        for states, valid in zip(memory.states, memory.valid[:, 0].tolist(), strict=True)
    ]


def test_emptied() -> None:
    memory = memories.emptied(memory_of(5, 3))
    assert not bool(memory.valid.any())
    assert memory.count.tolist() == [5, 3]


def test_everybody_reads_the_next_who_is_not_ahead() -> None:
    users = torch.tensor([10, 11, 12, 13])
    found = memories.of_others(memory_of(6, 6, 4, 0), users)
    assert given(found) == [1, 2, None, None], "the one after the last with a memory has none to give"
    assert found.count.tolist() == [6, 6, 4, 0]


def test_of_equal_ones_the_circle_closes() -> None:
    assert given(memories.of_others(memory_of(4, 4, 4), torch.tensor([1, 2, 3]))) == [1, 2, 0]


def test_nobody_reads_another_query_of_the_same_user() -> None:
    found = memories.of_others(memory_of(4, 4, 4, 2), torch.tensor([7, 7, 8, 7]))
    assert given(found) == [2, 2, 3, None]


def test_alone_there_is_nobody_to_read() -> None:
    assert given(memories.of_others(memory_of(4), torch.tensor([7]))) == [None]
