"""What a read costs: milliseconds, measured on a sample of users, and bytes that a store keeps for it.

Shapes: B users.
"""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from persrec.batches import Sequences, Windows, collate
from persrec.models.compressor import loop, read
from persrec.models.model import Model

REPEATS = 5
ID_BYTES, TIME_BYTES = 4, 8  # of a clear event: an int32 and, with a time signal, an int64

Floats = npt.NDArray[np.float64]


@torch.no_grad()
def milliseconds(
    model: Model,
    data: Sequences,
    windows: Windows,
    time_known: str,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Floats:
    """(B,) ms from clear events and memory to the hidden row that is matched against items; one user at a time.

    The memory is there already; one thread; the median of five repeats after one that is not counted. The search among
    the items, alike for all models, is not in it.
    """
    training, threads = model.training, torch.get_num_threads()
    model.eval()
    torch.set_num_threads(1)
    try:
        users = range(len(windows.user))
        return np.array([_one(model, data, windows.take(np.array([user])), time_known, clock) for user in users])
    finally:
        torch.set_num_threads(threads)
        model.train(training)


def _one(model: Model, data: Sequences, window: Windows, time_known: str, clock: Callable[[], float]) -> float:
    batch = collate(data, window, time=time_known)
    memory = loop(
        model.backbone, model.compressor, model.encode(), batch, model.rule, score=lambda hidden, events: None
    ).memory
    closed = model.rule.closed(batch.events)
    taken = []
    for _ in range(REPEATS + 1):
        started = clock()
        read(model.backbone, model.encode(), batch, closed, model.rule, memory)
        taken.append(clock() - started)
    return 1000 * float(np.median(taken[1:]))


def bytes_kept(model: Model, windows: Windows, memory_bytes: float, time_known: str) -> float:
    """Mean bytes per user: ids (and times) of the events that a read takes, and the memory, float32."""
    columns = torch.from_numpy(windows.columns)
    clear = columns - model.rule.closed(columns) * model.rule.segment
    per_event = ID_BYTES + (TIME_BYTES if time_known != "none" else 0)
    return float(clear.double().mean()) * per_event + memory_bytes
