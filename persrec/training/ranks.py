"""Which of several processes this is, where a launcher such as torchrun has started the command several times.

Rank 0 does what only one may do, and the others wait for it. Torch is imported where it is used.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from persrec.errors import UserError

PATIENCE = timedelta(days=7)  # of ranks that wait while rank 0 reads a log or evaluates


def launched() -> bool:
    """Whether this process was started as one of several."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """Which of the processes this is; 0 where there is one."""
    return int(os.environ.get("RANK", 0)) if launched() else 0


def check(devices: int, nodes: int) -> None:
    """Raise UserError unless there are, or can be started here, so many processes."""
    expected = devices * nodes
    if launched():
        world = int(os.environ["WORLD_SIZE"])
        if world != expected:
            raise UserError(
                f"training.devices, training.nodes: got {devices} and {nodes}, but the launcher started {world} "
                f"processes; expected devices x nodes = {world}"
            )
    elif nodes > 1:
        raise UserError(
            f"training.nodes: got {nodes}, but no launcher started this process; run on every machine `torchrun "
            f"--nnodes {nodes} --nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m persrec "
            "fit ...`, with data and run folders on a disk that all of them see"
        )


@contextmanager
def first_rank_first() -> Iterator[None]:
    """What is done inside is done by rank 0, then by the others; where it fails on rank 0 the launcher ends them."""
    if not launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    if rank():
        distributed.barrier()
        yield
    else:
        yield
        distributed.barrier()
