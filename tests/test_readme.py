"""The README as a newcomer uses it: commands and Python run as they stand, on small data; its tables are complete."""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from persrec import api, cli
from persrec.recipe.file import shipped

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = ("make ", "pip ")  # lines that prepare a machine: what they name is checked, they are not run
SMALL = [
    "model.width=8",
    "training.epochs=1",
    "training.batch_events=20000",
    "training.warmup_steps=1",
    "training.threads=1",
    "training.ema=null",
    "loss.negatives=32",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the files that the README speaks of."""
    place = tmp_path_factory.mktemp("newcomer")
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 25)
    frame = {"user_id": user, "item_id": random.integers(0, 100, len(user)), "timestamp": 10**9 + np.arange(len(user))}
    pl.DataFrame(frame).write_csv(place / "ratings.csv")
    lists = pl.DataFrame(frame).select("user_id", "item_id").unique(maintain_order=True)
    rank = pl.int_range(1, pl.len() + 1).over("user_id").alias("rank")
    lists.with_columns(rank).write_csv(place / "lists.csv")
    pl.DataFrame(frame).select("user_id", "item_id").head(30).write_csv(place / "pairs.csv")
    pl.DataFrame(frame).head(20).with_columns(user_id=pl.lit("somebody new")).write_csv(place / "new.csv")
    return place


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits that take a second, whatever the recipe says."""
    fit = api.fit

    def quickly(recipe: Any, overrides: Sequence[str] = (), **named: Any) -> Any:
        few = (
            ["data.synthetic.users=30", "data.synthetic.events=30"]
            if str(recipe) in ("quickstart", "mine.yaml")
            else []
        )
        return fit(recipe, [*overrides, *SMALL, *few], **named)

    monkeypatch.setattr(api, "fit", quickly)


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a line of shell prints: a command of ours, perhaps into a file."""
    words = shlex.split(line)
    into = words.index(">") if ">" in words else len(words)
    monkeypatch.setattr(sys, "argv", words[:into])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0, line
    if into < len(words):
        Path(words[into + 1]).write_text(printed.getvalue(), encoding="utf-8")
    return printed.getvalue()


@pytest.mark.usefixtures("small")
def test_the_commands_run_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    printed = {}
    for line in COMMANDS:
        if not line.startswith(SETUP):
            assert line.startswith("persrec "), line
            printed[line] = run(line, monkeypatch)
    assert "compressed" in printed["persrec fit quickstart"]
    assert "users with m >= 1" in printed["persrec prepare ratings.csv --check"]
    assert len(printed["persrec recommend runs/ratings 17 42 --k 5"].splitlines()) == 11
    assert pl.read_csv("best.csv")["user_id"].to_list() == ["somebody new"] * 5
    assert pl.read_csv("scores.csv").columns == ["user_id", "item_id", "score"]
    assert Path("ratings.json").exists()
    assert Path("three.html").exists()


@pytest.mark.usefixtures("small")
def test_the_python_of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(folder)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "ndcg@10" in printed
    assert "'mean': 0." in printed
    assert re.search(r"^0 +17 ", printed, flags=re.MULTILINE)


def test_the_python_without_recipes_learns(capsys: pytest.CaptureFixture) -> None:
    exec(compile(blocks("python")[1], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    loss = float(re.findall(r"loss ([\d.]+)", printed)[0])
    assert loss < 0.2
    assert "memory (32, 2, 6, 32)" in printed


def test_set_up_lines_name_what_there_is() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in COMMANDS:
        if line.startswith("make "):
            assert line.split()[1] in targets
    assert "pip install ." in COMMANDS


def test_every_command_stands_in_the_readme() -> None:
    for name in cli.commands.commands:
        assert re.search(rf"\bpersrec {name}[ `]", README), name


def test_every_recipe_stands_in_the_readme() -> None:
    listed = re.findall(r"^\| `([\w.-]+)` \| (?:synthetic|MovieLens|Amazon|UCI|Globo)", README, flags=re.MULTILINE)
    assert sorted(listed) == sorted(shipped())


def test_links_lead_somewhere() -> None:
    for text in (ROOT / "README.md", *(ROOT / "benchmarks").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)]+)\)", text.read_text(encoding="utf-8")):
            file, _, heading = link.partition("#")
            target = text.parent / file if file else text
            assert target.exists(), link
            if heading:
                found = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert heading in {re.sub(r"[^\w\- ]", "", one).replace(" ", "-").lower() for one in found}, link


def test_every_benchmark_has_its_row() -> None:
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert f"`{script.name}`" in table
    for result in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert result.name in table, f"{result.name} has no line in benchmarks/README.md"
