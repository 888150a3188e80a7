"""Several processes of this machine that train together, one per device; they live for the training alone."""

import os
import pickle
import signal
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing

from persrec.errors import UserError

GRACE = 10.0  # seconds in which interrupted processes may end by themselves


def launch(function: Callable[..., None], arguments: tuple[Any, ...], *, processes: int) -> None:
    """Call a function in so many new processes of this machine, each with copies of the arguments.

    Raises:
        UserError: that of the first process that fails, if it fails with one.
    """
    call = pickle.dumps((function, arguments))  # tensors that are passed on as they are would be shared
    given = (processes, _free_port(), torch.get_num_threads(), call)
    running = multiprocessing.start_processes(_process, given, nprocs=processes, join=False, start_method="spawn")
    assert running is not None
    try:
        while not running.join():
            pass
    except multiprocessing.ProcessRaisedException as error:  # the others have been ended
        _, fault, said = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")
        if fault:
            raise UserError(said.strip()) from None
        raise
    except BaseException:
        _end(running.processes)
        raise


def _process(number: int, processes: int, port: int, threads: int, call: bytes) -> None:
    """What each process does."""
    place = {"RANK": number, "LOCAL_RANK": number, "NODE_RANK": 0, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(threads)
    function, arguments = pickle.loads(call)
    function(*arguments)


def _end(processes: Any) -> None:
    """Interrupt processes, and terminate those that do not end."""
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join(GRACE)
        process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
