"""Whitening: known directions get variance 1, absent texts stay zero."""

import numpy as np
import pytest

from persrec.errors import UserError
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
    vectors = np.array([[0, 0], *[[1, 0], [-1, 0], [0, 2], [0, -2]] * 4, [3, 3]], dtype=np.float32)
    found = whitened(vectors, fitted(vectors, np.arange(1, 17)))
    assert np.allclose(np.abs(found[17]), [3 * 2**0.5, 1.5 * 2**0.5]) or np.allclose(
        np.abs(found[17]), [1.5 * 2**0.5, 3 * 2**0.5]
    )
    assert found.dtype == np.float32


def test_a_direction_without_variance_is_not_blown_up() -> None:
    random = np.random.default_rng(0)
    vectors = np.stack([random.normal(size=50), np.full(50, 3.0)], axis=1)
    found = whitened(vectors, fitted(vectors, np.arange(50)))
    assert np.abs(found).max() < 10


def test_few_texts_whiten_few_directions() -> None:
    """With fewer texts than directions those outside of what they span are not known to vary at all."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(80, 200)) * np.linspace(2, 0.5, 200)
    how = fitted(vectors, np.arange(80))
    near = vectors[:20] + 0.2 * random.normal(size=(20, 200))
    before, after = whitened(vectors[:20], how), whitened(near, how)
    cosine = (before * after).sum(axis=1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert cosine.min() > 0.9
    along = np.sort(whitened(vectors, how).var(axis=0))
    assert np.allclose(along[-10:], 1)  # one for each eight texts
    assert along[:-10].max() < 1 + 1e-9


@pytest.mark.parametrize("rows", [[], [3], [1, 2, 3]])
def test_texts_that_are_all_alike_have_no_directions(rows: list[int]) -> None:
    vectors = np.zeros((5, 4), dtype=np.float16)
    vectors[1:] = [1, 2, 3, 4]
    with pytest.raises(UserError, match=f"got {len(rows)} items of the training with a text, and all the texts alike"):
        fitted(vectors, np.array(rows, dtype=np.int64))
