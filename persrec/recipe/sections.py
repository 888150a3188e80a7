"""The sections of a recipe: frozen, with the keys of the YAML files; an unknown key is a fault."""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from persrec.recipe.faults import suggestion

COLUMNS = ("user_id", "item_id", "timestamp", "rating", "weight", "dwell", "event")

DATASETS_VARIABLE = "PERSREC_DATASETS"
DATASETS_DEFAULT = "data/raw"  # where the shipped recipes look while the variable is unset

MADE = ("synthetic", "causes")  # sources that read no file; each has a section of its name


def as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _types(value: Any) -> Any:
    """Types of events as text, as the column is read: 1 is "1" and true "true"."""
    return [
        str(one).lower() if isinstance(one, bool) else str(one) if isinstance(one, int) else one
        for one in as_list(value)
    ]


def _utc(value: Any) -> str:
    """A date, in UTC where it has an offset; raises ValueError for what is none."""
    moment = datetime.fromisoformat(str(value))
    return str(moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None))


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


class Causes(Section):
    users: Count = 2000
    events: Count = 300  # the median of a user
    dial: float = Field(0.75, ge=0, le=1)  # share of what the personal causes would have at most
    series: Count = 12
    only: Literal["taste", "resume", "staple", "switched"] | None = None  # the one personal cause, in place of four
    seed: int = Field(0, ge=0)


class Data(Section):
    source: Literal[
        "synthetic",
        "causes",
        "movielens",
        "amazon",
        "online-retail",
        "globo-news",
        "merrec",
        "ebnerd",
        "sasrec",
        "table",
    ] = "synthetic"
    path: str | None = None
    columns: dict[str, str] = {}  # ours -> the file's
    separator: str | None = None  # null: by extension
    unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    bad_rows: Literal["refuse", "skip"] = "refuse"  # rows with values that are missing or cannot be read
    events: Annotated[tuple[str, ...], BeforeValidator(_types), Field(min_length=1)] | None = None  # types that count
    keep: Annotated[tuple[Literal["weight", "dwell", "event"], ...], BeforeValidator(as_list)] = ()  # rating always is
    min_rating: float | None = None
    max_rating: float | None = None
    min_weight: float | None = None  # with data.keep: weight
    min_dwell: float | None = None  # with data.keep: dwell
    since: str | None = None  # a date: events from then on, and before `until`
    until: str | None = None
    deduplicate: bool = True
    max_user_events: Count | None = None  # users and items with more are left out
    max_item_events: Count | None = None
    max_history: Count | None = None  # the newest events of a user that are kept
    min_user_events: Count = 1
    min_item_events: Count = 1
    synthetic: Synthetic = Synthetic()
    causes: Causes = Causes()

    @field_validator("path")
    @classmethod
    def _expanded(cls, path: str | None) -> str | None:
        return None if path is None else expand(path)

    @field_validator("since", "until", mode="before")
    @classmethod
    def _date(cls, value: Any) -> str | None:
        try:
            return None if value is None else _utc(value)
        except ValueError:
            raise ValueError(f"got {value!r}, expected a date such as 2024-03-01 or 2024-03-01 12:00 (UTC)") from None

    @field_validator("columns")
    @classmethod
    def _ours(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in COLUMNS:
                expected = f"expected our name on the left, one of {', '.join(COLUMNS)}"
                raise ValueError(f"got column {name!r}, {expected}{suggestion(name, list(COLUMNS))}")
        return columns


class Split(Section):
    kind: Literal["leave-one-out", "last", "global-time", "after-break", "next-basket"] = "leave-one-out"
    n: Count | None = None  # targets of a user: the last n; under global-time the first n of either part; null: all
    gap_hours: float | None = Field(None, gt=0)  # what counts as a break
    validation: Any = None  # share of the events; under global-time also the date at which it begins
    test: Any = None

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, value: Any) -> Any:
        values = {"kind": value} if isinstance(value, str) else value
        if isinstance(values, dict):
            return SPLIT_DEFAULTS.get(str(values.get("kind", "leave-one-out")), {}) | values
        return values

    @field_validator("validation", "test", mode="before")
    @classmethod
    def _share_or_date(cls, value: Any) -> Any:
        if value is None or (isinstance(value, float) and 0 < value < 1):
            return value
        try:
            return _utc(value)
        except ValueError:
            raise ValueError(f"got {value!r}, expected a share between 0 and 1, or a date such as 2024-03-01") from None

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        given = [key for key in SPLIT_KEYS if getattr(self, key) is not None]
        _refuse_foreign(self.kind, given, {kind: tuple(keys) for kind, keys in SPLIT_DEFAULTS.items()})
        absent = [key for key in SPLIT_DEFAULTS[self.kind] if getattr(self, key) is None]
        if absent and (self.kind, *absent) != ("global-time", "n"):
            raise ValueError(f"got null for {', '.join(absent)} with kind {self.kind}, expected a value")
        shares = [part for part in (self.validation, self.test) if part is not None]
        if self.kind != "global-time" and any(isinstance(part, str) for part in shares):
            raise ValueError(f"got a date with kind {self.kind}, expected a share between 0 and 1")
        if sum(part for part in shares if isinstance(part, float)) >= 1:
            raise ValueError(f"got validation {self.validation} and test {self.test}, expected less than 1 together")
        return self

    @property
    def name(self) -> str:
        """Names files and protocols."""
        values = [f"{getattr(self, key)}" for key in SPLIT_KEYS if getattr(self, key) is not None]
        return re.sub(r"[^\w.]+", "-", "-".join([self.kind, *values]))


SPLIT_KEYS = ("n", "gap_hours", "validation", "test")
SPLIT_DEFAULTS: dict[str, dict[str, Any]] = {
    "leave-one-out": {},
    "last": {"n": 10},
    "global-time": {"n": 10, "validation": 0.1, "test": 0.1},
    "after-break": {"gap_hours": 12.0, "validation": 0.1, "test": 0.2},
    "next-basket": {"gap_hours": 12.0, "validation": 0.1, "test": 0.2},
}


class Model(Section):
    kind: Literal["hstu", "sasrec", "ligr", "decoder"] = "hstu"  # of the backbone's layers
    decoder: str | None = None  # kind decoder: a model whose weights it starts from; null: a small one of fresh weights
    layers: Count = 2
    width: Count = 64
    heads: Count = 2
    dropout: float = Field(0.2, ge=0, lt=1)
    inputs: Annotated[tuple[Literal["rating", "weight", "dwell", "event"], ...], BeforeValidator(as_list)] = ()
    score: Literal["cosine", "dot"] = "cosine"
    temperature: float = Field(0.05, gt=0)

    @field_validator("decoder")
    @classmethod
    def _expanded(cls, decoder: str | None) -> str | None:
        return None if decoder is None else expand(decoder)


class Memory(Section):
    kind: Literal["layered", "recurrent", "segment_mean", "decayed_mean", "merged_neighbours", "prototypes"] = "layered"
    segment: Count = 40  # S, events that are compressed together
    recent: Count = 40  # R, the fewest events that a read sees as they are
    tokens: Count = 4  # K, rows that are kept: of a segment where a memory grows, else of everything
    cap: Count | None = None  # layered, segment_mean: newest segments that are kept; null: all
    merge: bool = False  # layered: old rows are merged pairwise, so that O(log n) of them are left
    begin: Literal["learned", "means"] = "learned"  # layered; means: tokens begin as means of their shares of a segment
    write: Literal["fresh", "residual", "gated"] = "residual"  # recurrent: what is taken over
    compete: bool = False  # layered, recurrent: tokens divide the events of their segment among them, as slots do
    own_projections: bool = False  # layered, recurrent: tokens, remembered or not, have maps of their own in layers
    count_weight: bool = False  # remembered rows count in attention by the events that they stand for
    encoding: Literal["float32", "float16", "int8", "int4"] = "float32"  # of the numbers that are kept
    straight_through: bool = False  # they are rounded in training too
    detach_every: int | None = Field(None, ge=2)  # segments after which the gradient through the memory ends
    parallel: Count | None = None  # recurrent: train on all segments at once, on references that see so many as events
    consistency: float = Field(0.1, ge=0)  # then, weight of the loss that draws what is written to the references
    reads: Literal["all", "none", "rising"] | float = 0.3  # in training; rising: a share that goes from 0 to 1
    past_set: float = Field(0.1, ge=0)  # weight of the loss by which tokens score the items that they have read
    future_set: float = Field(0.0, ge=0)  # the same for later items: events R to R + future_events after the segment
    future_events: Count = 40
    random_first_segment: bool = True
    checkpoint: bool = False

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        given = [key for key, value in MEMORY_DEFAULTS.items() if getattr(self, key) != value]
        _refuse_foreign(self.kind, given, MEMORY_KEYS)
        if self.compete and self.tokens == 1:
            raise ValueError("got compete with tokens 1, expected 2 or more: one alone has nobody to share with")
        return self

    @field_validator("reads", mode="before")
    @classmethod
    def _named_or_share(cls, value: Any) -> Any:
        if value in ("all", "none", "rising"):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"got {value!r}, expected all, none, rising or a share of the batches between 0 and 1")
        return float(value)


MEMORY_DEFAULTS = {
    "cap": None,
    "merge": False,
    "begin": "learned",
    "write": "residual",
    "compete": False,
    "own_projections": False,
    "count_weight": False,
    "detach_every": None,
    "parallel": None,
}
TOKEN_KEYS = ("compete", "own_projections", "count_weight")
MEMORY_KEYS: dict[str, tuple[str, ...]] = {
    "layered": ("cap", "merge", "begin", *TOKEN_KEYS, "detach_every"),
    "recurrent": ("write", *TOKEN_KEYS, "detach_every", "parallel"),
    "segment_mean": ("cap", "count_weight"),
    "decayed_mean": ("count_weight",),
    "merged_neighbours": ("count_weight",),
    "prototypes": ("count_weight",),
}


class Items(Section):
    """What item vectors are made of, and the texts and the text model where they are made of texts."""

    use: Literal["id", "text", "id+text"] = "id"
    path: str | None = None  # the items table, a row per item, its id and what is known of it; or synthetic: its titles
    columns: dict[str, str] = {}  # ours -> the file's, or the number of a field where there is no header
    separator: str | None = None  # null: by extension
    charset: Literal["utf-8", "latin-1"] | None = None  # null: latin-1 for movies.dat and u.item, utf-8 for others
    template: str = "{title}"
    encoder: str | None = None  # folder of a text model, `package:NAME/FOLDER` of an installed one, or a hub name
    remote_code: str | None = None  # the encoder once more, to run the code that comes with it
    pooling: Literal["mean", "first", "last", "token"] = "mean"  # of a text's rows; first: [CLS]; token: learned, last
    max_tokens: Count = 128  # of a text; what is longer loses its end
    batch_tokens: Count = 8192  # that are encoded together
    precision: Literal["float32", "bfloat16"] = "float32"  # in which a frozen text model computes
    dtype: Literal["float16", "float32"] = "float16"  # of the vectors that are kept
    whiten: bool = False
    train: Literal["frozen", "lora", "full"] = "frozen"  # of the text model
    lora_rank: Count = 8
    learning_rate: float | None = Field(None, gt=0)  # of a trained text model; null: lora 2e-4, full 2e-5
    id_dropout: float = Field(0.0, ge=0, lt=1)  # id+text: share of the items that go without their id in a step
    text_head: Count | None = None  # last events with whose texts a candidate's is compared, which adds to its score

    @field_validator("template", mode="before")
    @classmethod
    def _text(cls, template: Any) -> Any:
        if isinstance(template, dict):  # {title} without quotes
            raise ValueError(
                f"got {template!r}, expected text; braces without quotes are a map in YAML: write "
                '"{title}" with quotes, on a command line --set \'items.template="{title}"\''
            )
        return template

    @field_validator("path", "encoder", "remote_code")
    @classmethod
    def _expanded(cls, path: str | None) -> str | None:
        return None if path is None else expand(path)


class Retrieval(Section):
    kind: Literal["flat", "hnsw", "ivf", "ivf_pq"] = "flat"
    links: int | None = Field(None, ge=2)  # hnsw: neighbours of an item
    build_breadth: Count | None = None  # hnsw: candidates kept while building, and while searching
    breadth: Count | None = None
    lists: Count | None = None  # ivf, ivf_pq: parts of the catalogue, and how many of them are searched
    probes: Count | None = None
    code_bytes: Count | None = None  # ivf_pq: per item; and how many times more candidates are scored exactly
    rescore: Count | None = None

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        _refuse_foreign(self.kind, self.options, RETRIEVAL_KEYS)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What is set beside the kind."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)


RETRIEVAL_KEYS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "hnsw": ("links", "build_breadth", "breadth"),
    "ivf": ("lists", "probes"),
    "ivf_pq": ("lists", "probes", "code_bytes", "rescore"),
}


def _refuse_foreign(kind: str, given: Iterable[str], known: dict[str, tuple[str, ...]]) -> None:
    """Keys that another kind has."""
    foreign = [key for key in given if key not in known[kind]]
    if foreign:
        expected = ", ".join(known[kind]) or "no further key"
        raise ValueError(f"got {', '.join(foreign)} with kind {kind}, expected {expected}")


class Baseline(Section):
    kind: Literal["popular", "popular_recent", "personal_frequency", "item_knn", "slist", "decayed_mean", "svd"]
    days: float | None = Field(None, gt=0)  # popular_recent: the window
    half_life_events: float | None = Field(None, gt=0)  # personal_frequency: after so many events one counts half
    half_life_days: float | None = Field(None, gt=0)
    window: Count | None = None  # item_knn: events apart that count as together
    neighbours: Count | None = None
    half_life: float | None = Field(None, gt=0)  # slist, decayed_mean: events
    alpha: float | None = Field(None, ge=0, le=1)  # slist: share of what occurs together, beside what follows
    ridge: float | None = Field(None, gt=0)
    width: Count | None = None  # svd, decayed_mean

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        _refuse_foreign(self.kind, self.options, BASELINE_KEYS)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What is set beside the kind."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)

    @property
    def name(self) -> str:
        """Names runs: `personal_frequency-half_life_events-300`."""
        return "-".join([self.kind, *(f"{key}-{value:g}" for key, value in self.options.items())])


BASELINE_KEYS: dict[str, tuple[str, ...]] = {
    "popular": (),
    "popular_recent": ("days",),
    "personal_frequency": ("half_life_events", "half_life_days"),
    "item_knn": ("window", "neighbours"),
    "slist": ("half_life", "alpha", "ridge"),
    "decayed_mean": ("width", "half_life"),
    "svd": ("width",),
}


class Loss(Section):
    kind: Literal["sampled", "full", "bce", "gbce", "bpr", "info_nce"] = "sampled"  # a softmax over draws; others
    negatives: Count = 512
    per: Literal["batch", "row"] = "batch"
    sampler: Literal["uniform", "popularity", "in-batch", "mixed"] | None = None  # null: uniform
    logq: bool | None = None  # sampled: count a draw by how rare it is; null: true where the sampler is not uniform
    calibration: float | None = Field(None, ge=0, le=1)  # gbce: its t, 0 = plain bce; null: 0.75
    logit_adjustment: float | None = Field(None, ge=0, le=1)  # share of log popularity left out of scores; null: 0
    full_from: float | None = Field(None, gt=0, lt=1)  # share of the epochs after which the loss is the full one
    chunk: Count = 1 << 24  # logits of a full loss that exist at a time (64 MiB), 16 for each pair of the repeat head
    break_hours: float | None = Field(None, gt=0)  # rows whose target comes so much later, or more, are after a break
    break_weight: float = Field(1.0, gt=0)  # what they count, where others count 1
    weight_by: Literal["rating", "weight", "dwell"] | dict[str, float] | None = None  # what a target counts; or by type
    break_target: Literal["first", "any"] = "first"  # of the events up to the next break, drawn anew in every epoch

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        known = {key for keys in LOSS_KEYS.values() for key in keys}
        _refuse_foreign(self.kind, sorted(key for key in known if getattr(self, key) is not None), LOSS_KEYS)
        if self.kind == "gbce" and self.sampler not in (None, "uniform"):
            raise ValueError(
                f"got sampler {self.sampler} with kind gbce, whose calibration is for uniform negatives; expected "
                "uniform, or kind bce"
            )
        return self

    @field_validator("weight_by")
    @classmethod
    def _not_negative(cls, value: Any) -> Any:
        if isinstance(value, dict) and (not value or min(value.values()) < 0):
            raise ValueError(f"got {value!r}, expected types of events with what each counts, 0 or more")
        return value

    @property
    def corrected(self) -> bool:
        """Whether draws are counted by how rare they are, as a sampled softmax can; other losses take them as drawn."""
        return self.kind == "sampled" and (self.sampler not in (None, "uniform") if self.logq is None else self.logq)

    @property
    def binary(self) -> float | None:
        """The calibration of a binary cross-entropy; None for a softmax."""
        return {"bce": 0.0, "gbce": 0.75 if self.calibration is None else self.calibration}.get(self.kind)


LOSS_KEYS: dict[str, tuple[str, ...]] = {
    "sampled": ("sampler", "logq", "full_from", "logit_adjustment"),
    "full": ("logit_adjustment",),
    "bce": ("sampler", "full_from"),
    "gbce": ("sampler", "calibration", "full_from"),
    "bpr": ("sampler", "full_from"),
    "info_nce": ("sampler",),
}


class Training(Section):
    epochs: Count = 50
    tune_epochs: Count | None = None  # of recent and compressed, which then start from full; null: afresh
    batch_events: Count | None = 2048
    batch_users: Count | None = None
    learning_rate: float = Field(0.002, gt=0)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float | None = Field(1.0, gt=0)  # most that a step's gradient may be long; null: as long as it is
    ema: float | None = Field(0.99, gt=0, lt=1)
    patience: Count | None = 10
    validate_every: Count = 1
    validation_users: Count | None = None
    checkpoint_minutes: float = Field(5, gt=0)
    threads: Count | None = None
    workers: int = Field(0, ge=0)
    accelerator: Literal["cpu", "auto", "gpu"] = "cpu"
    devices: Count = 1  # of a machine, each with a process; a step's batches are shared out among all
    nodes: Count = 1  # machines, on each of which a launcher such as torchrun starts the command
    accumulate: Count = 1  # batches of each device whose mean loss a step minimises
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"  # of the layers; scores and losses are float32
    logger: Literal["csv", "tensorboard", "mlflow", "wandb"] = "csv"  # csv is always written


class Evaluation(Section):
    part: Literal["test", "validation"] = "test"  # which targets are evaluated: validation while a recipe is chosen
    k: OneOrMore = (1, 5, 10, 20)
    exclude_seen: bool = True
    seen_odds: float | None = Field(None, gt=0, lt=1)  # seen items are not excluded; their odds are multiplied by it
    users_per_chunk: Count = 1024
    length_buckets: OneOrMore = (20, 50, 100, 200, 500)

    @model_validator(mode="after")
    def _seen_in_one_way(self) -> Self:
        if self.seen_odds is not None and self.exclude_seen:
            raise ValueError(
                f"got seen_odds {self.seen_odds} with exclude_seen true, which never recommends what it discounts; "
                "set exclude_seen to false"
            )
        return self


def expand(path: str) -> str:
    """The path with ~ and environment variables put in; PERSREC_DATASETS is `data/raw` while it is unset."""
    values = {DATASETS_VARIABLE: DATASETS_DEFAULT, **os.environ}

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if name not in values:
            raise ValueError(f"got {path!r}, but the environment variable {name} is not set: set it or write it out")
        return values[name]

    return str(Path(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, path)).expanduser())
