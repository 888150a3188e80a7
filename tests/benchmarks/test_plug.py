"""What benchmarks/plug.py keeps is used again by runs with the same settings, and by no others."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.plug import Cells

SETTINGS = {"segment": 4, "reads": 0.3, "timed_users": 5}
LOG = SimpleNamespace(
    user=np.array([0, 1]), test="test", validation="validation", targets=lambda asked, query: {query + 1}
)


class Host:
    """Models that list item 1 first, then 2; with what was started."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, history: str, seed: int) -> torch.nn.Module:
        self.started.append(history)
        return torch.nn.Linear(1, 1)

    attached = module = staticmethod(lambda model, *seed: model)

    def epoch(self, model: torch.nn.Module) -> None:
        pass

    def best(self, model: torch.nn.Module, asked: str) -> np.ndarray:
        return np.tile(np.arange(1, 11), (2, 1))

    def timed(self, model: torch.nn.Module) -> dict[str, Callable[[], object]]:
        return {"forward_seconds": lambda: None}


def cells(folder: Path, **changed: Any) -> Cells:
    return Cells(folder, Host(), LOG, epochs=2, patience=1, settings=SETTINGS | changed)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with cells and seconds."""
    made = cells(tmp_path)
    made.train(["full", "tuned"], seed=1, tuned=2)
    made.timings(["full"])
    return tmp_path


def test_what_is_kept_is_not_made_again(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["full-seed1.npz", "timings.json", "tuned-seed1.npz", "tuned1-seed1.npz", "tuned2-seed1.npz"]
    assert sorted(path.name for path in kept.iterdir()) == names, "and nothing that was half written"
    capsys.readouterr()
    again = cells(kept)
    again.train(["full", "tuned"], seed=1, tuned=2)
    assert again.timings(["full"]).keys() == {"full"}
    assert again.host.started == []
    assert not capsys.readouterr().out
    values, about = again.load("full", 0, 1)
    assert values.tolist() == pytest.approx([1, 1 / np.log2(3)])
    assert about.keys() == {"seconds_per_epoch", "epochs"}


def test_what_was_made_with_other_settings_is_refused(kept: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"full-seed1.npz: was made with .*, got reads 0.3, expected reads 1.0; remove"
    ):
        cells(kept, reads=1.0)
    with pytest.raises(SystemExit, match=r"got reads 0.3, segment 4, expected reads 1.0, segment 8"):
        cells(kept, reads=1.0, segment=8)
    with pytest.raises(SystemExit, match=r"timings.json: was made with .*, got timed_users 5, expected timed_users 6"):
        cells(kept, timed_users=6)


def test_what_tells_no_settings_is_taken_and_said_in_one_line(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in kept.glob("*.npz"):
        with np.load(path) as found:
            np.savez(path, values=found["values"], about=found["about"])
    (kept / "timings.json").write_text('{"full": {"forward_seconds": 0.5}}')
    capsys.readouterr()
    again = cells(kept, reads=1.0)
    assert capsys.readouterr().out == f"{kept}: 5 of 5 files do not tell their settings; taken for those of now\n"
    again.train(["full"], seed=1, tuned=2)
    assert again.timings(["full"]) == {"full": {"forward_seconds": 0.5}}
    assert again.host.started == []


def test_a_cell_that_was_killed_while_it_was_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.plug.np.savez", killed)
        with pytest.raises(KeyboardInterrupt):
            cells(tmp_path).train(["full"], seed=1, tuned=1)
    again = cells(tmp_path)
    again.train(["full"], seed=1, tuned=1)
    assert again.host.started == ["full"]
    assert [path.name for path in tmp_path.iterdir()] == ["full-seed1.npz"]
