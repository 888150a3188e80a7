"""What every benchmark writes beside its figures, and that figures are not lost on their way into a file."""

import argparse
import json
import re
from pathlib import Path

import pytest

from benchmarks import machine


def test_a_file_that_cannot_be_written_is_refused_when_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=machine.file_for_rows)
    assert parser.parse_args(["--json", str(tmp_path / "rows.json")]).json == str(tmp_path / "rows.json")
    assert parser.parse_args(["--json", "rows.json"]).json == "rows.json", "here"
    for name, fault in (("ther/rows.json", "ther is no folder; make it or"), ("", "which is a folder; name a file")):
        with pytest.raises(SystemExit):
            parser.parse_args(["--json", str(tmp_path / name)])
        assert fault in capsys.readouterr().err


def test_every_benchmark_refuses_such_a_file() -> None:
    scripts = Path(machine.__file__).parent.glob("*.py")
    asked = [line.strip() for script in scripts for line in script.read_text().splitlines() if '"--json", ' in line]
    assert len(asked) > 10
    assert all('"--json", type=machine.file_for_rows, ' in line for line in asked)


def test_rows_are_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.json")
    machine.write(path, [{"seconds": 1.0, "ratio": float("nan")}])
    with pytest.raises(TypeError):
        machine.write(path, [{"seconds": object()}])
    (row,) = json.loads(Path(path).read_text())
    assert (row["seconds"], row["ratio"]) == (1.0, None)


def test_the_commit_is_that_of_the_code_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = machine.describe()
    assert found["commit"] == machine.COMMIT
    assert re.fullmatch(r"unknown|[\w.\-]+", machine.COMMIT)
