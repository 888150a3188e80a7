"""Scores of pairs."""

import tracemalloc

import numpy as np
import polars as pl

from persrec.retrieval.seen import Seen
from persrec.serving.answers import Known, scores


def test_a_million_scores_take_little_memory() -> None:
    random = np.random.default_rng(0)
    queries, vectors = (random.normal(size=(1000, 64)).astype(np.float32) for _ in range(2))
    known = Known(pl.Series(range(1000)), queries, None, Seen.from_lists([]))
    user, item = random.integers(0, 1000, (2, 1_000_000))
    tracemalloc.start()
    found = scores(known, user, item, vectors)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200e6, "the rows of all pairs would take 512 MB"
    some = random.integers(0, 1_000_000, 1000)
    assert np.allclose(found[some], (queries @ vectors.T)[user[some], item[some]], atol=1e-4)
