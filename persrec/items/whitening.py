"""Whitening of frozen text vectors, which lie in a narrow cone and so tell items apart badly (arXiv 2402.10602).

Shapes: V items, E width of the text model.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST = 1e-5  # share of the largest variance below which a direction is noise and stays as small as it is


def whitened(
    vectors: npt.NDArray[Any], fitted_on: npt.NDArray[np.int64], there: npt.NDArray[np.bool_]
) -> npt.NDArray[Any]:
    """Vectors (V+1, E) with mean 0 and variance 1 in all directions of their principal components.

    Mean and directions are those of the rows `fitted_on`; rows that are not `there`, bool (V+1,), stay zero.
    """
    sample = vectors[fitted_on].astype(np.float64)
    mean = sample.mean(axis=0)
    centred = sample - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / max(1, len(sample)))
    scale = 1 / np.sqrt(np.maximum(variance, SMALLEST * max(variance.max(), np.finfo(np.float64).tiny)))
    found = ((vectors.astype(np.float64) - mean) @ directions * scale) * there[:, None]
    return found.astype(vectors.dtype)
