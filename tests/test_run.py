"""Run folders on the disk: whole or refused."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from persrec import run
from persrec.errors import UserError
from persrec.recipe.recipe import load as load_recipe
from persrec.recipe.recipe import parse


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    """What a fit hands over, with ids that are neither short nor ASCII."""
    items = tmp_path / "items.arrow"
    table = pa.table({"item_id": ["чай", "☕", "x" * 300], "events": [3, 2, 1]})
    with pa.OSFile(str(items), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    shared = torch.arange(6.0).reshape(3, 2)
    return {
        "recipe": load_recipe("ml-1m").grid()[0].dump(),
        "weights": {"table.weight": shared, "tied.weight": shared, "part": shared.t()},
        "data": {"hash": "0123456789abcdef", "name": "ml-1m"},
        "items": items,
        "metrics": {"ndcg@10": 0.18, "by_length": [{"from": 0, "to": 20, "ndcg@10": None}]},
        "targets": pa.table({"user": [0, 2], "rank": [1.5, float("inf")]}),
    }


@pytest.fixture
def folder(tmp_path: Path, parts: dict[str, Any]) -> Path:
    return run.save(tmp_path / "runs" / "one", **parts).folder


def test_what_goes_in_comes_out(folder: Path, parts: dict[str, Any]) -> None:
    loaded = run.load(folder)
    assert loaded.recipe == parts["recipe"]
    assert loaded.metrics == parts["metrics"]
    assert loaded.data == parts["data"]
    assert loaded.item_ids().to_pylist() == ["чай", "☕", "x" * 300]
    assert loaded.versions["persrec"] == "0.1.0"
    assert loaded.versions["torch"].startswith("2.")
    assert loaded.targets().equals(parts["targets"])
    weights = loaded.weights()
    assert set(weights) == set(parts["weights"])
    assert all(torch.equal(weights[name], tensor) for name, tensor in parts["weights"].items())


def test_the_recipe_of_a_run_is_a_recipe_file(folder: Path, parts: dict[str, Any]) -> None:
    assert load_recipe(folder / "recipe.yaml") == parse(parts["recipe"], "here")


def test_nothing_but_the_files_is_left(folder: Path) -> None:
    names = {"run.json", "recipe.yaml", "weights.safetensors", "items.arrow", "metrics.json", "targets.arrow"}
    assert {path.name for path in folder.iterdir()} == names


def test_a_folder_can_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    assert run.load(tmp_path / "elsewhere").item_ids()[0].as_py() == "чай"


@pytest.mark.parametrize("name", run.FILES)
def test_a_file_is_absent(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"is incomplete: {name} absent; restore or fit again"):
        run.load(folder)


@pytest.mark.parametrize("name", run.FILES)
def test_a_byte_is_flipped(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} altered since the fit"):
        run.load(folder)


def test_a_file_is_cut_off(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:-5])
    with pytest.raises(UserError, match=r"weights\.safetensors altered"):
        run.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "\udcff"])
def test_the_manifest_is_cut_off_or_foreign(folder: Path, text: str) -> None:
    (folder / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"run\.json: is not the manifest of a run, or was cut off; fit again"):
        run.load(folder)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_format(folder: Path) -> None:
    edit(folder, format=1, versions={"persrec": "9.9"})
    expected = r"got run format 1, written by persrec 9\.9; expected format 2; use that persrec or fit again"
    with pytest.raises(UserError, match=expected):
        run.load(folder)


def test_a_manifest_that_names_other_files(folder: Path) -> None:
    edit(folder, files={"../../secret": {}})
    with pytest.raises(UserError, match=r"was altered: expected the files recipe\.yaml, items\.arrow"):
        run.load(folder)


def test_no_folder_an_empty_one_and_an_interrupted_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder; expected one that `persrec fit` left"):
        run.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not a run: it has no run\.json; expected a folder that `persrec fit`"):
        run.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"its fit was interrupted; finish it with `persrec fit \.\.\. --resume`"):
        run.load(tmp_path)


def test_a_complete_run_is_replaced_only_when_told_so(folder: Path, parts: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="holds a complete run; choose another --out or add --overwrite"):
        run.save(folder, **parts)
    assert run.save(folder, **{**parts, "metrics": {"ndcg@10": 1}}, overwrite=True).metrics == {"ndcg@10": 1}


def test_a_file_in_the_way(tmp_path: Path, parts: dict[str, Any]) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken: is a file; choose another --out"):
        run.save(tmp_path / "taken", **parts)


def test_checkpoints_stay_until_the_run_is_complete(tmp_path: Path, parts: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "log.csv").write_text("epoch\n")
    with pytest.raises(UserError, match="cannot be written"):
        run.save(folder, **{**parts, "items": tmp_path / "nowhere.arrow"})
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "log.csv"}
    run.save(folder, **parts)
    assert not (folder / "checkpoints").exists()
    assert (folder / "log.csv").exists()


def test_a_full_disk_leaves_the_old_run(folder: Path, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); make room or choose another"):
        run.save(folder, **{**parts, "metrics": {}}, overwrite=True)
    assert run.load(folder).metrics == parts["metrics"]
    assert not list(folder.glob(".saving-*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from persrec import run

folder, moves = sys.argv[1], int(sys.argv[2])

def hook(event, given):
    global moves
    if event == "os.rename":
        moves -= 1
        if moves < 0:
            os.kill(os.getpid(), signal.SIGKILL)

before = run.load(folder)
sys.addaudithook(hook)
run.with_items(before, weights={"other": before.weights()["part"]}, item_ids=[*before.item_ids().to_pylist(), "new"])
"""


@pytest.mark.parametrize("moves", range(5))
def test_killed_while_files_are_put_in_place_a_run_is_the_old_or_the_new_one(folder: Path, moves: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(moves)], check=False, timeout=120)
    assert done.returncode == (-signal.SIGKILL if moves < 4 else 0)
    loaded = run.load(folder)
    new = moves > 0  # all files are there as soon as their folder has its last name
    assert loaded.item_ids().to_pylist()[3:] == ["new"] * new
    assert list(loaded.weights()) == (["other"] if new else ["part", "table.weight", "tied.weight"])
    assert not (folder / run.WRITTEN).exists()
