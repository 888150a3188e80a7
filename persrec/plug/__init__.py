"""Compression for models that people already have: attach, compress, read, detach, check.

`attach` takes a model of a known host, or an `Adapter` that says of any other model what has to be known. README.md
beside this file has ten lines per host.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from persrec.errors import UserError
from persrec.models.interfaces import Memory
from persrec.plug.adapter import Adapter
from persrec.plug.case import made, visible_tokens
from persrec.plug.compressed import Compressed
from persrec.plug.contract import CHECKS, Finding
from persrec.plug.events import since
from persrec.plug.mask_argument import MaskArgument

__all__ = [
    "Adapter",
    "Compressed",
    "Finding",
    "MaskArgument",
    "Memory",
    "attach",
    "check",
    "compress",
    "detach",
    "read",
    "since",
]

ADAPTERS = {  # package of the model's class: module of persrec.plug and the adapter in it
    "generative_recommenders": ("generative_recommenders", "ResearchHSTU"),
    "torch_rechub": ("rechub", "RechubHSTU"),
    "transformers": ("decoders", "Decoder"),
}
KNOWN = "RecTools 0.19 (HSTUModel, SASRecModel), torch-rechub 0.9 (HSTUModel), transformers 5 (Llama, Mistral, Qwen)"


def attach(
    model: Any,
    *,
    segment: int,
    recent: int,
    tokens: int = 4,
    cap: int | None = None,
    past_set: float = 0.1,
    reads: float = 0.3,
    checkpointed: bool = False,
) -> Any:
    """The model with a compressor: a `Compressed`, or for a fitted model of RecTools another model of RecTools.

    Histories are cut by the segment rule: `segment` (S) events are compressed together into `tokens`, the latest
    `recent` (R) to R + S - 1 stay as they are; `cap` keeps the newest segments only. `past_set` is the weight of
    `Compressed.token_loss`, which RecTools' models add by themselves. In training a share `reads` of the passes gives
    rows as they would be served, on R to R + S - 1 clear events; in the others rows see no event before their own
    segment, so that more depends on the memory, and it is learned sooner. `checkpointed` computes folds again in the
    backward pass instead of keeping what they computed.
    """
    module = getattr(model, "torch_model", model)  # RecTools keeps its torch model there
    if isinstance(model, type) or hasattr(module, "plugged"):
        got = (
            f"the class {model.__name__}"
            if isinstance(model, type)
            else f"a {type(model).__name__} that has a compressor"
        )
        raise UserError(f"attach: got {got}, expected a model without one; build it, or `detach` it first")
    settings: dict[str, Any] = {"segment": segment, "recent": recent, "tokens": tokens, "cap": cap}
    settings |= {"past_set": past_set, "reads": reads, "checkpointed": checkpointed}
    if _package(model) == "rectools":
        return _module("rectools_model").attach(model, **settings)
    return Compressed(model if isinstance(model, Adapter) else _adapter(model), **settings)


def compress(model: Any, *histories: Any, **options: Any) -> Any:
    """The memories of histories: `compress(model, items, times)`.

    `items` are ids (B, T), 0 = padding, or vectors (B, T, D) with `valid=` (B, T); `times` int64 ms (B, T), and
    `query_times`, where the host reads times. A memory is brought up to date with what came after it:
    `compress(model, *since(memory, items, times), memory=memory)`; given without times, whole histories cannot be told
    from that, and would be compressed once more. See `Compressed.compress`. Of a model of RecTools:
    `compress(model, dataset, users=None)`, see `rectools_model.compress`. Raises UserError for what is no such thing.
    """
    return _verb(model, "compress")(*histories, **options)


def read(model: Any, memory: Any, *recent: Any, **options: Any) -> Any:
    """The host's output (B, ...) at each user's last event: `read(model, memory, *since(memory, items, times))`.

    Beside the memory only the events that are not in it, fewer than segment + recent. See `Compressed.read`. Of a model
    of RecTools: `read(model, memories, users, dataset, k, filter_viewed, ...)` as its `recommend`, see
    `rectools_model.read`. Raises UserError for a memory of other users, or of a model that has been trained since.
    """
    return _verb(model, "read")(memory, *recent, **options)


def detach(model: Any) -> Any:
    """The host without the compressor, as it was but for training."""
    return _verb(model, "detach")()


def check(model: Any, *, say: Any = print) -> list[Finding]:
    """Run the contract on a plugged model, with random histories; prints what holds and gives it back.

    The model's weights, training flag and tokens are as before when it ends.
    """
    module = getattr(model, "torch_model", model)  # RecTools keeps its torch model there
    if not hasattr(module, "plugged"):
        raise UserError(f"check: got {type(model).__name__}, expected a model that `attach` has given a compressor")
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad(), visible_tokens(module.plugged):
            case = made(module.plugged, module)
            findings = [_found(promise, case) for promise in CHECKS]
    finally:
        for part in training:
            part.training = True
    for line in _table(findings):
        say(line)
    return findings


def _found(promise: Any, case: Any) -> Finding:
    try:
        return promise(case)
    except UserError as error:
        return Finding(promise.__name__.replace("_", " "), False, None, str(error))


def _table(findings: Sequence[Finding]) -> list[str]:
    width = max(len(finding.promise) for finding in findings)
    words = {True: "holds", False: "BROKEN", None: "not promised"}
    numbers = ["" if finding.difference is None else f"{finding.difference:.1e}" for finding in findings]
    return [
        f"{finding.promise:{width}}  {words[finding.holds]:12}  {number:8}  {finding.note}".rstrip()
        for finding, number in zip(findings, numbers, strict=True)
    ]


def _package(model: Any) -> str | None:
    """The known host that a class of the model's comes from."""
    packages = [kind.__module__.partition(".")[0] for kind in type(model).__mro__]
    return next((package for package in packages if package in (*ADAPTERS, "rectools")), None)


def _adapter(model: Any) -> Adapter:
    if hasattr(model, "get_base_model"):
        raise UserError(
            f"attach: got {type(model).__name__}, a wrapper of PEFT, expected the model in it: attach "
            "model.get_base_model(), in which its adapters work"
        )
    package = _package(model)
    if package is None:
        raise UserError(
            f"{type(model).__module__}.{type(model).__name__}: no adapter is known for its package; known: {KNOWN}; "
            "for a model of your own that is given its mask, attach MaskArgument(model, layers=..., width=...), for "
            "others write an Adapter"
        )
    module, name = ADAPTERS[package]
    return getattr(_module(module), name)(model)


def _module(name: str) -> Any:
    """A module of persrec.plug that imports from its host."""
    try:
        return import_module(f"persrec.plug.{name}")
    except ImportError as error:
        raise UserError(
            f"the installed version of the host lacks what is looked for: {error}; known: {KNOWN}"
        ) from error


def _verb(model: Any, name: str) -> Any:
    """A verb of a plugged model."""
    if isinstance(model, Compressed):
        return getattr(model, name)
    if _package(model) != "rectools":
        raise UserError(f"{name}: got {type(model).__name__}, expected a model that `attach` has given a compressor")
    return getattr(_module("rectools_model"), name).__get__(model)
