"""Any causal model as a backbone: placeholder rows in front, overwritten at the input of each layer.

Keys and values of a remembered row are functions of what its layer was given there. So a host reads a memory when rows
of anything stand in front of the events and hooks put the memory's states in their place, layer by layer; no cache of
the host's own is needed, and what is kept of the tokens is seen by the same hooks.

Shapes: B users, L rows, K tokens, M remembered rows, N layers, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models import memory as memories
from persrec.models.interfaces import Chain, Memory, Rows
from persrec.models.rows import in_front, rows_at
from persrec.models.segments import causal, fold_visible


class Host(Protocol):
    """What has to be known of a model before it can carry a memory."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The N layers, each of which is called once in a pass and is given all rows."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def masked(self) -> bool:
        """Whether `run` heeds its mask; a host that does not is causal by itself."""

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """Hidden (B, M+L, D) of M placeholder rows and the L rows after them.

        `visible`, bool (M+L, M+L), True = may attend, holds for all users; rows that are not valid stand last. A host
        with masks of each user's own is given (B, M+L, M+L), which hides what is not valid.
        """


class TokenMaps(nn.Module):
    """What token rows are given at layers 2 to N: x W + b instead of x, which fresh maps leave as it is.

    The projections of a host are made for events, and shared; a map in front of them gives its tokens, and the
    remembered rows that these become, queries, keys and values of their own, in any host.
    """

    def __init__(self, *, layers: int, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width).repeat(layers - 1, 1, 1))  # (N-1, D, D)
        self.bias = nn.Parameter(torch.zeros(layers - 1, tokens, width))  # (N-1, K, D)

    def forward(self, x: Tensor, layer: int) -> Tensor:
        """Token rows (B, c * K, D), c times all tokens in their order, at the input of a layer, counted from 0."""
        if layer == 0:
            return x
        mapped = x @ self.weight[layer - 1].to(x.dtype)
        return mapped + self.bias[layer - 1].to(x.dtype).repeat(x.shape[1] // self.bias.shape[1], 1)


class Hosted:
    """A backbone made of a host; see `Backbone`. The host is not changed, and hooks are there during a step only.

    A host takes one mask for all users, so users are run in groups of equal memory, unless it is known to take
    `own_masks`. One that takes no mask folds in two passes: events on the memory, then the tokens and what they see.
    With `maps` layers are given what these make of token rows.
    """

    chains = False

    def __init__(self, host: Host, *, own_masks: bool = False, maps: TokenMaps | None = None) -> None:
        self.host, self.own_masks, self.maps = host, own_masks, maps
        self.layers, self.width = len(host.layers), host.width

    def step(
        self,
        rows: Rows,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        visible: Tensor | None = None,
        chain: Chain | None = None,
        asked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Backbone.step`; `visible` must be the same for all users, (1, L, M+L), and `chain` None."""
        assert chain is None
        if asked is not None:
            hidden, kept = self.step(rows, memory, keep=keep, visible=visible)
            return rows_at(hidden, asked), kept
        if not rows.x.numel() and keep is None:
            return rows.x, None
        if self.own_masks:
            return self._pass(rows, memory, keep, visible)
        if bool((rows.valid[:, 1:] & ~rows.valid[:, :-1]).any()):
            raise ValueError(
                "rows of a foreign host must be padded on the right: got invalid rows in front of valid ones (no "
                "random first segment with hosts)"
            )
        if visible is not None and not self.host.masked:
            return self._two_passes(rows, memory, keep, visible)
        counts = torch.zeros_like(rows.position[:, 0]) if memory is None else memory.valid.sum(dim=1)  # (B,)
        sizes = counts.unique().tolist()
        if memory is None or len(sizes) == 1:
            return self._pass(rows, memory and memories.newest(memory, sizes[0]), keep, visible)
        groups = [(counts == size).nonzero().flatten() for size in sizes]
        found = [
            self._pass(_of(rows, users), memories.newest(memories.take(memory, users), size), keep, visible)
            for users, size in zip(groups, sizes, strict=True)
        ]
        back = torch.cat(groups).argsort()
        hidden = torch.cat([hidden for hidden, _ in found])[back]
        return hidden, None if keep is None else torch.cat([kept for _, kept in found if kept is not None])[back]

    def _two_passes(
        self, rows: Rows, memory: Memory | None, keep: Tensor | None, visible: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """A fold in two causal passes: the mask must be that of segment, events after it, tokens."""
        length, remembered = rows.x.shape[1], 0 if memory is None else memory.rows
        tokens = 0 if keep is None else len(keep)
        segment = int(visible[0, length - 1, remembered : remembered + length - tokens].sum())
        fold = fold_visible(segment, length - tokens - segment, tokens, remembered, device=visible.device)
        if keep is None or not torch.equal(visible, fold):
            raise ValueError(
                f"{type(self.host).__name__} takes no mask: got one that is not that of a fold (segment, events after "
                "it, tokens at the end); give none, or use a host that takes one"
            )
        hidden, _ = self.step(Rows(*(field[:, : length - tokens] for field in rows)), memory)
        short = Rows(*(torch.cat([field[:, :segment], field[:, length - tokens :]], dim=1) for field in rows))
        last, kept = self.step(short, memory, keep=keep - (length - tokens - segment))
        return torch.cat([hidden, last[:, segment:]], dim=1), kept

    def _pass(
        self, rows: Rows, memory: Memory | None, keep: Tensor | None, visible: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One run of the host over users whose memories have the same number of rows, all of them valid or masked."""
        length, remembered = rows.x.shape[1], 0 if memory is None else memory.rows
        square = causal(remembered + length, 0, device=rows.x.device)
        if visible is not None:
            square[remembered:] &= visible[0, :, visible.shape[2] - remembered - length :]
        if self.own_masks:
            valid = rows.valid if memory is None else torch.cat([memory.valid, rows.valid], dim=1)
            square = square & valid[:, None]
        kept: list[Tensor] = []

        def enter(layer: int, given: Tensor) -> Tensor:
            """What a layer is given instead (B, M+L, D); notes what stands at the tokens."""
            if keep is not None:
                tokens = given[:, remembered + keep]
                if layer == 0:  # whatever the host adds to its inputs, a token is itself
                    tokens = rows.x[:, keep].to(given.dtype)
                elif self.maps is not None:
                    tokens = self.maps(tokens, layer)
                given = given.index_copy(1, remembered + keep, tokens)
                kept.append(tokens)
            if memory is None or not remembered:
                return given
            return torch.cat([memory.states[:, layer].to(given.dtype), given[:, remembered:]], dim=1)

        everything = rows if memory is None else in_front(memory, rows)
        with _entering(self.host.layers, everything.x.shape, enter):
            hidden = self.host.run(everything, remembered, square)[:, remembered:]
        return hidden, None if keep is None else torch.stack([*kept, hidden[:, keep]], dim=1)


@contextmanager
def _entering(layers: Sequence[nn.Module], shape: torch.Size, enter: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """While this lasts, layers are given what `enter` makes of their inputs, which may be jagged: (B * (M+L), D)."""
    calls = [0] * len(layers)

    def hook(layer: int) -> Callable[[nn.Module, tuple, dict], tuple[tuple, dict]]:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            calls[layer] += 1
            place, given = _hidden(args, kwargs, shape)
            taken = enter(layer, given.reshape(shape)).reshape(given.shape)
            if isinstance(place, int):
                return (*args[:place], taken, *args[place + 1 :]), kwargs
            return args, kwargs | {place: taken}

        return before

    handles = [layer.register_forward_pre_hook(hook(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if any(count != 1 for count in calls):
        raise UserError(
            f"in one pass of the host its {len(layers)} layers were called {calls} times, expected once each; name the "
            "modules that take the hidden rows of all events one after the other"
        )


def _hidden(args: tuple, kwargs: dict, shape: torch.Size) -> tuple[int | str, Tensor]:
    """The argument of a layer that holds the hidden rows: the first one of as many numbers."""
    named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in named:
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() == shape.numel():
            return place, value
    raise UserError(
        f"a layer of the host was given no tensor of {tuple(shape)} hidden rows; name the modules that take the hidden "
        "rows of all events, (users, rows, width) or the same laid end to end"
    )


def _of(rows: Rows, users: Tensor) -> Rows:
    return Rows(*(field[users] for field in rows))


def installed(package: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not as a package"


def too_long(what: str, limit: int, cap: str) -> UserError:
    """The complaint about a pass that is longer than a host can take; `cap` says what sets the limit."""
    return UserError(
        f"{what} do not fit: the host takes at most {limit} ({cap}); use a smaller segment or recent, a `cap` on the "
        "remembered segments, or a host built for more"
    )
