"""What holds for every baseline, on a world of two halves: users of one half have never had an item of the other."""

import dataclasses

import numpy as np
import pytest

from persrec.baselines import BASELINES, Baseline
from persrec.prepared import Prepared
from tests.baselines.worlds import DAY, HALF, asked, two_halves

WORLD = two_halves()
QUERIES = asked(*((user, 9) for user in range(10) if user != 1), (1, 14), (2, 12), (2, 11), (10, 2))
OF_NEIGHBOURS = ("item_knn", "slist", "decayed_mean", "svd")  # those that learn which items belong together
UNTIMED = [name for name in BASELINES if name != "popular_recent"]


@pytest.fixture(params=BASELINES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def fitted(name: str, data: Prepared = WORLD) -> Baseline:
    baseline = BASELINES[name]()
    baseline.fit(data)
    return baseline


def test_a_score_for_every_item(name: str) -> None:
    scores = fitted(name).scores(WORLD, QUERIES)
    assert scores.shape == (len(QUERIES.user), WORLD.items_count + 1)
    assert scores.dtype == np.float32
    assert np.isneginf(scores[:, 0]).all(), "padding is never recommended"
    assert np.isfinite(scores[:, 1:]).all()


@pytest.mark.parametrize("name", OF_NEIGHBOURS)
def test_items_of_the_users_half_come_first(name: str) -> None:
    scores = fitted(name).scores(WORLD, QUERIES)
    for row, (user, end) in enumerate(zip(QUERIES.user[:10], QUERIES.end, strict=False)):
        half = set(range(1, HALF + 1)) if user % 2 == 0 else set(range(HALF + 1, 2 * HALF + 1))
        last = int(WORLD.items[WORLD.offsets[user] + end - 1])
        others = [item for item in range(1, WORLD.items_count + 1) if item not in half]
        assert scores[row, sorted(half - {last})].min() > scores[row, others].max()


@pytest.mark.parametrize("time", ["none", "last", "next"])
def test_the_future_changes_nothing(name: str, time: str) -> None:
    """Neither what comes after training changes the fit, nor what comes after a query its scores."""
    queries = asked(*((user, WORLD.train_end[user]) for user in range(10) if user != 1))
    place = np.arange(len(WORLD.items)) - np.repeat(WORLD.offsets[:-1], np.diff(WORLD.offsets))
    end = np.repeat(WORLD.train_end, np.diff(WORLD.offsets))
    future, told = place >= end, place >= end + (time == "next")
    assert WORLD.times is not None
    other = dataclasses.replace(
        WORLD, items=np.where(future, 3, WORLD.items), times=np.where(told, WORLD.times + 9 * DAY, WORLD.times)
    )
    before = fitted(name).scores(WORLD, queries, time=time)
    np.testing.assert_array_equal(before, fitted(name, other).scores(other, queries, time=time))


def test_a_query_knows_validation_events_but_none_later(name: str) -> None:
    last = WORLD.offsets[2] + 11
    other = dataclasses.replace(WORLD, items=WORLD.items.copy())
    other.items[last] = 7
    baseline = fitted(name)
    same = [baseline.scores(data, asked((2, 11))).tolist() for data in (WORLD, other)]
    assert same[0] == same[1]


def test_a_query_depends_on_no_other(name: str) -> None:
    baseline = fitted(name)
    together = baseline.scores(WORLD, QUERIES)
    order = np.arange(len(QUERIES.user))[::-1]
    np.testing.assert_allclose(baseline.scores(WORLD, QUERIES.take(order))[order], together, atol=1e-6)
    for row in range(len(order)):
        alone = baseline.scores(WORLD, QUERIES.take(slice(row, row + 1)))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_two_fits_are_the_same_to_the_last_bit(name: str) -> None:
    one, other = (fitted(name).scores(WORLD, QUERIES) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", UNTIMED)
def test_what_has_nothing_to_say_goes_by_popularity(name: str) -> None:
    """User 10 has had item 12 alone, which no training event is of (popular of late is the same to everybody)."""
    scores = fitted(name).scores(WORLD, asked((10, 2)))[0]
    rest = np.arange(1, WORLD.items_count)
    popularity = WORLD.training_events_per_item[rest]
    for low, high in zip(np.argsort(popularity)[:-1], np.argsort(popularity)[1:], strict=True):
        assert np.sign(scores[rest[high]] - scores[rest[low]]) == np.sign(popularity[high] - popularity[low])
    assert (scores[12] > scores[rest].max()) == (name == "personal_frequency")


def test_items_without_training_events_come_last_and_tied(name: str) -> None:
    scores = fitted(name).scores(WORLD, asked((0, 9)))[0]
    assert scores[11] == scores[12] == scores[1:].min()
    assert (scores[1:11] > scores[11]).all()


@pytest.mark.parametrize("name", UNTIMED)
def test_logs_without_times_will_do(name: str) -> None:
    untimed = dataclasses.replace(WORLD, times=None)
    scores = fitted(name, untimed).scores(untimed, QUERIES, time="none")
    np.testing.assert_array_equal(scores, fitted(name).scores(WORLD, QUERIES, time="none"))
