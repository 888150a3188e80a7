"""From what is known of users to items and scores, as frames in the users' own ids.

Shapes: B users, P pairs of a user and an item, D width.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.constants import PAD
from persrec.interactions.schema import ITEM, USER
from persrec.recipe.recipe import Recipe
from persrec.retrieval.indexes import Index
from persrec.retrieval.rescoring import Additions, check_finite, discounted, products, rescored_top_k
from persrec.retrieval.search import ExactIndex, top_k
from persrec.retrieval.seen import Membership, Seen
from persrec.retrieval.several import top_k_of_several
from persrec.retrieval.subset import chosen_top_k

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
ROW: Final = "row"  # of the user among those asked


class Known(NamedTuple):
    """What is known of some users when they are asked."""

    ids: pl.Series  # (B,) the users' own
    queries: Floats  # (B, Q), Q = D, or with a text head D + E
    additions: Additions | None  # of a model with a repeat head
    seen: Membership
    slots: Floats | None = None  # (B, K, Q) more queries, of which an item's best counts


def discounting(known: Known, recipe: Recipe, temperature: float) -> Known:
    """What is known, with seen items discounted where the recipe says so."""
    odds = recipe.evaluation.seen_odds
    if odds is None:
        return known
    assert isinstance(known.seen, Seen)  # a filter stands only where seen items are excluded
    return known._replace(additions=discounted(known.additions, known.seen, odds=odds, temperature=temperature))


def best(
    known: Known, k: int, index: Index, recipe: Recipe, item_ids: pl.Series, chosen: Ints | None = None
) -> pl.DataFrame:
    """The k best items of each user, or of the `chosen` items: `user_id, item_id, score, rank`, and the user's `row`.

    There are fewer where fewer are left.
    """
    check_finite(known.queries, known.additions, known.ids.__getitem__)
    exclude, chunk = recipe.evaluation.exclude_seen, recipe.evaluation.users_per_chunk
    additions = known.additions
    options: dict[str, Any] = {"exclude_seen": exclude, "users_per_chunk": chunk}

    def search(queries: Floats, seen: Membership) -> tuple[Ints, Floats]:
        if chosen is not None:
            return chosen_top_k(index, chosen, queries, seen, additions, k, **options)
        if additions is not None:
            return rescored_top_k(index, queries, additions, k, users_per_chunk=chunk)
        return top_k(index, queries, seen, k, **options)

    if known.slots is None:
        items, scores = search(known.queries, known.seen)
    else:
        items, scores = top_k_of_several(search, np.concatenate([known.queries[:, None], known.slots], 1), known.seen)
    return listed(known.ids, items, scores, item_ids)


def popular(users: pl.Series, k: int, events: Ints, item_ids: pl.Series, chosen: Ints | None = None) -> pl.DataFrame:
    """For each user the k items, or `chosen` ones, with the most `events` (V,), which are the scores; as `best`."""
    items = np.arange(1, len(events) + 1) if chosen is None else chosen
    items = items[np.argsort(-events[items - 1], kind="stable")[:k]]
    rows = np.broadcast_to(items, (len(users), len(items)))
    return listed(users, rows, events[rows - 1].astype(np.float32), item_ids)


def listed(ids: pl.Series, items: Ints, scores: Floats, names: pl.Series) -> pl.DataFrame:
    """Rows of items (B, k) with their scores, PAD left out, as a frame."""
    users, k = items.shape
    row = np.repeat(np.arange(users), k)
    frame = pl.DataFrame(
        {
            USER: ids.gather(row),
            ITEM: names.gather(np.maximum(items.ravel() - 1, 0)),
            "score": scores.ravel(),
            "rank": np.tile(np.arange(1, k + 1), users),
            ROW: row,
        }
    )
    found = items.ravel() != PAD
    return frame if found.all() else frame.filter(pl.Series(found))


def nearest(item: Ints, k: int, vectors: Floats, names: pl.Series) -> pl.DataFrame:
    """The k items with the highest cosine to each item (B,), itself left out: `item_id, similar, score, rank`.

    `vectors` are those of all items (V+1, D). A vector of nothing but zeros has the cosine 0 with every other.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    items, cosines = top_k(ExactIndex(unit), unit[item], Seen.from_lists([*item[:, None]]), k)
    found = listed(names.gather(item - 1), items, cosines, names).drop(ROW)
    return found.rename({ITEM: "similar"}).rename({USER: ITEM})


def scores(known: Known, user: Ints, item: Ints, vectors: Floats) -> Floats:
    """Scores (P,) of pairs of a user's row and an item, by item vectors (V+1, D)."""
    check_finite(known.queries, known.additions, known.ids.__getitem__)
    found = products(vectors, known.queries, user, item)
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
