"""What does not fit into memory, or cannot be written, is told as a fault of what was asked for."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from persrec.errors import UserError, memory_for, whole

TOO_MUCH = 1 << 58


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda: bytearray(TOO_MUCH), "MemoryError"),
        (lambda: np.empty(TOO_MUCH), "Unable to allocate 2.00 EiB for an array .*"),
        (lambda: torch.empty(TOO_MUCH), ".*tried to allocate 1152921504606846976 bytes.*"),
    ],
    ids=["python", "numpy", "torch"],
)
def test_memory_that_is_not_there(ask: Callable[[], object], reason: str) -> None:
    message = rf"^out of memory while trying \({reason}\); lower this$"
    with pytest.raises(UserError, match=message), memory_for("trying", lower="lower this"):
        ask()


def test_the_memory_of_a_device() -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."
    message = re.escape("out of memory while trying (CUDA out of memory. Tried to allocate 2.00 GiB.); lower this")
    with pytest.raises(UserError, match=message), memory_for("trying", lower="lower this"):
        raise torch.OutOfMemoryError(said)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_for("trying", lower="lower this"):
        raise RuntimeError("shapes in memory format do not agree")


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with whole(path, "--json") as place:
        place.write_text("[1]")

    def broken() -> None:
        with whole(path, "--json") as place:
            place.write_text("[1, ")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        broken()
    assert path.read_text() == "[1]"
    assert list(tmp_path.iterdir()) == [path]
    absent = r"--json .*nowhere/rows\.json: cannot be written \(No such file or directory\)"
    with pytest.raises(UserError, match=absent), whole(tmp_path / "nowhere" / "rows.json", "--json") as place:
        place.write_text("[1]")
