"""Whitening of frozen text vectors, which lie in a narrow cone and so tell items apart badly (arXiv 2402.10602).

Shapes: V items, E width of the text model.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from persrec.errors import UserError

PART = 1 << 16  # rows at a time
SMALLEST = 1e-5  # share of the largest variance below which a direction is noise
TEXTS = 8  # that a direction takes, so that its variance is known well enough to divide by it


def fitted(vectors: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """How to whiten, from some rows of the vectors (V+1, E): their mean, then what differences are multiplied by.

    (E+1, E). What is multiplied so has variance 1 along the principal components of these rows, as many as they tell
    apart, one for each TEXTS of them; along the others, where texts that were not looked at would grow out of all
    proportion, it is multiplied as along the last of these. Raises UserError where all rows are alike.
    """
    if not len(rows) or not (vectors[rows] != vectors[rows[0]]).any():
        raise UserError(
            f"items.whiten: got {len(rows):,} items of the training with a text, and all the texts alike; expected "
            "different ones: name more fields in items.template, or set items.whiten=false"
        )
    width = vectors.shape[1]
    total, products = np.zeros(width), np.zeros((width, width))
    for some in _parts(rows):
        part = vectors[some].astype(np.float64)
        total, products = total + part.sum(axis=0), products + part.T @ part
    count = len(rows)
    mean = total / count
    variance, directions = np.linalg.eigh(products / count - np.outer(mean, mean))  # the largest variance last
    least = variance[-min(width, max(1, count // TEXTS))]
    scale = 1 / np.sqrt(np.maximum(variance, max(least, SMALLEST * variance[-1])))
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
