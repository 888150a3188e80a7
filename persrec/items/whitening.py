"""Whitening of frozen text vectors, which lie in a narrow cone and so tell items apart badly (arXiv 2402.10602).

Shapes: V items, E width of the text model.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

PART = 1 << 16  # rows at a time
SMALLEST = 1e-5  # share of the largest variance below which a direction is noise and stays as small as it is


def fitted(vectors: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """How to whiten, from some rows of the vectors (V+1, E): their mean, then what differences are multiplied by.

    (E+1, E). What is multiplied so has variance 1 along all principal components of these rows.
    """
    width = vectors.shape[1]
    total, products = np.zeros(width), np.zeros((width, width))
    for some in _parts(rows):
        part = vectors[some].astype(np.float64)
        total, products = total + part.sum(axis=0), products + part.T @ part
    count = max(1, len(rows))
    mean = total / count
    variance, directions = np.linalg.eigh(products / count - np.outer(mean, mean))
    scale = 1 / np.sqrt(np.maximum(variance, SMALLEST * max(variance.max(), np.finfo(np.float64).tiny)))
    return np.concatenate([mean[None], directions * scale]).astype(np.float32)


def whitened(vectors: npt.NDArray[Any], whitening: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Vectors (V+1, E) whitened; rows of zeros, which stand for no text, stay zero."""
    found = np.zeros_like(vectors)
    for rows in _parts(np.flatnonzero(vectors.any(axis=1))):
        found[rows] = (vectors[rows].astype(np.float32) - whitening[0]) @ whitening[1:]
    return found


def _parts(rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Some rows after the other, so that not all of them are held twice."""
    return [rows[start : start + PART] for start in range(0, len(rows), PART)]
