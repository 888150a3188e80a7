"""Where recipes come from: the shipped ones by name, a YAML file, or a log that is given in a recipe's place."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from persrec.errors import UserError
from persrec.recipe.faults import suggestion

YAML_SUFFIXES = (".yaml", ".yml")
LOG_SOURCES = {
    ".csv": "table",
    ".tsv": "table",
    ".parquet": "table",
    ".pq": "table",
    ".jsonl": "table",
    ".ndjson": "table",
    ".json": "amazon",
    ".inter": "table",
    ".gz": "table",
    ".txt": "sasrec",
    ".dat": "movielens",
    ".data": "movielens",
}


def locate(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """The settings tree of a shipped recipe, a recipe file or the default recipe on a log, and what to call it."""
    path = Path(name_or_path)
    if path.suffix in LOG_SOURCES or (path.is_dir() and str(name_or_path) not in shipped()):
        return _log_values(path), f"on {path}"
    if path.suffix in YAML_SUFFIXES:
        return {"name": path.stem, **read_yaml(path)}, str(path)
    path = shipped_path(str(name_or_path))
    return {"name": path.stem, **read_yaml(path)}, path.stem


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    inside = Path(__file__).parents[1] / "recipes"
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings tree of a YAML file; raises UserError that names file and line."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read ({error.strerror}); expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path}: is not UTF-8 text; expected a YAML file") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"recipe {path}, line {line}: is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path}: is not YAML: {error}") from error
    if not isinstance(values, dict):
        got = "an empty file" if values is None else f"a {type(values).__name__}"
        raise UserError(f"recipe {path}: got {got}, expected `key: value` lines")
    return values


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with each `dotted.key=YAML value` put in; unknown keys are left for `parse` to report."""
    check_overrides(overrides)
    tree = dict(values)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not (key.strip() and equals):
            raise UserError(f"--set {text}: expected key=value, as in --set training.epochs=3")
        try:
            tree = _put(tree, key.strip().split("."), yaml.load(value, Loader=_UniqueKeys))
        except yaml.YAMLError as error:
            raise UserError(
                f"--set {text}: the value is not YAML ({getattr(error, 'problem', error)}); put text with signs such "
                "as ? : , # into double quotes: --set 'data.columns={timestamp: \"when?\"}'"
            ) from error
    return tree


def check_overrides(overrides: Any) -> None:
    """Raise UserError for what is no list of texts."""
    several = isinstance(overrides, Iterable) and not isinstance(overrides, str | bytes | Mapping)
    if not several or not all(isinstance(text, str) for text in overrides):
        raise UserError(
            f"overrides: got {overrides!r}, expected a list of texts as after --set: ['training.epochs=3', ...]"
        )


def _put(tree: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**tree, path[0]: value}
    below = tree.get(path[0])
    if isinstance(below, str):  # a section that stands as its kind alone
        below = {"kind": below}
    return {**tree, path[0]: _put(below if isinstance(below, dict) else {}, path[1:], value)}


def _log_values(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such file; expected a log, a recipe file or one of: {', '.join(shipped())}")
    if (path / "recipe.yaml").is_file():
        raise UserError(f"{path}: is the folder of a run, expected a recipe or a log; {path}/recipe.yaml is its recipe")
    name = re.sub(r"[^\w.\-]+", "-", path.absolute().stem).lstrip("-.") or "log"
    return {"name": name, "data": {"source": LOG_SOURCES.get(path.suffix, "table"), "path": str(path)}}


def shipped_path(name: str) -> Path:
    known = shipped()
    if name in known:
        return known[name]
    logs = ", ".join(LOG_SOURCES)
    if Path(name).is_file():
        raise UserError(f"{name}: no log is known by the ending {Path(name).suffix!r}, expected one of {logs}")
    raise UserError(
        f"recipe {name}: there is none of this name{suggestion(name, list(known))}\n"
        f"expected the path of a recipe (.yaml), of a log ({logs}, or a folder) or one of: {', '.join(known)}"
    )


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
