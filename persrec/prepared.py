"""Prepared data: a log as per-user histories in Arrow files, memory-mapped. NUMPY AND PYARROW ONLY.

<root>/<name>-<hash>/
    sequences.arrow         one row per user: items large_list<int32> (1..V), times large_list<int64> (ms), ratings,
                            and what else of events is kept: weights, dwells, events (places in the list of types)
    users.arrow             user_id, in the order of the sequences
    items.arrow             item_id, events; row i is item i+1
    split-<split>.arrow     train_end per user: events [0, train_end) are trained on
    validation-<split>.arrow, test-<split>.arrow    user, end, size per query, see `Queries`
    prepared.json           format, hash, where it came from, counts, and the size and SHA-256 of each file
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from persrec.errors import UserError

FORMAT: Final = 2
ROOT: Final = Path("data/prepared")  # where prepared folders are made and looked for
FACTS: Final = "prepared.json"
TOGETHER: Final = 1 << 12  # users whose events are counted together
SEQUENCES: Final = "sequences.arrow"
USERS: Final = "users.arrow"
ITEMS: Final = "items.arrow"

Ints = npt.NDArray[np.int64]


def split_files(split: str) -> tuple[str, str, str]:
    """The files of a split: bounds, validation queries, test queries."""
    return f"split-{split}.arrow", f"validation-{split}.arrow", f"test-{split}.arrow"


class Queries(NamedTuple):
    """What is asked: of a user who has had the events [0, end), which are the next `size`? Q queries."""

    user: Ints  # (Q,) row of the user in the prepared log; one user may be asked several times
    end: Ints  # (Q,) at least 1
    size: Ints  # (Q,) at least 1: one target, or a set of them

    def take(self, index: Any) -> "Queries":
        """Some of the queries."""
        return Queries(*(field[index] for field in self))


@dataclass(frozen=True, eq=False)
class Prepared:
    """One log. User u's history is events offsets[u] to offsets[u + 1]; the arrays are views of the mapped files."""

    folder: Path
    split: str
    facts: dict[str, Any]
    offsets: Ints  # (U+1,)
    items: npt.NDArray[np.int32]  # (E,) 1..V
    times: Ints | None  # (E,) ms
    ratings: npt.NDArray[np.float32] | None  # (E,)
    train_end: Ints  # (U,) events [0, train_end) are trained on
    validation: Queries
    test: Queries
    events_per_item: Ints  # (V+1,)
    weights: npt.NDArray[np.float32] | None = None  # (E,)
    dwells: npt.NDArray[np.float32] | None = None  # (E,)
    events: npt.NDArray[np.int16] | None = None  # (E,) types, from 1 on
    inputs: tuple[str, ...] = ()  # what of an event a model reads beside the item; see `event_inputs`

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @property
    def items_count(self) -> int:
        return len(self.events_per_item) - 1

    @cached_property
    def training_events_per_item(self) -> Ints:
        """(V+1,) events of each item among those that are trained on; 0 = a cold item."""
        found = np.zeros(self.items_count + 1, dtype=np.int64)
        for start in range(0, self.users, TOGETHER):
            offsets, trained = self.offsets[start : start + TOGETHER + 1], self.train_end[start : start + TOGETHER]
            runs = np.column_stack([trained, np.diff(offsets) - trained]).ravel()
            inside = np.repeat(np.tile([True, False], len(trained)), runs)
            found += np.bincount(self.items[offsets[0] : offsets[-1]][inside], minlength=len(found))
        return found

    def asking(self, part: str) -> "Prepared":
        """The log whose `test` are the queries of this part of the split: while a recipe is chosen, `validation`."""
        return replace(self, test=self.validation) if part == "validation" else self

    @property
    def hash(self) -> str:
        """Of the source files, the data section of the recipe and the format."""
        return str(self.facts["hash"])

    def user_ids(self) -> pa.Array:
        """(U,) the user's own ids."""
        return read_batch(self.folder / USERS).column("user_id")

    def item_ids(self) -> pa.Array:
        """(V,) the user's own ids; entry i is item i+1."""
        return read_batch(self.folder / ITEMS).column("item_id")

    def __reduce__(self) -> tuple[Callable[..., "Prepared"], tuple[Any, ...]]:
        return open_prepared, (self.folder, self.split, False, self.inputs)


def open_prepared(
    folder: str | Path, split: str = "leave-one-out", verify: bool = True, inputs: tuple[str, ...] = ()
) -> Prepared:
    """Open a prepared folder; `verify` False trusts the contents of the files (a worker's second look).

    Raises:
        UserError: the folder is absent, incomplete, altered, of another format version, or lacks the split.
    """
    folder = Path(folder).absolute()
    facts = read_facts(folder)
    check_files(folder, facts, verify=verify)
    bounds, validation, test = split_files(split)
    if test not in facts["files"]:
        there = sorted(name[6:-6] for name in facts["files"] if name.startswith("split-"))
        raise UserError(f"{folder}: no split {split!r}; got {', '.join(there)}. Run `persrec prepare` with this split.")
    sequences = read_batch(folder / SEQUENCES)
    vocabulary = read_batch(folder / ITEMS)
    return Prepared(
        folder=folder,
        split=split,
        facts=facts,
        offsets=sequences.column("items").offsets.to_numpy(),
        items=_values(sequences, "items"),
        times=_values(sequences, "times"),
        ratings=_values(sequences, "ratings"),
        train_end=read_batch(folder / bounds).column("train_end").to_numpy(),
        validation=_queries(folder / validation),
        test=_queries(folder / test),
        events_per_item=np.concatenate([[0], vocabulary.column("events").to_numpy()]).astype(np.int64),
        weights=_values(sequences, "weights"),
        dwells=_values(sequences, "dwells"),
        events=_values(sequences, "events"),
        inputs=inputs,
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """The contents of prepared.json, of this format version.

    Raises:
        UserError: there is none, it is damaged, or it is of another version.
    """
    path = folder / FACTS
    if not path.is_file():
        raise UserError(f"{folder}: not a prepared folder (no {FACTS}); run `persrec prepare RECIPE` to make one.")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version, files = facts["format"], facts["files"]
        complete = isinstance(files, dict) and isinstance(facts["hash"], str)
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise UserError(f"{path}: damaged; delete the folder and run `persrec prepare` again.")
    if version != FORMAT:
        raise UserError(
            f"{path}: format version {version}, expected {FORMAT}; it was written by another version of persrec. "
            "Delete the folder and run `persrec prepare` again."
        )
    return dict(facts)


def check_files(folder: Path, facts: dict[str, Any], *, verify: bool) -> None:
    """Raise UserError unless every file is there with its size and, where `verify`, its SHA-256."""
    for name, expected in facts["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{folder}: incomplete, {name} is missing; delete the folder and run `persrec prepare` again."
            )
        size = path.stat().st_size
        altered = size != expected["bytes"]
        if altered or (verify and digest(path) != expected["sha256"]):
            what = f"{size:,} bytes instead of {expected['bytes']:,}" if altered else "other contents"
            raise UserError(
                f"{path}: altered since it was written ({what}); delete the folder and run `persrec prepare` again."
            )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_batch(path: Path) -> pa.RecordBatch:
    """The one record batch of an Arrow file, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _queries(path: Path) -> Queries:
    batch = read_batch(path)
    return Queries(*(batch.column(name).to_numpy() for name in Queries._fields))


def _values(sequences: pa.RecordBatch, name: str) -> Any:
    """(E,) the flat values of a list column, or None where there is none."""
    return sequences.column(name).values.to_numpy() if name in sequences.schema.names else None
