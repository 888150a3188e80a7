"""A recipe: everything that a run depends on, read from YAML; all its faults are reported at once.

`load("quickstart")` is a shipped recipe, `load("my.yaml", ["training.epochs=3"])` a file with one key set, and
`load("ratings.csv")` the default recipe on that log.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from persrec.constants import LARGEST_SCALE
from persrec.errors import UserError
from persrec.recipe.faults import Fault, field_faults, suggestion, without
from persrec.recipe.file import locate, override
from persrec.recipe.sections import (
    MADE,
    Baseline,
    Data,
    Evaluation,
    Items,
    Loss,
    Memory,
    Model,
    Retrieval,
    Section,
    Seeds,
    Split,
    Training,
    as_list,
)

History = Literal["full", "recent", "compressed"]
HISTORIES: tuple[History, ...] = ("full", "recent", "compressed")
METRICS = ("recall", "hit_rate", "precision", "ndcg", "mrr", "map")


class Recipe(Section):
    name: str = Field("recipe", pattern=r"^\w[\w.\-]*$")  # names folders
    about: str = ""
    data: Data = Data()
    split: Split = Split()
    history: History | tuple[History, ...] = "compressed"
    seeds: Seeds = (0,)
    baselines: Annotated[tuple[Baseline, ...], BeforeValidator(as_list)] = ()  # fitted and tested beside the histories
    length: int | None = Field(None, ge=2)
    time: Literal["none", "last", "next"] = "none"
    items: Items = Items()
    model: Model = Model()
    memory: Memory = Memory()
    repeat: Literal["head", "none"] = "none"
    loss: Loss = Loss()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    retrieval: Retrieval = Retrieval()
    primary: str = "ndcg@10"

    @field_validator("history", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        forms = tuple(as_list(value))
        wrong = [form for form in forms if form not in HISTORIES]
        if wrong or len(set(forms)) < len(forms):
            expected = f"expected {', '.join(HISTORIES)}, or a list of them without repeats"
            near = suggestion(str(wrong[0]), list(HISTORIES)) if wrong else ""
            raise ValueError(f"got {value!r}, {expected}{near}")
        return forms[0] if len(forms) == 1 else forms

    @field_validator("primary")
    @classmethod
    def _metric_at_k(cls, value: str) -> str:
        if not re.fullmatch(rf"({'|'.join(METRICS)})@[1-9]\d*", value):
            raise ValueError(f"got {value!r}, expected one of {', '.join(METRICS)}, an @ and a cutoff, as in ndcg@10")
        return value

    @model_validator(mode="after")
    def _without_conflicts(self) -> Self:
        found = list(conflicts(self))
        if found:
            raise PydanticCustomError("conflicts", "{text}", {"text": "; ".join(map(str, found)), "faults": found})
        return self

    @property
    def histories(self) -> tuple[History, ...]:
        return (self.history,) if isinstance(self.history, str) else self.history

    @property
    def tuned(self) -> bool:
        """Whether this cell of a grid goes on from the model that was trained on whole histories."""
        return self.training.tune_epochs is not None and self.histories in (("recent",), ("compressed",))

    @property
    def epochs(self) -> int:
        """How many epochs this cell of a grid is trained."""
        tuning = self.training.tune_epochs if self.tuned else None
        return tuning or self.training.epochs

    def grid(self) -> list["Recipe"]:
        """One recipe per history and seed, then one per baseline; the table of a run has one row for each."""
        models = [
            self.model_copy(update={"history": history, "seeds": (seed,), "baselines": ()})
            for history in self.histories
            for seed in self.seeds
        ]
        plain = {"history": (), "seeds": self.seeds[:1]}
        return models + [self.model_copy(update={**plain, "baselines": (one,)}) for one in self.baselines]

    def dump(self) -> dict[str, Any]:
        """Plain lists and dicts, from which `parse` makes the same recipe again."""
        values = self.model_dump(mode="json")
        for made in MADE:
            if self.data.source != made:
                del values["data"][made]
        return values


def conflicts(recipe: Recipe) -> Iterator[Fault]:
    """Keys that are right by themselves and wrong together."""
    if not recipe.histories and not recipe.baselines:
        yield Fault(("history", "baselines"), "got none of either, expected a history or a baseline to test")
    if len({one.name for one in recipe.baselines}) < len(recipe.baselines):
        yield Fault(("baselines",), "got the same baseline twice, expected each once")
    if len(set(recipe.seeds)) < len(recipe.seeds):
        yield Fault(("seeds",), "got the same seed twice, expected each once")
    yield from _data_conflicts(recipe.data)
    yield from _carried_conflicts(recipe)
    yield from _item_conflicts(recipe)
    yield from _decoder_conflicts(recipe)
    model = recipe.model
    if model.width % model.heads:
        text = f"got {model.width}, expected a multiple of model.heads = {model.heads}"
        yield Fault(("model.width", "model.heads"), text)
    if model.layers == 1 and "compressed" in recipe.histories and recipe.memory.kind == "layered":
        text = "got 1, expected 2 or more: a layered memory is made of what layers 2 and up are given"
        yield Fault(("model.layers", "history", "memory.kind"), text)
    if recipe.time != "none" and recipe.data.source == "sasrec":
        text = f"got {recipe.time}, expected none: data.source sasrec has no times"
        yield Fault(("time", "data.source"), text)
    if recipe.loss.kind == "info_nce" and recipe.model.temperature < 1 / LARGEST_SCALE:
        text = f"got {recipe.model.temperature}, expected {1 / LARGEST_SCALE} or more: info_nce learns it from there on"
        yield Fault(("model.temperature", "loss.kind"), text)
    if recipe.repeat == "head" and recipe.loss.kind != "full":
        text = f"got head, expected none: it is trained with loss.kind full, and that is {recipe.loss.kind}"
        yield Fault(("repeat", "loss.kind"), text)
    if recipe.loss.break_target != "first" and recipe.loss.break_hours is None:
        text = f"got {recipe.loss.break_target}, expected first: without loss.break_hours no target is after a break"
        yield Fault(("loss.break_target", "loss.break_hours"), text)
    if recipe.loss.break_weight != 1 and recipe.loss.break_hours is None:
        text = f"got {recipe.loss.break_weight:g}, expected 1: without loss.break_hours no target is after a break"
        yield Fault(("loss.break_weight", "loss.break_hours"), text)
    if recipe.memory.future_set and recipe.memory.kind not in ("layered", "recurrent"):
        text = f"got {recipe.memory.future_set:g}, expected 0: tokens are asked, and kind {recipe.memory.kind} has none"
        yield Fault(("memory.future_set", "memory.kind"), text)
    if recipe.repeat == "head" and recipe.evaluation.exclude_seen:
        text = "got head with evaluation.exclude_seen true, which never recommends what it scores; set that to false"
        yield Fault(("repeat", "evaluation.exclude_seen"), text)
    if recipe.split.kind == "next-basket" and recipe.evaluation.exclude_seen:
        text = (
            "got true with split next-basket: a target that the user had before would keep its rank and yet be hidden "
            "where the others of its set are ranked, so that metrics exceed 1; expected false (seen_odds discounts "
            "seen items without hiding them)"
        )
        yield Fault(("evaluation.exclude_seen", "split.kind"), text)
    if recipe.evaluation.seen_odds is not None and recipe.baselines:
        text = f"got {recipe.evaluation.seen_odds} with baselines, whose scores are no odds; remove one of both"
        yield Fault(("evaluation.seen_odds", "baselines"), text)
    if recipe.loss.break_hours is not None and recipe.time != "next":
        text = f"got time {recipe.time}, expected next: only there a row knows how long after it it is asked"
        yield Fault(("loss.break_hours", "time"), text)
    if recipe.training.batch_events is None and recipe.training.batch_users is None:
        text = "got null for both, expected a limit on events or on users of a batch"
        yield Fault(("training.batch_events", "training.batch_users"), text)
    if recipe.training.precision == "16-mixed" and recipe.training.accelerator == "cpu":
        text = "got 16-mixed on a cpu, expected bf16-mixed there, or training.accelerator: gpu"
        yield Fault(("training.precision", "training.accelerator"), text)
    if recipe.training.tune_epochs is not None and "full" in recipe.histories[1:]:
        text = f"got history {list(recipe.histories)}, expected full first: the others start from it"
        yield Fault(("training.tune_epochs", "history"), text)
    if recipe.training.validate_every > recipe.training.epochs:
        text = f"got {recipe.training.validate_every}, expected at most training.epochs = {recipe.training.epochs}"
        yield Fault(("training.validate_every", "training.epochs"), text)
    if int(recipe.primary.partition("@")[2]) not in recipe.evaluation.k:
        text = f"got {recipe.primary}, expected a cutoff that stands in evaluation.k = {list(recipe.evaluation.k)}"
        yield Fault(("primary", "evaluation.k"), text)


def _carried_conflicts(recipe: Recipe) -> Iterator[Fault]:
    """What is read of events must be kept, and types must be listed, for their order numbers them."""
    data, weight_by = recipe.data, recipe.loss.weight_by
    types = weight_by if isinstance(weight_by, dict) else {}
    wanted: list[tuple[str, str]] = [("model.inputs", name) for name in recipe.model.inputs]
    wanted += [("loss.weight_by", "event" if types else str(weight_by))] if weight_by is not None else []
    wanted += [(f"data.min_{name}", name) for name in ("weight", "dwell") if getattr(data, f"min_{name}") is not None]
    for key, name in wanted:
        if name != "rating" and name not in data.keep:
            yield Fault((key, "data.keep"), f"reads {name}, expected it in data.keep, which is {list(data.keep)}")
    if "event" in data.keep and data.events is None:
        yield Fault(("data.keep", "data.events"), "keeps event, expected data.events to list the types that count")
    foreign = [name for name in types if name not in (data.events or ())]
    if foreign:
        text = f"got {', '.join(foreign)}, expected types of data.events = {list(data.events or ())}"
        yield Fault(("loss.weight_by", "data.events"), text)
    if types and data.events and not any(types.get(name, 1.0) for name in data.events):
        yield Fault(("loss.weight_by",), f"got {types}, expected a type of data.events that counts more than 0")


def _item_conflicts(recipe: Recipe) -> Iterator[Fault]:
    items = recipe.items
    if items.use == "id":
        others = sorted(items.model_fields_set)
        if others and "use" not in others:
            text = f"got id, its default, beside items.{others[0]}, which is read with text or id+text; set it to one"
            yield Fault(("items.use",), text)
        return
    for key, what in (("path", "the items table"), ("encoder", "the folder of a text model")):
        if getattr(items, key) is None:
            yield Fault((f"items.{key}", "items.use"), f"got null, expected {what}, as items.use is {items.use}")
    if items.train == "frozen" and items.pooling == "token":
        text = "got token, expected mean, first or last: a token is learned, and items.train is frozen"
        yield Fault(("items.pooling", "items.train"), text)
    if items.train != "frozen" and items.precision != "float32":
        text = f"got {items.precision}, expected float32, as items.train is {items.train}; see training.precision"
        yield Fault(("items.precision", "items.train"), text)
    if items.train != "frozen" and items.whiten:
        text = f"got true, expected false: whitened are vectors that stay, and items.train is {items.train}"
        yield Fault(("items.whiten", "items.train"), text)
    if items.train != "frozen" and items.text_head is not None:
        text = f"got {items.text_head}, expected null: it compares texts that stay, and items.train is {items.train}"
        yield Fault(("items.text_head", "items.train"), text)
    if items.text_head is not None and recipe.repeat == "head":
        text = f"got {items.text_head}, expected null with repeat: head, which scores likeness to oneself already"
        yield Fault(("items.text_head", "repeat"), text)
    if items.text_head is not None and items.text_head > recipe.memory.recent and recipe.histories != ("full",):
        text = (
            f"got {items.text_head}, expected at most memory.recent = {recipe.memory.recent}: older events may be in "
            "a memory, which keeps no texts"
        )
        yield Fault(("items.text_head", "memory.recent"), text)
    loss = recipe.loss
    if items.train != "frozen" and (loss.kind == "full" or loss.full_from is not None or loss.per == "row"):
        text = (
            f"got {items.train} with a loss that asks for all items, which would be read by the text model in every "
            "step; expected a loss.kind with negatives, with loss.per batch and without loss.full_from"
        )
        yield Fault(("items.train", "loss.kind"), text)


def _decoder_conflicts(recipe: Recipe) -> Iterator[Fault]:
    if recipe.model.kind != "decoder":
        if recipe.model.decoder is not None:
            yield Fault(("model.decoder", "model.kind"), f"is read with kind decoder, and that is {recipe.model.kind}")
        return
    if recipe.time != "none":
        text = f"got {recipe.time}, expected none: a decoder reads no times"
        if recipe.loss.break_hours is not None:
            text += "; loss.break_hours needs them, so set it to null, and loss.break_target to first"
        yield Fault(("time", "model.kind"), text)
    for key in ("compete", "count_weight"):
        if getattr(recipe.memory, key):
            text = (
                "got true, expected false: it is an option of the layers of hstu, sasrec and ligr, not of a decoder's"
            )
            yield Fault((f"memory.{key}", "model.kind"), text)


def _data_conflicts(data: Data) -> Iterator[Fault]:
    if data.source in MADE and data.path is not None:
        text = f"got {data.path!r}, expected null: data.source is {data.source}; for a file, set data.source as well"
        yield Fault(("data.path", "data.source"), text)
    if data.source not in MADE and data.path is None:
        text = f"got null, expected the file or folder of the log, as data.source is {data.source}"
        yield Fault(("data.path", "data.source"), text)
    for made in MADE:
        if data.source != made and made in data.model_fields_set:
            text = f"is read only where data.source is {made}, and it is {data.source}; remove the section"
            yield Fault((f"data.{made}", "data.source"), text)
    for key, readers in (("columns", ("table", "amazon", "merrec")), ("separator", ("table",))):
        if getattr(data, key) and data.source not in readers:
            text = f"is read only where data.source is {' or '.join(readers)}, and it is {data.source}; remove the key"
            yield Fault((f"data.{key}", "data.source"), text)


WITHOUT_EFFECT: Final = (
    "about",
    "evaluation.users_per_chunk",
    "training.checkpoint_minutes",
    "training.logger",
    "training.workers",
)
"""Keys that change no figure of a run."""


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a settings tree by their dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    parts = [flat(value, f"{prefix}.{key}" if prefix else key) for key, value in tree.items()]
    return {key: value for part in parts for key, value in part.items()}


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe, a recipe file, or the default recipe on a log; overrides are `dotted.key=YAML value`."""
    values, where = locate(name_or_path)
    return parse(override(values, overrides), f"{where} with {' '.join(overrides)}" if overrides else where)


def parse(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe of a settings tree; raises UserError with every fault of it, headed by `where`."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = field_faults(error, Recipe)
        faults += [fault for fault in _conflicts_of(without(values, faults)) if not _touches(fault, faults)]
    lines = "\n".join(f"  {fault}" for fault in sorted(set(faults)))
    count = "1 fault" if len(set(faults)) == 1 else f"{len(set(faults))} faults"
    advice = "`persrec recipes print quickstart` shows keys and values that work."
    raise UserError(f"recipe {where}: {count}\n{lines}\n{advice}")


def _conflicts_of(values: Mapping[str, Any]) -> list[Fault]:
    try:
        Recipe.model_validate(values)
    except ValidationError as error:
        return [fault for part in error.errors() for fault in part.get("ctx", {}).get("faults", [])]
    return []


def _touches(conflict: Fault, faults: list[Fault]) -> bool:
    """Whether a conflict rests on a faulty key, which its default replaced while looking for conflicts."""
    wrong = {fault.keys[0] for fault in faults}
    return any(key in wrong or any(key.startswith(f"{name}.") for name in wrong) for key in conflict.keys)
