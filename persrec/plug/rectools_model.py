"""The verbs on a model of RecTools: external ids and data sets in, RecTools' own frames out.

Shapes: B users, T columns of a session, D width.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import pandas as pd
import torch
from rectools.dataset import Dataset
from rectools.models.base import ModelBase
from rectools.models.nn.transformers.data_preparator import SequenceDataset
from torch import Tensor

from persrec.errors import UserError
from persrec.models import memory as memories
from persrec.models.interfaces import Memory
from persrec.plug.adapter import installed
from persrec.plug.compressed import Plugged, compressor
from persrec.plug.rectools import (
    KNOWN,
    READING,
    CompressedBackbone,
    RecToolsBackbone,
    compressed,
    moved,
    session_events,
)

TOKENS = "torch_model.compressor."  # where a checkpoint keeps the compressor


@dataclass(frozen=True)
class Memories:
    """Memories of users by their external ids, and how many of their oldest events were left out of them."""

    users: pd.Index
    memory: Memory
    skipped: np.ndarray  # (B,) events before the last session_max_len


def attach(model: Any, *, tokens: int, cap: int | None, **settings: Any) -> Any:
    """A copy of a fitted model with a compressor in it, see `persrec.plug.attach`; tune it with `fit_partial`."""
    checkpoint = _checkpoint(model, CompressedBackbone, expected=False)
    for name, default in _replaced(model).items():
        if (own := getattr(model, name)) != default:
            shown = getattr(own, "__name__", repr(own))
            raise UserError(
                f"attach: the model has {name}={shown}, which a compressor would replace; expected RecTools' own "
                f"({getattr(default, '__name__', repr(default))}). Give the constructor a class that extends both: "
                "see persrec.plug.rectools.compressed"
            )
    adapter = RecToolsBackbone(model.torch_model)
    fresh = compressor(adapter, tokens=tokens, cap=cap).state_dict()
    arguments = compressed(tokens=tokens, cap=cap, **settings)
    checkpoint["state_dict"] |= {TOKENS + name: value for name, value in fresh.items()}
    for state in checkpoint["optimizer_states"]:
        group = state["param_groups"][0]["params"]
        group.extend(range(len(group), len(group) + len(fresh)))  # without momentum, and last as in the model
    return _loaded(model, checkpoint, arguments)


def detach(model: Any) -> Any:
    """A copy of a fitted model without its compressor."""
    checkpoint = _checkpoint(model, CompressedBackbone, expected=True)
    dropped = [name for name in checkpoint["state_dict"] if name.startswith(TOKENS)]
    for name in dropped:
        del checkpoint["state_dict"][name]
    for state in checkpoint["optimizer_states"]:
        group = state["param_groups"][0]["params"]
        for place in group[len(group) - len(dropped) :]:
            state["state"].pop(place, None)
        del group[len(group) - len(dropped) :]
    return _loaded(model, checkpoint, _replaced(model))


def _replaced(model: Any) -> dict[str, Any]:
    """The constructor's arguments that a compressor sets, and RecTools' defaults for them."""
    return {name: type(model).config_class.model_fields[name].default for name in compressed(segment=1, recent=1)}


def compress(model: Any, dataset: Dataset, users: Any = None) -> Memories:
    """The memories of some users of a data set, or of all: of their last session_max_len events each."""
    plugged = _plugged(model)
    preparator = model.data_preparator
    chosen = dataset.user_id_map.external_ids if users is None else np.asarray(users)
    known = preparator.transform_dataset_u2i(dataset, chosen)
    frame = known.interactions.df
    sessions = SequenceDataset.from_interactions(frame, sort_users=True)
    model.lightning_model._prepare_for_inference(model.recommend_torch_device)  # as `recommend` does
    with torch.no_grad():
        item_embs = model.torch_model.item_model.get_all_embeddings()
        parts = []
        for first in range(0, len(sessions), model.recommend_batch_size):
            some = [sessions[row] for row in range(first, min(first + model.recommend_batch_size, len(sessions)))]
            batch = _batch([_last(session, preparator.session_max_len) for session in some], preparator.add_unix_ts)
            there = {name: value.to(item_embs.device) for name, value in batch.items()}
            parts.append(moved(plugged.compress(session_events(there, item_embs)), "cpu"))
    widest = max(part.rows for part in parts)
    memory = memories.widen(parts[0], widest)
    for part in parts[1:]:
        memory = memories.join(memory, memories.widen(part, widest))
    skipped = [max(0, len(sessions[row][0]) - preparator.session_max_len) for row in range(len(sessions))]
    return Memories(pd.Index(known.user_id_map.get_external_sorted_by_internal()), memory, np.array(skipped))


def read(
    model: Any, memory: Memories, users: Any, dataset: Dataset, k: int, filter_viewed: bool, **options: Any
) -> Any:
    """`model.recommend(users, dataset, k, filter_viewed, ...)` from memories: only newer events are gone through."""
    _plugged(model).accept(memory.memory, len(memory.users))
    with _reading(model, memory):
        return model.recommend(users, dataset, k, filter_viewed, **options)


@contextmanager
def _reading(model: Any, memory: Memories) -> Iterator[None]:
    """While this lasts, the model recommends from memories."""
    preparator, backbone = model.data_preparator, model.torch_model

    def batches(dataset: Dataset, batch_size: int) -> Iterator[dict[str, Tensor]]:
        sessions = SequenceDataset.from_interactions(dataset.interactions.df, sort_users=True)
        external = dataset.user_id_map.get_external_sorted_by_internal()
        places = memory.users.get_indexer(external)
        if (places < 0).any():
            raise UserError(
                f"user {external[int(places.argmin())]!r} has no memory, expected one for every user that is asked "
                "for; compress the data set with that user in it"
            )
        gone = memory.skipped + memory.memory.count.numpy()
        for first in range(0, len(sessions), batch_size):
            rows = range(first, min(first + batch_size, len(sessions)))
            for row in rows:
                events, known = len(sessions[row][0]) - preparator.add_unix_ts, int(gone[places[row]])
                if events <= known:
                    raise UserError(
                        f"read: got {events} events of user {external[row]!r}, of whom {known} are in the memory or "
                        "were left out of it already; expected whole histories, not cut to a window"
                    )
            newer = [_after(sessions[row], int(gone[places[row]])) for row in rows]
            batch = _batch(newer, preparator.add_unix_ts, asked=preparator.add_unix_ts)
            yield batch | {READING: torch.from_numpy(places[first : rows.stop])}

    preparator.get_dataloader_recommend, backbone.memories = batches, memory.memory
    try:
        yield
    finally:
        del preparator.get_dataloader_recommend
        backbone.memories = None


def _batch(sessions: list[tuple], timed: bool, *, asked: bool = False) -> dict[str, Tensor]:
    """Sessions padded on the left; with `asked` the last event of each only says when its user is asked."""
    items = [session[0][: len(session[0]) - asked] for session in sessions]
    width = max(1, *map(len, items))
    x = np.zeros((len(sessions), width), dtype=np.int64)
    clock = np.zeros((len(sessions), width + 1), dtype=np.int64)
    for row, (session, own) in enumerate(zip(sessions, items, strict=True)):
        x[row, width - len(own) :] = own
        if timed:
            times = session[2]["unix_ts"]
            clock[row, width - len(own) :] = times if asked else [*times, times[-1]]
    return {"x": torch.from_numpy(x)} | ({"unix_ts": torch.from_numpy(clock)} if timed else {})


def _after(session: tuple, events: int) -> tuple:
    """A session without its first events."""
    items, weights, extras = session
    return items[events:], weights[events:], {name: values[events:] for name, values in extras.items()}


def _last(session: tuple, events: int) -> tuple:
    return _after(session, max(0, len(session[0]) - events))


def _plugged(model: Any) -> Plugged:
    """The verbs of a fitted, compressed model."""
    _fitted(model)
    if not isinstance(model.torch_model, CompressedBackbone):
        raise UserError(
            f"{type(model).__name__} has no compressor; attach one to the fitted model, or construct it with "
            "`**persrec.plug.rectools.compressed(segment=..., recent=...)`"
        )
    return model.torch_model.plugged


def _fitted(model: Any) -> None:
    if not isinstance(model, ModelBase) or not hasattr(model, "data_preparator"):
        raise UserError(
            f"got {type(model).__name__}, expected HSTUModel or SASRecModel of {KNOWN}; looked for `data_preparator`; "
            f"installed: rectools {installed('rectools')}"
        )
    if not model.is_fitted:
        raise UserError(
            f"this {type(model).__name__} is not fitted yet: construct it with "
            "`**persrec.plug.rectools.compressed(segment=..., recent=...)`, and fit it as usual"
        )


def _checkpoint(model: Any, kind: type, *, expected: bool) -> dict[str, Any]:
    """What RecTools saves of a fitted model, which must have a compressor already or not."""
    _fitted(model)
    if isinstance(model.torch_model, kind) != expected:
        raise UserError(f"{type(model).__name__} has {'no' if expected else 'already a'} compressor")
    return torch.load(io.BytesIO(model.__getstate__()["fitted_checkpoint"]), weights_only=False)


def _loaded(model: Any, checkpoint: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """The model of a checkpoint whose configuration has other arguments; its epochs count from 0.

    RecTools loads no model that has been trained for more epochs than its `epochs` says, as tuning would do.
    """
    simple = {
        name: f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else value
        for name, value in arguments.items()
    }
    parameters = checkpoint["hyper_parameters"]
    parameters["model_config"] = parameters["model_config"] | simple
    del checkpoint["loops"]
    with NamedTemporaryFile(suffix=".ckpt") as file:
        torch.save(checkpoint, file.name)
        return type(model).load_from_checkpoint(file.name)
