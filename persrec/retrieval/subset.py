"""Search among some of the items: exact, however few they are and whatever index searches all of them.

Shapes: B queries, V items, C of them chosen, D width.
"""

import numpy as np
import numpy.typing as npt

from persrec.constants import PAD
from persrec.retrieval.rescoring import Additions, rescored_top_k
from persrec.retrieval.search import ExactIndex, TopK, check, top_k
from persrec.retrieval.seen import Membership

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Renumbered:
    """Seen items under other numbers: `numbers` (C+1,) has the catalogue's of each."""

    def __init__(self, seen: Membership, numbers: Ints) -> None:
        self._seen, self._numbers = seen, numbers
        self.counts = seen.counts

    def contains(self, users: Ints, items: Ints) -> npt.NDArray[np.bool_]:
        return self._seen.contains(users, self._numbers[items])


def chosen_top_k(
    index: TopK,
    chosen: Ints,
    queries: Floats,
    seen: Membership,
    additions: Additions | None,
    k: int,
    *,
    exclude_seen: bool,
    users_per_chunk: int = 1024,
) -> tuple[Ints, Floats]:
    """Items and scores (B, min(k, C)) of each query among the `chosen` items (C,), ascending; see `top_k`.

    With `additions`, what is seen is not excluded. The chosen vectors are copied, and all of them are searched.
    """
    check(index, queries, k)
    k, numbers = min(k, len(chosen)), np.concatenate([[PAD], chosen])
    among = ExactIndex(index.vectors[numbers])
    if additions is None:
        own = Renumbered(seen, numbers)
        items, scores = top_k(among, queries, own, k, exclude_seen=exclude_seen, users_per_chunk=users_per_chunk)
    else:
        place = np.zeros(len(index.vectors), dtype=np.int64)
        place[chosen] = np.arange(1, len(numbers))
        items, scores = rescored_top_k(among, queries, additions.within(place), k, users_per_chunk=users_per_chunk)
    return numbers[items], scores
