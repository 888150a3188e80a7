"""The linear model of the probe: its features and ranks by hand, its fit against scikit-learn and known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as Reference

from persrec.probing.ridge import DECAY, LAST, Histories, Ridge, frequency_ranks, item_vectors, ranks


def log_of(*histories, catalogue=None):
    items = np.array([item for history in histories for item in history], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, histories)])
    return Histories(offsets, items, None, catalogue or int(items.max()) + 1)


def random_log(users=40, events=60, items=12, seed=0):
    random = np.random.default_rng(seed)
    return log_of(*random.integers(items, size=(users, events)).tolist(), catalogue=items)


def mean(vectors, weights=None):
    return np.average(vectors, axis=0, weights=weights) if len(vectors) else np.zeros(3)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 30), st.integers(0, 99))
def test_features_are_means_of_blocks(lengths, window, seed):
    random = np.random.default_rng(seed)
    log = log_of(*[random.integers(5, size=length) for length in lengths], catalogue=5)
    vectors = random.standard_normal((5, 3)).astype(np.float32)
    ridge = Ridge(log, vectors, (window, 7))
    found = ridge.features(np.arange(len(log.items)))
    for event in range(len(log.items)):
        past = vectors[log.items[log.start_of(np.array([event]))[0] : event]]
        last = past[-LAST:]
        expected = [mean(last, DECAY ** np.arange(len(last), 0, -1) if len(last) else None)]
        for size in (window, 7):
            expected += [mean(past[max(0, len(past) - size) :]), mean(past[: max(0, len(past) - size)])]
        assert found[event] == pytest.approx(np.concatenate([*expected, [1]]), abs=1e-5)


def test_weights_are_those_of_scikit_learn():
    log = random_log()
    vectors = np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32)
    events = np.flatnonzero(np.arange(len(log.items)) % 60 > 0)
    ridge = Ridge(log, vectors, (10,)).fit(events)
    model = ridge.model(10, 0.1, 10.0)
    features = ridge.features(events).astype(np.float64)[:, model.columns[:-1]]
    scale = np.repeat(
        [1 / np.sqrt(np.square(features[:, place : place + 3]).sum(axis=1).mean()) for place in (0, 3, 3)], 3
    )
    share = np.sqrt(np.repeat([1.0, 1.0, 10.0], 3))
    twin = Reference(alpha=0.1 * len(events) / 3).fit(features * scale / share, np.eye(12)[log.items[events]])
    expected = twin.predict(features * scale / share)
    assert ridge.scores(events, ridge.features(events), model) == pytest.approx(expected, abs=1e-4)


def test_an_item_again_is_seen_by_its_own_share():
    """Everybody has one item, again and again: no vector of three numbers tells 200 of them apart, their shares do."""
    log = log_of(*[[user] * 30 for user in range(200)])
    vectors = np.random.default_rng(1).standard_normal((200, 3)).astype(np.float32)
    place = np.arange(len(log.items)) % 30
    rows, asked = np.flatnonzero((place > 0) & (place < 25)), np.flatnonzero(place == 29)
    ridge = Ridge(log, vectors, (10,)).fit(rows)
    plain = ridge.model(10, 0.01)
    own = ridge.with_own(plain, rows)
    before, after = ridge.ranks(asked, [plain, own], exclude_seen=False)
    assert before.mean() > 1.5
    assert (after == 1).all()


def test_ranks_by_hand():
    log = log_of([2, 0, 1], catalogue=4)
    scores = np.array([[0.5, 0.4, 0.9, 0.4]])
    assert ranks(log, np.array([2]), scores.copy(), exclude_seen=False) == pytest.approx([3.5])  # 2 above, 1 tied
    assert ranks(log, np.array([2]), scores.copy(), exclude_seen=True) == pytest.approx([1.5])  # 2 and 0 were had
    again = log_of([1, 0, 1], catalogue=4)
    assert ranks(again, np.array([2]), scores.copy(), exclude_seen=True) == pytest.approx([2.5])  # the target stays in


def test_frequency_by_hand():
    log = log_of([3, 3, 0, 1, 1, 0, 3], [2, 2, 2], catalogue=5)
    asked = np.array([6])  # had before: 3 twice, 0 twice, 1 twice; all logs: 2 three times, 3, 0 and 1 twice
    known = np.arange(len(log.items)) != 6
    assert frequency_ranks(log, asked, known, None) == pytest.approx([2])  # tied with 0 and 1
    assert frequency_ranks(log, asked, known, 4) == pytest.approx([4])  # 1 and 0 twice; then 2 and 3 by popularity


def test_frequency_does_not_know_what_is_asked_for():
    """Item 3 is a target and nothing else: it is tied with all that nobody has had, 4 and 5, below the others."""
    log = log_of([0, 1, 0, 3], [1, 0, 2, 3], catalogue=6)
    known = np.array([True, True, True, False] * 2)
    assert frequency_ranks(log, np.array([3, 7]), known, None) == pytest.approx([5, 5])


def test_vectors_tell_who_stands_together():
    random = np.random.default_rng(0)
    log = log_of(*[group * 5 + random.integers(5, size=30) for group in np.arange(60) % 2])
    vectors = item_vectors(log, np.ones(len(log.items), dtype=bool), seed=0)
    near = vectors @ vectors.T
    assert near[:5, :5].mean() > near[:5, 5:].mean() + 0.5
    some = np.arange(len(log.items)) < 30
    assert not np.allclose(item_vectors(log, some, seed=0), vectors)
