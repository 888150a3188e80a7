"""The rows of benchmarks/probes.py: those of the probe, with its seconds; those of other logs stay."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import probes


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["probes.py", "--json", "rows.json", *arguments])
    probes.main()
    return json.loads(Path("rows.json").read_text())


def test_all_logs_are_probed_unless_some_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["data.causes.users=150", "data.causes.events=150"]
    monkeypatch.setattr(probes, "LOGS", dict.fromkeys(("one", "two"), ("synthetic-causes", small)))
    rows = run(monkeypatch)
    logs = [row for row in rows if row["what"] == "log"]
    assert [row["name"] for row in logs] == ["one", "two"]
    assert all(row["seconds"] > 0 for row in logs)
    gains = [row for row in rows if row["what"] == "gain" and row["name"] == "two"]
    assert {row["R"] for row in gains} <= {20, 40, 128}
    assert gains
    Path("rows.json").write_text(json.dumps([{"what": "log", "name": "else"}, *rows]))
    again = run(monkeypatch, "two", "--append")
    assert [row["name"] for row in again if row["what"] == "log"] == ["else", "one", "two"]
    with pytest.raises(SystemExit):
        run(monkeypatch, "three")
