"""The repeat head: a second, learned way to score items that the user has had before.

Shapes: N rows, P pairs of a row and an item that its user has had, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec.consumption import Consumed
from persrec.models.attention import TIME_BUCKETS, position_bucket, position_buckets, time_bucket

EXACT = 32  # events ago that are told apart one by one


class RepeatHead(nn.Module):
    """The logit of an item as something to repeat, by how often it was consumed, and how many events and ms ago.

    level(h) + slopes(h) * (log(frequency), log(strength)) + of_item + by_distance[bucket] + by_time[bucket]; level and
    slopes are linear in the normalised hidden row, of_item is a number per item: some are bought again, some are not.
    It starts as log(frequency).

    The odds of repeating come on top of those by which the model would choose the item anyway:
    exp(logit) = exp(product) + exp(repeat), so log(1 + exp(repeat - product)) is added to the product of query and
    item. What a user has had often then ranks by counts, whatever the model thinks of it, and what was had once by
    both; a sum of the two logits can not say that. (Modes of repeating and exploring that are mixed: RepeatNet, arXiv
    1812.02646; counts with decay: TIFU-kNN, arXiv 2006.00556.)
    """

    def __init__(self, *, width: int, items: int, timed: bool) -> None:
        super().__init__()
        self.of_row = nn.Linear(width, 3)
        self.item_bias = nn.Parameter(torch.zeros(items + 1))
        self.distance_bias = nn.Parameter(torch.zeros(position_buckets(EXACT)))
        self.time_bias = nn.Parameter(torch.zeros(TIME_BUCKETS)) if timed else None
        nn.init.zeros_(self.of_row.weight)
        self.of_row.bias.data = torch.tensor([0.0, 1.0, 0.0])

    def forward(self, hidden: Tensor, had: Consumed, product: Tensor) -> Tensor:
        """What is added (P,) to the products (P,) of queries and items, for the pairs, whose `row` is the row of
        `hidden` (N, D)."""
        level, often, strong = self.of_row(F.layer_norm(hidden, hidden.shape[-1:])).unbind(dim=-1)  # (N,) each
        logit = level[had.row] + often[had.row] * had.frequency.to(level.dtype).log()
        logit = logit + strong[had.row] * had.strength.to(level.dtype).log() + self.item_bias[had.item]
        logit = logit + self.distance_bias[position_bucket(had.distance, EXACT)]
        if self.time_bias is not None:
            logit = logit + self.time_bias[time_bucket(had.elapsed)]
        return F.softplus(logit - product)
