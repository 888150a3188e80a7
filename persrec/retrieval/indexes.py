"""Approximate search by faiss, by the names that recipes use; set to exact, each finds what `ExactIndex` finds.

B queries, V items, D width. Building is done by one thread, so that the same vectors make the same index.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from persrec.constants import PAD
from persrec.errors import UserError
from persrec.retrieval.search import ExactIndex, TopK, check, checked_vectors

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

CODES = 256  # values of one byte of a code: as many items are needed to learn them
CODE_BYTES = 16  # of an item, unless said otherwise


class Index(TopK, Protocol):
    """A TopK that knows its size."""

    @property
    def nbytes(self) -> int:
        """Of the index, beside the item vectors of the model."""


class HNSW:
    """A graph of near items (Malkov and Yashunin 2018), walked from a few of them towards the query.

    `links` per item and layer; `breadth` candidates are kept on the way. As many as there are items: all are looked at.
    """

    def __init__(self, vectors: Floats, *, links: int = 32, build_breadth: int = 200, breadth: int = 128) -> None:
        faiss = _faiss()
        self.vectors, self.breadth = checked_vectors(vectors), breadth
        self._index = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = build_breadth
        with _one_thread():
            self._index.add(self.vectors[1:])

    @property
    def nbytes(self) -> int:
        return _size(self._index)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        faiss = _faiss()
        check(self, queries, k)
        breadth = max(self.breadth, _power_of_two(k))
        if breadth >= len(self.vectors) - 1:  # the walk would have to reach every item: without it, it surely does
            return _filled(*self._index.storage.search(_as_floats(queries), k))
        parameters = faiss.SearchParametersHNSW(efSearch=breadth)
        return _filled(*self._index.search(_as_floats(queries), k, params=parameters))


class IVF:
    """Items in `lists` around the centres of a k-means, of which the `probes` nearest to a query are searched.

    `lists` None is about the square root of V. Probing all lists is exact.
    """

    def __init__(self, vectors: Floats, *, lists: int | None = None, probes: int = 8) -> None:
        faiss = _faiss()
        self.vectors, self.probes = checked_vectors(vectors), probes
        width, count = vectors.shape[1], _lists(lists, len(vectors) - 1)
        centres = faiss.IndexFlatIP(width)
        self._index = _trained(faiss.IndexIVFFlat(centres, width, count, faiss.METRIC_INNER_PRODUCT), self.vectors)

    @property
    def nbytes(self) -> int:
        return _size(self._index)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        check(self, queries, k)
        return _filled(*_probe(self._index, queries, k, self.probes))


class IVFPQ:
    """As `IVF`, each item kept as a code of `code_bytes` (product quantisation, Jegou et al. 2011).

    Codes choose `rescore` times as many candidates as are asked for; their exact scores, by the vectors, decide.
    Probing all lists and rescoring all items is exact. `nbytes` are those of lists and codes, without the vectors.
    """

    def __init__(
        self,
        vectors: Floats,
        *,
        lists: int | None = None,
        probes: int = 8,
        code_bytes: int = CODE_BYTES,
        rescore: int = 4,
    ) -> None:
        faiss = _faiss()
        self.vectors, self.probes, self.rescore = checked_vectors(vectors), probes, rescore
        width, items = vectors.shape[1], len(vectors) - 1
        _check_codes(items, width, code_bytes)
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFPQ(centres, width, _lists(lists, items), code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid = 1  # few points per centre are said on stderr otherwise
        self._index = _trained(index, self.vectors)

    @property
    def nbytes(self) -> int:
        return _size(self._index)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        check(self, queries, k)
        depth = min(self.rescore * _power_of_two(k), len(self.vectors) - 1)
        _, items = _filled(*_probe(self._index, queries, depth, self.probes))
        scores = np.empty(items.shape, np.float32)
        for row, (query, own) in enumerate(zip(_as_floats(queries), items, strict=True)):
            scores[row] = self.vectors[own] @ query
        scores[items == PAD] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(items, best, axis=1)


INDEXES: dict[str, Callable[..., Index]] = {"flat": ExactIndex, "hnsw": HNSW, "ivf": IVF, "ivf_pq": IVFPQ}


class Quality(NamedTuple):
    """What an index finds and costs."""

    recall: float  # share of the k best items that it finds
    milliseconds: float  # per query, of a batch of all of them, with as many threads as the library takes
    nbytes: int
    exact_milliseconds: float  # the same of exact search
    exact_nbytes: int


def measure(index: Index, queries: Floats, k: int) -> Quality:
    """Recall@k of queries (B, D) against exact search, time per query and bytes of both; `index` is of this module."""
    exact = ExactIndex(index.vectors)
    best, exactly = _timed(exact, queries, k)
    items, took = _timed(index, queries, k)
    found = [len(np.intersect1d(one, other)) for one, other in zip(best, items, strict=True)]
    return Quality(float(np.mean(found)) / k, took, index.nbytes, exactly, exact.nbytes)


def _timed(index: Index, queries: Floats, k: int) -> tuple[Ints, float]:
    """The items that an index finds, and milliseconds per query."""
    start = time.perf_counter()
    _, items = index.search(queries, k)
    return items, 1000 * (time.perf_counter() - start) / len(queries)


def check_index(kind: str, options: Mapping[str, Any], *, items: int, width: int) -> None:
    """Raise UserError where no such index can be made of so many items' vectors."""
    if kind in ("ivf", "ivf_pq"):
        _lists(options.get("lists"), items)
    if kind == "ivf_pq":
        _check_codes(items, width, options.get("code_bytes", CODE_BYTES))


def _check_codes(items: int, width: int, code_bytes: int) -> None:
    if items < CODES:
        raise UserError(
            f"retrieval.kind: got ivf_pq for {items:,} items, expected at least {CODES}, from which its codes are "
            "learned; use flat, which is as fast for so few"
        )
    if width % code_bytes:
        raise UserError(f"retrieval.code_bytes: got {code_bytes}, expected a divisor of the vectors' width {width}")


def _lists(lists: int | None, items: int) -> int:
    if lists is not None and lists > items:
        raise UserError(f"retrieval.lists: got {lists:,}, expected at most {items:,}, the number of items")
    return lists or max(1, round(items**0.5))


def _trained(index: Any, vectors: Floats) -> Any:
    """A faiss index that has learned from all vectors and holds them."""
    index.cp.min_points_per_centroid = 1  # as in a small catalogue; said on stderr otherwise
    with _one_thread():
        index.train(vectors[1:])
        index.add(vectors[1:])
    return index


def _probe(index: Any, queries: Floats, k: int, probes: int) -> tuple[Floats, Ints]:
    faiss = _faiss()
    parameters = faiss.SearchParametersIVF(nprobe=min(probes, index.nlist))
    scores, places = index.search(_as_floats(queries), k, params=parameters)
    return scores, places


def _filled(scores: Floats, places: Ints) -> tuple[Floats, Ints]:
    """Items for places in the index; faiss gives -1 where it found too few."""
    return np.where(places < 0, -np.inf, scores).astype(np.float32), places + 1


def _power_of_two(k: int) -> int:
    """The next power of two above k, so that those who are searched together ask for the same."""
    return 1 << k.bit_length()


def _as_floats(queries: Floats) -> Floats:
    return np.ascontiguousarray(queries, dtype=np.float32)


def _size(index: Any) -> int:
    return int(_faiss().serialize_index(index).nbytes)


def _faiss() -> Any:
    import faiss  # here, as it costs half a second that only searches should pay

    return faiss


@contextmanager
def _one_thread() -> Iterator[None]:
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
