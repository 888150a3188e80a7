"""The package as a whole: what an import costs, and that its names and files agree."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import persrec

ROOT = Path(__file__).parents[1]


def test_importing_persrec_loads_nothing_heavy() -> None:
    code = "import sys, persrec; print({'torch', 'polars', 'faiss', 'pydantic', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_public_names() -> None:
    commands = ["compare", "evaluate", "fit", "prepare", "probe", "recommend", "score", "score_lists", "similar"]
    assert dir(persrec) == ["Recommender", "__version__", *commands]
    assert all(getattr(persrec, name) is not None for name in dir(persrec))
    with pytest.raises(AttributeError, match="module 'persrec' has no attribute 'fitt'"):
        _ = persrec.fitt


def test_the_version_is_the_same_everywhere() -> None:
    assert f"version: {persrec.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {persrec.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_has_a_tested_version_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    tested = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = project["optional-dependencies"]
    own = {f"persrec[{name}]": name for name in extras}
    needed = project["dependencies"] + extras["test"]
    needed += [line for wanted in extras["test"] if wanted in own for line in extras[own[wanted]]]
    assert {re.split(r"[>=<\[]", line)[0].lower() for line in needed if line not in own} <= tested
    for line in project["dependencies"] + [line for name in extras if name != "test" for line in extras[name]]:
        assert re.search(rf'"{re.escape(line)}", +# \w', text), line


def test_constraints_name_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in lines
    assert all(line.startswith("#") or re.fullmatch(r"[\w.\-]+==[\w.]+", line) for line in lines)
