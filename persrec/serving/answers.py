"""From what is known of users to items and scores, as frames in the users' own ids.

Shapes: B users, P pairs of a user and an item, D width.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.constants import PAD
from persrec.interactions.schema import ITEM, USER
from persrec.recipe.recipe import Recipe
from persrec.retrieval.indexes import Index
from persrec.retrieval.rescoring import Additions, rescored_top_k
from persrec.retrieval.search import top_k
from persrec.retrieval.seen import Seen

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Known(NamedTuple):
    """What is known of some users when they are asked."""

    ids: pl.Series  # (B,) the users' own
    queries: Floats  # (B, D)
    additions: Additions | None  # of a model with a repeat head
    seen: Seen


def best(known: Known, k: int, index: Index, recipe: Recipe, item_ids: pl.Series) -> pl.DataFrame:
    """The k best items of each user: `user_id, item_id, score, rank`; fewer where fewer are left."""
    evaluation = recipe.evaluation
    chunk = evaluation.users_per_chunk
    if known.additions is not None:
        items, scores = rescored_top_k(index, known.queries, known.additions, k, users_per_chunk=chunk)
    else:
        exclude = evaluation.exclude_seen
        items, scores = top_k(index, known.queries, known.seen, k, exclude_seen=exclude, users_per_chunk=chunk)
    users = len(items)
    frame = pl.DataFrame(
        {
            USER: known.ids.gather(np.repeat(np.arange(users), k)),
            ITEM: item_ids.gather(np.maximum(items.ravel() - 1, 0)),
            "score": scores.ravel(),
            "rank": np.tile(np.arange(1, k + 1), users),
        }
    )
    found = items.ravel() != PAD
    return frame if found.all() else frame.filter(pl.Series(found))


def scores(known: Known, user: Ints, item: Ints, vectors: Floats) -> Floats:
    """Scores (P,) of pairs of a user's row and an item, by item vectors (V+1, D)."""
    found = np.einsum("pd,pd->p", known.queries[user], vectors[item])
    if known.additions is None or not len(known.additions.query):
        return found
    keys = known.additions.query * len(vectors) + known.additions.item
    order = np.argsort(keys)
    wanted = user * len(vectors) + item
    place = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    added = np.where(keys[order][place] == wanted, known.additions.value[order][place], 0)
    return (found + added).astype(np.float32)


def together(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """One part after the other; ids are text where they are in any part."""
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="vertical_relaxed")
