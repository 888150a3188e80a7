"""Whitening: known directions get variance 1, absent texts stay zero."""

import numpy as np
import pytest

from persrec.items import whitening
from persrec.items.whitening import fitted, whitened


@pytest.mark.parametrize("part", [1 << 16, 7])
def test_mean_0_and_variance_1_in_all_directions(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(whitening, "PART", part)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) + 10
    vectors[0] = vectors[17] = 0
    there = vectors.any(axis=1)
    found = whitened(vectors, fitted(vectors, np.flatnonzero(there)))
    assert np.abs(found[there].mean(axis=0)).max() < 1e-5
    assert np.abs(np.cov(found[there].T, bias=True) - np.eye(5)).max() < 1e-4
    assert not found[~there].any()


def test_fitted_on_some_items_and_applied_to_all() -> None:
    vectors = np.array([[0, 0], [1, 0], [-1, 0], [0, 2], [0, -2], [3, 3]], dtype=np.float32)
    found = whitened(vectors, fitted(vectors, np.array([1, 2, 3, 4])))
    assert np.allclose(np.abs(found[5]), [3 * 2**0.5, 1.5 * 2**0.5]) or np.allclose(
        np.abs(found[5]), [1.5 * 2**0.5, 3 * 2**0.5]
    )
    assert found.dtype == np.float32


def test_a_direction_without_variance_is_not_blown_up() -> None:
    random = np.random.default_rng(0)
    vectors = np.stack([random.normal(size=50), np.full(50, 3.0)], axis=1)
    found = whitened(vectors, fitted(vectors, np.arange(50)))
    assert np.abs(found).max() < 10
