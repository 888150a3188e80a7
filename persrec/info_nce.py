"""InfoNCE as HLLM trains with it (arXiv 2409.12740): sampled negatives, a learned temperature, no false negatives.

Shapes: N scored rows, D width, J negatives. Queries are already divided by the temperature.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SAME = 0.99  # cosine to the target's vector from which on a negative is taken for the same thing
LARGEST_SCALE = 100.0  # that a learned 1 / temperature may reach


def info_nce(
    queries: Tensor,
    positive: Tensor,
    negative: Tensor,
    target: Tensor,
    negatives: Tensor,
    weight: Tensor,
    *,
    same: float = SAME,
) -> Tensor:
    """Cross-entropy of each target against its negatives, times `weight` (N,): (N,).

    Shapes are those of `losses.sampled_softmax`: `positive` (N, D), `negative` (J, D) or (N, J, D). Masked are
    negatives that are the row's own target, or whose vector has a cosine above `same` with the target's.
    """
    shared = negative.dim() == 2
    right = (queries * positive).sum(dim=1, keepdim=True)
    wrong = queries @ negative.T if shared else torch.einsum("nd,njd->nj", queries, negative)
    with torch.no_grad():
        wanted, against = F.normalize(positive, dim=-1), F.normalize(negative, dim=-1)
        alike = wanted @ against.T if shared else torch.einsum("nd,njd->nj", wanted, against)
        masked = (negatives == target[:, None]) | (alike > same)
    logits = torch.cat([right, wrong.masked_fill(masked, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target), reduction="none") * weight
