"""Faults of a settings tree, each as one line that names the dotted key, what was got and what was expected."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError


class Fault(NamedTuple):
    keys: tuple[str, ...]  # the dotted keys that it speaks of, the first one leading
    text: str

    def __str__(self) -> str:
        return f"{self.keys[0]}: {self.text}"


def field_faults(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """One fault per wrong or unknown key of a pydantic error; conflicts between keys are left out."""
    return [_field_fault(part, model) for part in error.errors() if part["type"] != "conflicts"]


def without(values: Mapping[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """A copy of the tree in which every faulty key is absent, so that the rest can be checked for conflicts."""
    copy = {key: without(value, []) if isinstance(value, Mapping) else value for key, value in values.items()}
    for fault in faults:
        _remove(copy, fault.keys[0].split("."))
    return copy


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a settings tree: `memory`, `memory.segment`, ..."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from dotted_keys(field.annotation, f"{prefix}{name}.")


def suggestion(got: str, known: list[str]) -> str:
    """`; did you mean a or b?` where something known is near, else nothing."""
    near = get_close_matches(got, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _field_fault(part: Any, model: type[BaseModel]) -> Fault:
    key = ".".join(name for name in part["loc"] if isinstance(name, str))  # list positions are left out
    if part["type"] == "extra_forbidden":
        return Fault((key,), "unknown key" + _suggest_key(key, list(dotted_keys(model))))
    if part["type"] == "model_type":
        return Fault((key,), f"got {part['input']!r}, expected a section with keys of its own")
    text = part["msg"].removeprefix("Value error, ")
    wish = re.fullmatch(r"\w+ should (be )?(.*)", text)  # pydantic's own: Input should be ..., String should match ...
    if wish:
        text = f"got {part['input']!r}, expected {'' if wish[1] else 'to '}{wish[2]}"
    return Fault((key,), text)


def _suggest_key(key: str, known: list[str]) -> str:
    section, _, leaf = key.rpartition(".")
    prefix = f"{section}." if section else ""
    siblings = {prefix + name for name in get_close_matches(leaf, _leaves(known, section), n=2)}
    elsewhere = [other for other in known if other.rpartition(".")[2] == leaf]
    near = sorted(siblings) or elsewhere or get_close_matches(key, known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _leaves(known: list[str], section: str) -> list[str]:
    return [leaf for above, _, leaf in (key.rpartition(".") for key in known) if above == section]


def _remove(tree: dict[str, Any], path: list[str]) -> None:
    for name in path[:-1]:
        tree = tree.get(name, {})
        if not isinstance(tree, dict):
            return
    tree.pop(path[-1], None)
