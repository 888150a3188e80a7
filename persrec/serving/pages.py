"""Whether the pages of an LMDB file are those of its tree; LMDB itself ends the whole process at some that are not.

By the file format of LMDB 0.9 on 64 bits: pages 0 and 1 are meta pages; a page begins with its number (8 bytes), a pad
(2), flags (2) and the end of its pointers (2); a branch's nodes begin with the number of a page in 6 bytes.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

HEADER: Final = 16  # bytes of a page before its pointers
BRANCH, LEAF = 1, 2  # flags
TREES: Final = (
    (46, 80),
    (94, 128),
)  # where depth and root of the trees of free pages and of entries stand in a meta page
TRANSACTION: Final = 144  # and its number


def damaged(path: Path, transaction: int, size: int) -> int | None:
    """A page of `size` bytes that is not what the tree of a transaction expects, or None; an open one keeps its pages
    as they are."""
    pages: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
    pages = pages[: len(pages) // size * size].reshape(-1, size)
    meta = next(page for page in (0, 1) if _number(pages, page, TRANSACTION, 8) == transaction or page == 1)
    wrong = [_wrong_below(pages, *(_number(pages, meta, place, 8) for place in places)) for places in TREES]
    return next((page for page in wrong if page is not None), None)


def _wrong_below(pages: Bytes, depth: int, root: int) -> int | None:
    """A wrong page of a tree, from its root down."""
    depth &= 0xFFFF  # the number has two bytes
    level = np.array([root] if depth else [], dtype=np.int64)
    for left in range(depth - 1, -1, -1):
        wrong = _wrong(pages, level, BRANCH if left else LEAF)
        if len(wrong):
            return int(wrong[0])
        if left:
            level = np.concatenate([_children(pages, int(page)) for page in level])
    return None


def _number(pages: Bytes, page: int, place: int, size: int) -> int:
    return int.from_bytes(pages[page, place : place + size].tobytes(), "little")


def _wrong(pages: Bytes, level: Ints, flag: int) -> Ints:
    """The pages of a level that are not in the file, or do not begin as they should."""
    outside = level[(level < 2) | (level >= len(pages))]
    if len(outside):
        return outside
    heads = pages[level, :HEADER]
    numbers = np.ascontiguousarray(heads[:, :8]).view(np.int64)[:, 0]
    ends = np.ascontiguousarray(heads[:, 12:14]).view(np.uint16)[:, 0]
    fine = (numbers == level) & (heads[:, 10] & 15 == flag) & (ends > HEADER) & (ends <= pages.shape[1])
    return level[~fine]


def _children(pages: Bytes, page: int) -> Ints:
    """The pages below a branch."""
    end = _number(pages, page, 12, 2)
    nodes = np.ascontiguousarray(pages[page, HEADER:end]).view(np.uint16).astype(np.int64)
    places = np.minimum(nodes, pages.shape[1] - 6)[:, None] + np.arange(6)
    return (pages[page, places].astype(np.int64) << (8 * np.arange(6))).sum(axis=1)
