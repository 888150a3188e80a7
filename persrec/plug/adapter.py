"""What has to be said of a host: where its layers, embeddings, times, positions and length constants are.

Shapes: B users, T columns, L rows, M remembered rows, D width.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models.hosted import installed as installed
from persrec.models.hosted import too_long as too_long
from persrec.models.interfaces import Rows


class Adapter:
    """One host. A subclass says in `run` how the host goes over rows of vectors, and in `original` what it does alone.

    `masked`: `run` heeds its mask; otherwise the host must be causal. `counts_rows`: what the host computes depends on
    how many rows there are, by a table of absolute positions, say. `scale`: what it multiplies item vectors by before
    layer 1.
    """

    masked = True
    counts_rows = False
    scale = 1.0

    def __init__(self, model: nn.Module, *, layers: Iterable[nn.Module], width: int) -> None:
        found = list(layers) if isinstance(layers, Iterable) else [layers]
        if not found or not all(isinstance(layer, nn.Module) for layer in found):
            names = sorted({type(layer).__name__ for layer in found})
            raise UserError(
                f"layers: got {', '.join(names) or 'none'}, expected the modules of the host's layers in order"
            )
        self.model, self.layers, self.width = model, found, width

    def embed(self, items: Tensor) -> Tensor:
        """Vectors (B, T, D) of item ids (B, T), before anything is added to them."""
        raise UserError(
            f"{type(self.model).__name__} has no item embeddings of its own: got ids, expected vectors (users, events, "
            f"{self.width}) and `valid` (users, events), True where there is an event"
        )

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        """Hidden (B, M+L, D) of M placeholder rows and L rows; see `Host.run`."""
        raise NotImplementedError(f"{type(self).__name__}.run: say how the host goes over rows of vectors")

    def head(self, hidden: Tensor) -> Tensor:
        """What the host makes of its last hidden rows (..., D): its own kind of output."""
        return hidden

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        """What the host itself gives for whole histories (B, T), padded on the right: its output for every column."""
        raise NotImplementedError(f"{type(self).__name__}.original: say what the host does without a compressor")

    def tables(self) -> list[nn.Parameter]:
        """Item tables, on whose rows a memory does not depend as long as its own items stay as they are."""
        return []

    def beside(self) -> nn.Module | None:
        """A module outside of the host that makes its inputs: part of what is trained and saved."""
        return None

    def items(self) -> int:
        """Ids 1 to this - 1 are items; 0 where the host takes vectors only."""
        return 0


def part(model: Any, path: str, *, known: str, package: str) -> Any:
    """The attribute of a host at a dotted path; says what was looked for and which versions have it."""
    found = model
    for depth, name in enumerate(names := path.split(".")):
        found = getattr(found, name, None)
        if found is None:
            missing = ".".join(names[: depth + 1])
            raise UserError(
                f"{type(model).__module__}.{type(model).__name__} has no attribute `{missing}` (looked for `{path}`); "
                f"known: {known}; installed: {package} {installed(package)}"
            )
    return found


@contextmanager
def evaluating(*several: nn.Module | None) -> Iterator[None]:
    """Modules without dropout while this lasts; then each part of them is as it was."""
    given = [one for one in several if one is not None]
    training = [module for one in given for module in one.modules() if module.training]
    for one in given:
        one.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
