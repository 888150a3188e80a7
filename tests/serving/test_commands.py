"""compress, update, store stats and store compact, as they are typed."""

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from persrec import cli
from persrec.serving.recommender import Recommender
from tests.small import START, events, run_of

LOG = events()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path, LOG)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    def called(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["persrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return caught.value.code, said.out, said.err  # type: ignore[return-value]

    return called


def test_a_store_from_its_making_to_its_tidying(run: Path, call: Any, tmp_path: Path) -> None:
    store = tmp_path / "users"
    code, _, said = call("compress", run, "--store", store)
    assert code == 0
    folded = LOG.group_by("user_id").len().select(((pl.col("len").cast(pl.Int64) - 5) // 6).clip(0).sum()).item()
    assert f"40 users, {LOG.height} events, {folded} segments folded." in said
    new = pl.DataFrame({"user_id": ["ü-0", "new"], "item_id": ["чай 1", "чай 2"], "timestamp": [START + 10**9] * 2})
    new.write_csv(tmp_path / "new.csv")
    code, printed, _ = call("update", run, "--store", store, tmp_path / "new.csv", "--rows", 1)
    assert (code, json.loads(printed)["applied"], json.loads(printed)["new_users"]) == (0, 2, 1)
    code, printed, _ = call("update", run, "--store", store, tmp_path / "new.csv")
    assert (code, json.loads(printed)["applied"], json.loads(printed)["already"]) == (0, 0, 2)
    code, printed, _ = call("store", "stats", store)
    stats = json.loads(printed)
    assert (code, stats["users"], stats["events"]) == (0, 41, LOG.height + 2)
    parts = [
        value for name, value in stats.items() if name.endswith("_bytes") and name[:7] not in ("payload", "file_by")
    ]
    assert sum(parts) == stats["payload_bytes"]
    code, printed, _ = call("store", "compact", store)
    assert code == 0
    assert f"{stats['file_bytes']:,} -> " in printed
    with Recommender.load(run, store) as kept:
        assert len(kept.recommend(["new"], 3)) == 3


def test_another_log_and_raw_events(run: Path, call: Any, tmp_path: Path) -> None:
    LOG.head(100).write_csv(tmp_path / "part.csv")
    code, *_ = call("compress", run, "--store", tmp_path / "raw", "--log", tmp_path / "part.csv", "--raw")
    assert code == 0
    stats = json.loads(call("store", "stats", tmp_path / "raw")[1])
    assert (stats["users"], stats["events"], stats["open_events"]) == (2, 100, 100)


def test_faults_end_in_one_message(run: Path, call: Any, tmp_path: Path) -> None:
    code, printed, said = call("update", run, "--store", tmp_path / "none", "new.csv")
    assert (code, printed) == (2, "")
    assert said.startswith(f"persrec: store {tmp_path / 'none'}: there is none; make it with `persrec compress RUN")
    code, _, said = call("store", "stats", tmp_path)
    assert (code, "there is none" in said) == (2, True)


@pytest.mark.parametrize("command", ["compress", "update", "store", "store stats", "store compact"])
def test_every_command_has_help(command: str, call: Any) -> None:
    code, printed, _ = call(*command.split(), "--help")
    assert code == 0
    assert f"Usage: persrec {command}" in printed
