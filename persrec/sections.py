"""The sections of a recipe: frozen, with the keys of the YAML files; an unknown key is a fault."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from persrec.faults import suggestion

COLUMNS = ("user_id", "item_id", "timestamp", "rating", "weight", "event")

DATASETS_VARIABLE = "PERSREC_DATASETS"
DATASETS_DEFAULT = "data/raw"  # where the shipped recipes look while the variable is unset


def as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Count = Annotated[int, Field(ge=1)]
OneOrMore = Annotated[tuple[Count, ...], BeforeValidator(as_list), Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(as_list), Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Synthetic(Section):
    users: Count = 1000
    events: Count = 300  # the median of a user
    old_signal: float = Field(1.0, ge=0, le=1)
    seed: int = Field(0, ge=0)


class Data(Section):
    source: Literal["synthetic", "movielens", "amazon", "sasrec", "table"] = "synthetic"
    path: str | None = None
    columns: dict[str, str] = {}  # ours -> the file's
    separator: str | None = None  # null: by extension
    unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    deduplicate: bool = True
    min_user_events: Count = 1
    min_item_events: Count = 1
    synthetic: Synthetic = Synthetic()

    @field_validator("path")
    @classmethod
    def _expanded(cls, path: str | None) -> str | None:
        return None if path is None else expand(path)

    @field_validator("columns")
    @classmethod
    def _ours(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in COLUMNS:
                expected = f"expected our name on the left, one of {', '.join(COLUMNS)}"
                raise ValueError(f"got column {name!r}, {expected}{suggestion(name, list(COLUMNS))}")
        return columns


class Model(Section):
    layers: Count = 2
    width: Count = 64
    heads: Count = 2
    dropout: float = Field(0.2, ge=0, lt=1)
    score: Literal["cosine", "dot"] = "cosine"
    temperature: float = Field(0.05, gt=0)


class Memory(Section):
    kind: Literal["layered"] = "layered"
    segment: Count = 40  # S, events that are compressed together
    recent: Count = 40  # R, the fewest events that a read sees as they are
    tokens: Count = 4  # K, rows that are kept of a segment
    cap: Count | None = None  # newest segments that are kept; null: all
    reads: Literal["all", "none"] | float = "all"
    random_first_segment: bool = True
    checkpoint: bool = False

    @field_validator("reads", mode="before")
    @classmethod
    def _all_none_or_share(cls, value: Any) -> Any:
        if value in ("all", "none"):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"got {value!r}, expected all, none or a share of the batches between 0 and 1")
        return float(value)


class Loss(Section):
    kind: Literal["sampled", "full"] = "sampled"
    negatives: Count = 512
    per: Literal["batch", "row"] = "batch"
    chunk: Count = 1 << 24  # logits of a full loss that exist at a time (64 MiB)


class Training(Section):
    epochs: Count = 50
    batch_events: Count | None = 8192
    batch_users: Count | None = None
    learning_rate: float = Field(0.002, gt=0)
    warmup_steps: int = Field(300, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    ema: float | None = Field(0.999, gt=0, lt=1)
    patience: Count | None = 10
    validate_every: Count = 1
    validation_users: Count | None = None
    checkpoint_minutes: float = Field(5, gt=0)
    threads: Count | None = None
    workers: int = Field(0, ge=0)
    accelerator: Literal["cpu", "auto", "gpu"] = "cpu"


class Evaluation(Section):
    k: OneOrMore = (1, 5, 10, 20)
    exclude_seen: bool = True
    users_per_chunk: Count = 1024
    length_buckets: OneOrMore = (20, 50, 100, 200, 500)


def expand(path: str) -> str:
    """The path with ~ and environment variables put in; PERSREC_DATASETS is `data/raw` while it is unset."""
    values = {DATASETS_VARIABLE: DATASETS_DEFAULT, **os.environ}

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if name not in values:
            raise ValueError(f"got {path!r}, but the environment variable {name} is not set: set it or write it out")
        return values[name]

    return str(Path(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, path)).expanduser())
