"""What others use of a run: item vectors and user queries as parquet, and the read step as a torch program.

Shapes: B users, L events, F inputs of each, P planes, M remembered rows, D width, Q width of a query, V items.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from persrec import run as runs
from persrec.batches import Budget, collate, evaluation_windows
from persrec.errors import UserError
from persrec.interactions.schema import Say, log
from persrec.models.build import restored
from persrec.models.interfaces import Memory, Rows
from persrec.models.model import Model
from persrec.prepared import Prepared
from persrec.recipe.recipe import Recipe, parse

ITEMS, USERS, READ, ABOUT = "items.parquet", "users.parquet", "read.pt2", "export.json"
BATCH = 512  # users whose histories are read together
SEGMENTS = 8  # of a memory that grows, where no cap says how many are kept


class Length(NamedTuple):
    """How many events a read takes."""

    events: int  # L
    why: str


class Read(nn.Module):
    """The read step: the query (B, Q) after the last of L right-padded events, on a memory of M rows.

    The items' vectors are in it, so that it needs ids alone.
    """

    vectors: Tensor
    texts: Tensor | None

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.register_buffer("vectors", model.items(torch.arange(model.items.count + 1)).detach().clone())
        self.register_buffer("texts", None if model.text_head is None else model.text_vectors())
        self.backbone, self.inputs, self.cosine = model.backbone, model.inputs, model.cosine
        self.text_head = model.text_head

    def forward(
        self,
        item: Tensor,
        time: Tensor,
        query_time: Tensor,
        position: Tensor,
        valid: Tensor,
        states: Tensor,
        memory_time: Tensor,
        memory_position: Tensor,
        memory_valid: Tensor,
        memory_weight: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """Fields of `History` (B, L) and of `Memory`: states (B, P, M, D), the others (B, M); the query (B, Q).

        `memory_weight` is asked for where `memory.count_weight` is true, `inputs` (B, L, F) with `model.inputs`.
        """
        x = nn.functional.embedding(item, self.vectors)
        if self.inputs is not None:
            x = x + self.inputs(inputs)
        rows = Rows(x, time, query_time, position, valid)
        weight = torch.ones_like(memory_time, dtype=states.dtype) if memory_weight is None else memory_weight
        memory = Memory(states, memory_time, memory_position, memory_valid, weight, memory_valid.sum(dim=1))
        asked = valid.sum(dim=1, keepdim=True) - 1
        hidden, _ = self.backbone.step(rows, memory if states.shape[2] else None, asked=asked)
        query = hidden.squeeze(1)
        query = nn.functional.normalize(query, dim=-1) if self.cosine else query
        if self.text_head is None or self.texts is None:
            return query
        last = self.text_head.last_items(item, valid.sum(dim=1))
        return torch.cat([query, self.text_head(nn.functional.embedding(last, self.texts))], dim=-1)


def export(folder: str | Path, out: str | Path, *, length: int | None = None, say: Say = log) -> Path:
    """Write items.parquet, users.parquet, read.pt2 and export.json, which says what these are and what read.pt2 takes.

    Of `history: full` read.pt2 takes `length` events, by default as many as the recipe's length or the longest history
    has; of a decoder it is left out. What an earlier export has left in `out` stays as it was until all is written.
    Raises UserError for a run without a model or without its log, for a length that the run does not read, and where
    `out` cannot be written.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"export: {out} is a file, expected a folder; choose another --out")
    run = runs.load(folder)
    recipe = parse(run.recipe, f"of run {folder}")
    weights = run.weights()
    data = replace(runs.open_log(run.data, recipe.split.name), inputs=recipe.model.inputs)
    taken = _length(recipe, data, length)
    item_ids = run.item_ids()
    model = restored(recipe, weights, items=len(item_ids)).eval()
    notes = [_product(recipe)]
    decoder = recipe.model.kind == "decoder"
    if decoder:
        notes.append("read.pt2 is left out: torch.export does not follow the decoders of transformers.")
    elif recipe.model.inputs:
        notes.append(_carried(recipe))
    about: dict[str, Any] = {"run": str(folder), "score": recipe.model.score, "time": recipe.time, "notes": notes}
    with torch.no_grad(), _whole(out) as working:
        _write(working / ITEMS, "item_id", item_ids, model.vectors()[1:].numpy())
        _write(working / USERS, "user_id", data.user_ids(), queries(model, data, recipe))
        if not decoder:
            program, inputs = read_program(model, recipe, taken.events)
            torch.export.save(program, working / READ)
            about |= {
                "length": taken._asdict(),
                "inputs of read.pt2": inputs,
                "output of read.pt2": ["users", model.query_width],
            }
        (working / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    read = "" if decoder else f", and the read step on the last {taken.events:,} events ({taken.why})"
    say(f"{out}: {len(item_ids):,} item vectors, {data.users:,} user queries{read}.")
    for note in notes:
        say(note)
    return out


def _length(recipe: Recipe, data: Prepared, asked: int | None) -> Length:
    """How many events read.pt2 takes; raises UserError where another number is `asked` than the run reads."""
    if recipe.history != "full":
        events = recipe.memory.segment + recipe.memory.recent - 1
        if asked not in (None, events):
            raise UserError(
                f"export: got --length {asked} with history {recipe.history}, expected none: its read step takes the "
                f"{events} events that an open block can have"
            )
        return Length(events, "the most that an open block has")
    if asked is not None and recipe.length is not None and asked > recipe.length:
        raise UserError(
            f"export: got --length {asked}, expected at most {recipe.length}, the length that the run reads"
        )
    if asked is not None:
        return Length(asked, "as asked by --length; longer histories lose their oldest events")
    if recipe.length is not None:
        return Length(recipe.length, "the recipe's length")
    return Length(int(np.diff(data.offsets).max()), "the longest history of the log")


def _product(recipe: Recipe) -> str:
    """What a product of a query and an item's vector is."""
    added = {"a repeat head": recipe.repeat == "head", "evaluation.seen_odds": recipe.evaluation.seen_odds is not None}
    named = " and ".join(name for name, there in added.items() if there)
    if not named:
        return "A product of a query and an item's vector is the score of `recommend`."
    return (
        "A product of a query and an item's vector is the score of `recommend` for items that the user has not had; "
        f"for the others it is not the whole score: what comes from {named} is in no vector."
    )


def _carried(recipe: Recipe) -> str:
    """What the inputs of events are."""
    codes = ", ".join(f"{kind} {code}" for code, kind in enumerate(recipe.data.events or (), start=1))
    types = f", of event {codes}" if "event" in recipe.model.inputs else ""
    return (
        f"The inputs of an event in read.pt2 are {_listed(recipe.model.inputs)}: numbers by "
        f"persrec.event_inputs.bucket{types}; 0 is not known."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def queries(model: Model, data: Prepared, recipe: Recipe) -> np.ndarray:
    """(U, Q) the query of each user after their last event in the log, asked at that event's time."""
    ends = np.diff(data.offsets)
    windows = evaluation_windows(np.arange(data.users), ends, length=recipe.length)
    found = np.zeros((data.users, model.query_width), dtype=np.float32)
    rule = model.rule
    for rows in Budget(rule.segment, rule.recent, 1 << 16, BATCH).cut(windows):
        batch = collate(data, windows.take(rows), time=recipe.time, last=True)
        found[rows] = model.queries(batch).numpy()
    return found


def read_program(model: Model, recipe: Recipe, length: int) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """The read step on L = `length` events as torch.export has it, for any number of users; and name, type and shape
    of its inputs."""
    width = model.backbone.width
    planes = model.compressor.start(1).states.shape[1]
    remembered = _remembered(recipe) if recipe.history == "compressed" else 0
    users, events = 2, torch.arange(length).expand(2, -1)
    rows, none = torch.arange(remembered).expand(2, -1), torch.zeros(2, remembered, dtype=torch.int64)
    inputs = {
        "item": torch.ones(users, length, dtype=torch.int64),
        "time": events * 1000,
        "query_time": events * 1000,
        "position": events + remembered,
        "valid": torch.ones(users, length, dtype=torch.bool),
        "states": torch.zeros(users, planes, remembered, width),
        "memory_time": none,
        "memory_position": rows,
        "memory_valid": torch.ones(users, remembered, dtype=torch.bool),
    }
    if recipe.history == "compressed" and recipe.memory.count_weight:
        inputs["memory_weight"] = torch.ones(users, remembered)
    if recipe.model.inputs:
        inputs["inputs"] = torch.zeros(users, length, len(recipe.model.inputs), dtype=torch.int64)
    batch = torch.export.Dim("users", min=1, max=1 << 20)
    shapes = {name: {0: batch} for name in inputs}
    given = {name: value.clone() for name, value in inputs.items()}
    program = torch.export.export(Read(model).eval(), (), given, dynamic_shapes=shapes, strict=False)
    described = {
        name: {"type": str(value.dtype).removeprefix("torch."), "shape": ["users", *value.shape[1:]]}
        for name, value in inputs.items()
    }
    return program, described


def _remembered(recipe: Recipe) -> int:
    """M of the read step: all rows of a memory of a fixed size or with a cap, else those of 8 segments."""
    memory = recipe.memory
    if memory.kind == "segment_mean":
        return memory.cap or SEGMENTS
    grows = memory.kind == "layered"
    return memory.tokens * ((memory.cap or SEGMENTS) if grows else 1)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write in, whose files come into `out` once all are there.

    export.json goes first and comes last: where it is, the files beside it are of the same export.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=out) as temporary:
            yield Path(temporary)
            for name in (ABOUT, READ):  # a read step that is left out now may be there from before
                (out / name).unlink(missing_ok=True)
            for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == ABOUT):
                path.replace(out / path.name)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"export: {out} cannot be written ({reason}); make room or choose another --out") from error


def _write(path: Path, name: str, ids: pa.Array, vectors: np.ndarray) -> None:
    """A table of ids and their vectors."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pa.table({name: ids, "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})
    pq.write_table(table, path)
