"""Small models with weights large enough for every path to matter, and ragged histories."""

from typing import Any

import torch
from torch import Tensor

from persrec.batches import Batch, History
from persrec.models.build import POOLED
from persrec.models.compressor import Looped, loop
from persrec.models.hstu import HSTU
from persrec.models.interfaces import Compressor
from persrec.models.layered import Layered
from persrec.models.pooled import SegmentMean
from persrec.models.recent import Recent
from persrec.models.recurrent import Recurrent
from persrec.models.segments import SegmentRule
from persrec.models.softmax import Softmax
from persrec.models.stack import Stack

ITEMS, WIDTH = 40, 16
KINDS = ("hstu", "sasrec", "ligr")  # of backbones


def backbone_of(kind: str, **sizes: Any) -> Stack:
    """An untrained backbone of a kind."""
    sizes = {"width": WIDTH, "heads": 2, "dropout": 0.0, **sizes}
    return HSTU(divisor=7.0, **sizes) if kind == "hstu" else Softmax(kind, **sizes)


def compressor_of(memory: str, *, tokens: int, layers: int, **options: Any) -> Compressor:
    """An untrained compressor with tokens large enough to matter."""
    sizes: dict[str, Any] = {"tokens": tokens, "width": WIDTH}
    if memory == "layered":
        sizes["layers"] = layers
    if memory == "segment_mean":
        del sizes["tokens"]
    made = {"layered": Layered, "recurrent": Recurrent, "segment_mean": SegmentMean, **POOLED}[memory](
        **sizes, **options
    )
    if isinstance(made, Layered | Recurrent):
        torch.nn.init.normal_(made.tokens)
    return made


class World:
    """A backbone, a compressor and a table of item vectors that belong together."""

    def __init__(
        self,
        *,
        segment: int,
        recent: int | None,
        tokens: int = 2,
        layers: int = 3,
        timed: bool = True,
        history: str = "compressed",
        memory: str = "layered",
        kind: str = "hstu",
        row_block: int = 128,
        recompute: bool = False,
        together: int = 8,
        seed: int = 0,
        token_options: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        torch.manual_seed(seed)
        self.rule = SegmentRule(segment, recent)
        self.together = together
        self.backbone = backbone_of(
            kind,
            layers=layers,
            exact=segment + (recent or 0),
            timed=timed,
            row_block=row_block,
            recompute=recompute,
            **dict.fromkeys(token_options, True),
        )
        for parameter in self.backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        self.compressor: Compressor = Recent(width=WIDTH, layers=layers)
        if history == "compressed":
            self.compressor = compressor_of(memory, tokens=tokens, layers=layers, **options).eval()
        self.table = torch.randn(ITEMS + 1, WIDTH, requires_grad=True)
        self.backbone.eval()

    def double(self) -> None:
        """Go on in float64."""
        self.backbone.double()
        self.compressor.double()
        self.table = self.table.detach().double().requires_grad_()

    def encode(self, items: Tensor) -> Tensor:
        return self.table[items]

    def run(self, batch: Batch, **options: Any) -> Looped:
        """Fold and read a batch; see `loop`."""
        options = {"together": self.together} | options
        return loop(self.backbone, self.compressor, self.encode, batch, self.rule, **options)

    def vectors(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.normalize(hidden, dim=-1)


def histories(events: list[int], *, seed: int = 0, shift: list[int] | None = None, time: str = "last") -> Batch:
    """A batch of random histories of the given lengths, in descending order, with `shift` columns in front."""
    random = torch.Generator().manual_seed(seed)
    count = torch.tensor(events)
    front = torch.tensor(shift or [0] * len(events))
    width = int((count + front).max())
    column = torch.arange(width)[None] - front[:, None]  # (B, T)
    valid = (column >= 0) & (column < count[:, None])
    longest = max(events) + 1
    item = torch.randint(1, ITEMS + 1, (len(events), longest), generator=random)
    gap = 10 ** torch.randint(0, 9, (len(events), longest), generator=random)
    clock = gap.cumsum(dim=1)
    inside = column.clamp(0, longest - 2)
    own, successor = clock.gather(1, inside), clock.gather(1, inside + 1)
    history = History(
        item=item.gather(1, inside) * valid,
        time=own * valid,
        query_time=(successor if time == "next" else own) * valid,
        target=item.gather(1, inside + 1) * valid,
        position=column,
        valid=valid,
    )
    return Batch(history, count + front, torch.arange(len(events)))


LENGTHS = [23, 19, 14, 9, 8, 3, 1]  # users with many segments down to a single event
