"""RecTools' `HSTUModel` and `SASRecModel`: `compressed(...)` are constructor arguments; a fitted model is attached.

The model stays a RecTools model: fit, fit_partial, recommend, save, load and load_from_checkpoint are its own.

Shapes: B users, T columns of a session, L rows, M remembered rows, D width, V items.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rectools.models.nn.transformers.hstu import STULayers
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.net_blocks import LearnableInversePositionalEncoding
from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers
from rectools.models.nn.transformers.torch_backbone import TransformerTorchBackbone
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models import memory as memories
from persrec.models.interfaces import Memory, Rows
from persrec.plug.adapter import Adapter, installed, part
from persrec.plug.compressed import Plugged, compressor, rule
from persrec.plug.events import Events
from persrec.plug.relative_bias import distances, looked_up, places, replaced

KNOWN = "RecTools 0.19"
READING = "persrec_user"  # key of a batch whose users are rows of the backbone's memories


def compressed(
    *,
    segment: int,
    recent: int,
    tokens: int = 4,
    cap: int | None = None,
    past_set: float = 0.1,
    reads: float = 0.3,
    checkpointed: bool = False,
) -> dict[str, Any]:
    """Arguments for the constructor of `HSTUModel` or `SASRecModel`: `HSTUModel(..., **compressed(...))`."""
    rule(segment, recent)
    return {
        "backbone_type": CompressedBackbone,
        "backbone_kwargs": {
            "segment": segment,
            "recent": recent,
            "tokens": tokens,
            "cap": cap,
            "past_set": past_set,
            "reads": reads,
            "checkpointed": checkpointed,
        },
        "lightning_module_type": CompressedLightning,
    }


class CompressedBackbone(TransformerTorchBackbone):
    """RecTools' torch model with a compressor: sessions are encoded event by event as they would be served."""

    def __init__(
        self,
        *,
        segment: int,
        recent: int,
        tokens: int,
        cap: int | None,
        past_set: float,
        reads: float,
        checkpointed: bool,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        adapter = RecToolsBackbone(self)
        if adapter.session is not None and adapter.session < segment + recent:
            raise UserError(
                f"session_max_len: got {adapter.session}, expected at least segment + recent = {segment + recent}; "
                "shorter sessions have nothing to compress"
            )
        self.compressor = compressor(adapter, tokens=tokens, cap=cap)
        options: dict[str, Any] = {"past_set": past_set, "reads": reads, "checkpointed": checkpointed}
        self.plugged = Plugged(adapter, self.compressor, rule(segment, recent), **options)
        self.memories: Memory | None = None  # what `reading` recommends from

    def encode_sessions(self, batch: dict[str, Tensor], item_embs: Tensor) -> Tensor:
        """Hidden rows (B, T, D) of sessions, each on its clear events and the memory of those before them."""
        events = session_events(batch, item_embs)
        if READING not in batch:
            return self.plugged.hidden(events)
        assert self.memories is not None
        memory = memories.take(self.memories, batch[READING].to(self.memories.count.device))
        return self.plugged.read(moved(memory, item_embs.device), events)[:, None]


class CompressedLightning(TransformerLightningModule):
    """RecTools' training with the loss of the tokens; it draws fresh weights when it starts, but no fresh tokens."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """RecTools' step, whose loss is logged as it is, and what tokens are asked for beside it."""
        return super().training_step(batch, batch_idx) + self.torch_model.plugged.token_loss()

    def _xavier_normal_init(self) -> None:
        kept = {name: value.clone() for name, value in self.torch_model.compressor.state_dict().items()}
        super()._xavier_normal_init()
        self.torch_model.compressor.load_state_dict(kept)


class RecToolsBackbone(Adapter):
    """The torch model inside of a RecTools transformer: HSTU or SASRec layers.

    Relative positions and times are those of the events, so a pass may have any number of rows; with learned absolute
    positions (`use_pos_emb`) rows are counted from a block's newest event, as RecTools counts them from a session's.
    """

    def __init__(self, model: Any) -> None:
        stack = part(model, "transformer_layers", known=KNOWN, package="rectools")
        self.backbone, self.hstu = model, isinstance(stack, STULayers)
        if not isinstance(stack, (STULayers, SASRecTransformerLayers)):
            raise UserError(
                f"transformer_layers_type: got {type(stack).__name__}, expected STULayers or SASRecTransformerLayers; "
                f"known: {KNOWN}; installed: rectools {installed('rectools')}"
            )
        if not self.hstu and not model.use_key_padding_mask:
            raise UserError(
                "SASRecModel with use_key_padding_mask=False attends to its padding, so that what it computes depends "
                "on session_max_len; construct it with use_key_padding_mask=True"
            )
        if not isinstance(model.pos_encoding_layer, LearnableInversePositionalEncoding):
            raise UserError(
                f"pos_encoding_type: got {type(model.pos_encoding_layer).__name__}, expected "
                f"LearnableInversePositionalEncoding; known: {KNOWN}"
            )
        if not model.use_causal_attn:
            raise UserError("use_causal_attn: got False, expected True: a memory is read by what comes after it")
        layers = stack.stu_blocks if self.hstu else stack.transformer_blocks
        super().__init__(model, layers=list(layers), width=_width(model))
        self.counts_rows = model.pos_encoding_layer.pos_emb is not None
        self.scale = self.width**0.5 if model.pos_encoding_layer.use_scale_factor else 1.0
        self.masked = not self.counts_rows  # a fold must not count the events after its segment
        self.timed = self.hstu and layers[0].rel_attn.relative_time_attention

    def embed(self, items: Tensor) -> Tensor:
        """The item net's vectors."""
        return self.backbone.item_model.get_all_embeddings()[items]

    def tables(self) -> list[nn.Parameter]:
        """The item net."""
        return list(self.backbone.item_model.parameters())

    def items(self) -> int:
        """Items and the padding."""
        return self.backbone.item_model.n_items

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """The layers over vectors, scaled and with positions as RecTools has them."""
        model = self.backbone
        x = model.emb_dropout(self._positioned(rows))
        there = rows.valid[..., None]  # (B, M+L, 1)
        if not self.hstu:
            return model.transformer_layers(x, there, ~visible, None)
        events, seconds = distances(rows)
        like: Any = self.layers[0].rel_attn  # all layers have the same tables
        event = places(events, 2 * like.session_max_len - 1) if like.relative_pos_attention else None
        bucket = like._quantization_func(seconds).clamp(0, like.num_buckets) if like.relative_time_attention else None
        with replaced([layer.rel_attn for layer in self.layers], lambda table: _bias(table, events, event, bucket)):
            for layer in self.layers:
                mask = visible * (len(visible) / self._length(layer))  # the layer divides by the rows of this pass
                with _set(layer, "session_max_len", len(visible)):
                    x = layer(x * there, {}, mask, there, None)
        return x * there

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """`encode_sessions` of RecTools, on sessions padded on the left to session_max_len."""
        length = self.session or items.shape[1]
        count = valid.sum(dim=1)
        columns = torch.arange(items.shape[1], device=items.device)
        place = (columns + (length - count)[:, None]).clamp(max=length - 1)
        batch = {"x": items.new_zeros(len(items), length).scatter_add(1, place, items * valid)}
        if self.timed:
            own = times.new_zeros(len(items), length).scatter_add(1, place, times * valid)
            batch["unix_ts"] = torch.cat([own, query_times.gather(1, (count - 1)[:, None])], dim=1) // 1000
        item_embs = self.backbone.item_model.get_all_embeddings()
        hidden = TransformerTorchBackbone.encode_sessions(self.backbone, batch, item_embs)
        return hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[2]))

    @property
    def session(self) -> int | None:
        """session_max_len, where anything of the model depends on it."""
        table = self.backbone.pos_encoding_layer.pos_emb
        if self.hstu:
            return int(self._length(self.layers[0]))
        return None if table is None else table.num_embeddings

    @staticmethod
    def _length(layer: Any) -> int:
        """The divisor that a layer was trained with."""
        return layer.rel_attn.session_max_len

    def _positioned(self, rows: Rows) -> Tensor:
        """Item vectors (B, M+L, D), scaled, with absolute positions counted back from the newest event."""
        encoding = self.backbone.pos_encoding_layer
        x = rows.x * self.scale
        if encoding.pos_emb is None:
            return x
        newest = rows.position.where(rows.valid, -1).amax(dim=1, keepdim=True)
        back = (newest - rows.position).clamp(min=0, max=encoding.pos_emb.num_embeddings - 1)  # of placeholders any
        return x + encoding.pos_emb(back)


def _bias(table: Any, events: Tensor, event: Tensor | None, bucket: Tensor | None) -> Tensor:
    """Relative bias (B, L, L) of one layer, as RecTools adds it up, by places in its tables."""
    bias = torch.zeros(events.shape, device=events.device)
    if bucket is not None:
        bias = bias + looked_up(table.time_weights, bucket)
    if event is not None:
        bias = bias + looked_up(table.pos_weights, event)
    return bias


@contextmanager
def _set(target: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)


def _width(model: Any) -> int:
    return model.item_model.get_all_embeddings().shape[1]


def moved(memory: Memory, device: torch.device | str) -> Memory:
    """A memory on a device."""
    tensors = {name: value for name, value in vars(memory).items() if isinstance(value, Tensor)}
    fields: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
    return replace(memory, **fields)


def session_events(batch: dict[str, Tensor], item_embs: Tensor) -> Events:
    """RecTools' batch of sessions: a row is asked at the time of the next one."""
    items = batch["x"]
    if "unix_ts" not in batch:
        return Events(item_embs[items], valid=items != 0, ids=items)
    times = batch["unix_ts"] * 1000
    return Events(item_embs[items], times[:, :-1], times[:, 1:], items != 0, items)
