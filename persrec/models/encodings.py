"""How the numbers of a memory are kept: float32, float16, or int8 and int4 with a scale per row.

Reading back what was written and writing it again gives the same bytes, so that a memory may be stored and loaded any
number of times between two folds. Shapes: n rows, D width.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from persrec.models.interfaces import Memory

NAMES: Final = ("float32", "float16", "int8", "int4")
LARGEST: Final = {"int8": 127, "int4": 7}
SMALLEST_SCALE: Final = 2.0**-14  # the smallest float16 with all its digits: below it scales would lose precision
Codes = npt.NDArray[np.uint8]


def round_trip(states: Tensor, encoding: str) -> Tensor:
    """What is read back after states (..., D) were written, with the gradient of the states themselves."""
    if encoding == "float32":
        return states
    with torch.no_grad():
        if encoding == "float16":
            kept = states.to(torch.float16).to(states.dtype)
        else:
            scale = _scale(states, encoding)
            kept = _integers(states, scale, encoding) * scale
    return states + (kept - states).detach() if states.requires_grad else kept


def row_bytes(width: int, encoding: str) -> int:
    """Bytes of one row of `width` numbers, its scale included."""
    return {"float32": 4 * width, "float16": 2 * width, "int8": width + 2, "int4": (width + 1) // 2 + 2}[encoding]


def memory_bytes(memory: Memory, encoding: str, planes: int) -> int:
    """Bytes of the numbers of all memories of a batch, of which so many planes are stored."""
    return int(memory.valid.sum()) * planes * row_bytes(memory.states.shape[3], encoding)


def pack(states: Tensor, encoding: str) -> Codes:
    """Rows (n, D) as bytes (n, `row_bytes`); a scale is a float16 before the codes, an odd int4 is filled up with 0."""
    states = states.detach().float().cpu()
    if encoding.startswith("float"):
        kind: Any = np.float32 if encoding == "float32" else np.float16
        return _bytes(states.numpy().astype(kind))
    scale = _scale(states, encoding)
    codes = _integers(states, scale, encoding).numpy().astype(np.int8)
    if encoding == "int4":
        even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))).view(np.uint8) & 15
        codes = even[:, ::2] | even[:, 1::2] << 4
    return np.concatenate([_bytes(scale.numpy().astype(np.float16)), codes.view(np.uint8)], axis=1)


def unpack(codes: Codes, width: int, encoding: str) -> Tensor:
    """Rows (n, D) from what `pack` wrote; raises ValueError for another number of bytes."""
    if codes.shape[1] != row_bytes(width, encoding):
        raise ValueError(f"got {codes.shape[1]} bytes a row, expected {row_bytes(width, encoding)} as {encoding}")
    codes = np.ascontiguousarray(codes)
    if encoding.startswith("float"):
        return torch.from_numpy(codes.view(np.dtype(encoding)).astype(np.float32))
    scale, body = codes[:, :2].copy().view(np.float16).astype(np.float32), codes[:, 2:]
    if encoding == "int4":
        halves = np.stack([body & 15, body >> 4], axis=2).reshape(len(body), 2 * body.shape[1]).astype(np.int8)
        numbers = np.where(halves > 7, halves - 16, halves)[:, :width]
    else:
        numbers = body.copy().view(np.int8)
    return torch.from_numpy(numbers.astype(np.float32) * scale)


def _scale(states: Tensor, encoding: str) -> Tensor:
    """(..., 1): a float16 number by which the largest entry becomes the largest integer."""
    scale = states.abs().amax(dim=-1, keepdim=True) / LARGEST[encoding]
    return scale.clamp(SMALLEST_SCALE, torch.finfo(torch.float16).max).to(torch.float16).to(states.dtype)


def _integers(states: Tensor, scale: Tensor, encoding: str) -> Tensor:
    return (states / scale).round().clamp(-LARGEST[encoding], LARGEST[encoding])


def _bytes(numbers: npt.NDArray[Any]) -> Codes:
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), numbers.itemsize * numbers.shape[1])
