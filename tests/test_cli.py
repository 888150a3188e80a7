"""Commands: what they hand on, and how faults end. What they do is tested where it is done."""

import errno
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

import persrec
from persrec import cli
from persrec.errors import UserError

COMMANDS = ["prepare", "probe", "fit", "evaluate", "compare", "recommend", "similar"]
COMMANDS += ["recipes", "recipes list", "recipes print"]
NO_LISTS = {"allow": None, "block": None, "unknown": None, "slots": False}
FRAME = pl.DataFrame({"user_id": ["ü", "b"], "item_id": [7, 8], "score": [0.5, 0.25], "rank": [1, 1]})


FULL = """
import resource, sys
from pathlib import Path
import polars as pl
from persrec.cli import write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write(pl.DataFrame({"user_id": list(range(100_000))}), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("ending", list(cli.WRITERS))
def test_a_file_that_finds_no_room_is_not_there_and_it_is_said(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"best{ending}"
    done = subprocess.run([sys.executable, "-c", FULL, str(out)], capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"persrec.errors.UserError: --out {out}: cannot be written (")
    assert "File too large" in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What persrec.api was asked for; it answers with a word, or a frame."""
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def note(name: str, answer: Any) -> Any:
        def function(*values: Any, **named: Any) -> Any:
            seen.append((name, values, named))
            return answer

        return function

    names = ["prepare", "check", "fit", "evaluate"]
    api = SimpleNamespace(**{name: note(name, f"{name} done") for name in names}, recommend=note("recommend", FRAME))
    monkeypatch.setattr(persrec, "api", api, raising=False)
    return seen


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["persrec", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code  # type: ignore[return-value]


def refuse(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fit(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(persrec, "api", SimpleNamespace(fit=fit), raising=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, *command.split(), "--help") == 0
    assert f"Usage: persrec {command}" in capsys.readouterr().out


def test_help_and_version_come_at_once() -> None:
    code = (
        "import sys; from persrec.cli import main\ntry: main()\nfinally: print({'torch', 'polars'} & set(sys.modules))"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert done.stdout.endswith("set()\n")
    assert min(seconds) < 0.5


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"persrec, version {persrec.__version__}\n"


def test_fit(monkeypatch: pytest.MonkeyPatch, calls: list, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "fit", "ml-1m", "--set", "a.b=1", "--set", "c=[x, y]", "--out", "there", "--resume") == 0
    named = {"out": Path("there"), "resume": True, "overwrite": False, "start": None}
    assert calls == [("fit", ("ml-1m", ("a.b=1", "c=[x, y]")), named)]
    assert capsys.readouterr().out == "fit done\n"


def test_prepare(monkeypatch: pytest.MonkeyPatch, calls: list) -> None:
    assert call(monkeypatch, "prepare", "log.csv") == 0
    assert call(monkeypatch, "prepare", "log.csv", "--check", "--set", "a=1") == 0
    assert calls == [("prepare", ("log.csv", ()), {}), ("check", ("log.csv", ("a=1",)), {})]


def test_evaluate(monkeypatch: pytest.MonkeyPatch, calls: list) -> None:
    assert call(monkeypatch, "evaluate", "runs/x", "--json", "rows.json") == 0
    assert call(monkeypatch, "evaluate", "runs/x", "--set", "evaluation.k=[5]") == 0
    assert calls == [
        ("evaluate", (Path("runs/x"), ()), {"json_file": Path("rows.json")}),
        ("evaluate", (Path("runs/x"), ("evaluation.k=[5]",)), {"json_file": None}),
    ]


def test_recommend_prints_csv(monkeypatch: pytest.MonkeyPatch, calls: list, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "recommend", "runs/x", "ü", "b", "--k", "3", "--at", "2024-05-31T12:00") == 0
    assert calls == [
        (
            "recommend",
            (Path("runs/x"),),
            {"users": ["ü", "b"], "histories": None, "k": 3, "at": 1717156800000, "store": None, **NO_LISTS},
        )
    ]
    assert capsys.readouterr().out == "user_id,item_id,score,rank\nü,7,0.5,1\nb,8,0.25,1\n"


@pytest.mark.parametrize(
    ("ending", "read"), [("csv", pl.read_csv), ("parquet", pl.read_parquet), ("jsonl", pl.read_ndjson)]
)
def test_recommend_writes_files(
    ending: str, read: Any, monkeypatch: pytest.MonkeyPatch, calls: list, tmp_path: Path
) -> None:
    out = tmp_path / f"out.{ending}"
    assert call(monkeypatch, "recommend", "runs/x", "--histories", "new.csv", "--out", str(out)) == 0
    assert calls[0][2] == {"users": None, "histories": Path("new.csv"), "k": 10, "at": None, "store": None, **NO_LISTS}
    assert read(out).equals(FRAME)
    assert list(tmp_path.iterdir()) == [out]


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    class Full:
        def write_csv(self, path: Path) -> None:
            path.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"out\.csv: cannot be written \(No space left on device\); make room"):
        cli.write(Full(), tmp_path / "out.csv")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "r"], "persrec: recommend: expected user ids, --histories FILE or --all, and one of them"),
        (["recommend", "r", "u", "--histories", "f"], "expected user ids, --histories FILE or --all, and one of them"),
        (["recommend", "r", "u", "--all"], "expected user ids, --histories FILE or --all, and one of them"),
        (
            ["recommend", "r", "u", "--out", "x.xlsx"],
            "--out x.xlsx: got the ending '.xlsx', expected one of .csv, .parquet, .jsonl",
        ),
        (
            ["recommend", "r", "u", "--out", "no/x.csv"],
            "--out no/x.csv: the folder no does not exist; make it or choose another",
        ),
        (
            ["recommend", "r", "u", "--at", "noon"],
            "--at: got 'noon', expected one point in time from 1970 to 2199: ISO 8601, as in 2024-05-31T12:00",
        ),
        (["recommend", "r", "u", "--k", "0"], "0 is not in the range x>=1"),
        (["recipes", "print", "quikstart"], "recipe quikstart: there is none of this name; did you mean quickstart?"),
        (["fti"], "No such command 'fti'"),
        (["fit"], "Missing argument 'RECIPE|FILE'"),
    ],
)
def test_faults_end_with_a_message_and_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, calls: list, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not calls


def test_a_fault_further_down(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    refuse(monkeypatch, UserError("log.csv, row 3: got -1"))
    assert call(monkeypatch, "fit", "x") == 2
    assert capsys.readouterr().err == "persrec: log.csv, row 3: got -1\n"


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    refuse(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "runs/x/last.ckpt"))
    assert call(monkeypatch, "fit", "x") == 2
    assert "the disk is full (runs/x/last.ckpt); make room and repeat the command" in capsys.readouterr().err


def test_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["persrec", "fit", "x"])
    for error in (OSError(errno.EIO, "broken"), ZeroDivisionError()):
        refuse(monkeypatch, error)
        with pytest.raises(type(error)):
            cli.main()


def exit_after_interrupt() -> SystemExit:
    """How Lightning ends on Ctrl-C."""
    error = SystemExit(1)
    error.__context__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), exit_after_interrupt()])
def test_ctrl_c(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    refuse(monkeypatch, error)
    assert call(monkeypatch, "fit", "x") == 130
    assert "persrec: interrupted; `persrec fit ... --resume` goes on with a fit" in capsys.readouterr().err


def test_another_exit_code_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, SystemExit(7))
    assert call(monkeypatch, "fit", "x") == 7


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "list"]])
def test_recipes_are_listed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert "quickstart\n    A small model on a synthetic log" in out
    assert "There is nothing to compress" in out


def test_recipes_are_printed_with_their_comments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "recipes", "print", "ml-1m") == 0
    assert capsys.readouterr().out == Path(cli.__file__).parents[1].joinpath("recipes/ml-1m.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1700000000000", 1700000000000), ("2023-11-14T22:13:20+00:00", 1700000000000), ("1970-01-02", 86400000)],
)
def test_points_in_time(text: str, expected: int) -> None:
    assert cli.milliseconds(text) == expected
