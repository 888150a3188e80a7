"""Bootstrap intervals: known answers, coverage, and what pairing is for."""

import numpy as np
import pytest

from persrec.evaluation.intervals import Interval, mean, ratio

USERS = np.arange(400)


def test_of_equal_values_the_interval_is_a_point() -> None:
    assert mean(np.full(10, 0.25), np.arange(10)) == Interval(0.25, 0.25, 0.25)


def test_of_nothing_it_is_nan() -> None:
    assert all(np.isnan(mean(np.zeros(0), np.zeros(0, dtype=np.int64))))


def test_the_interval_of_a_mean_is_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean(values, USERS)
    error = values.std() / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_users_are_resampled_not_targets() -> None:
    """100 copies of each user's value say nothing new."""
    values = np.random.default_rng(0).normal(size=50)
    once = mean(values, np.arange(50))
    often = mean(np.repeat(values, 100), np.repeat(np.arange(50), 100))
    assert often.low == pytest.approx(once.low)
    assert often.high == pytest.approx(once.high)


def test_the_order_of_users_and_their_numbers_do_not_matter() -> None:
    values = np.random.default_rng(0).normal(size=400)
    assert mean(values, USERS) == mean(values, USERS * 1000 + 7)


def test_95_percent_intervals_cover_the_truth_95_percent_of_the_time() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        found = mean(random.exponential(2.0, 100), np.arange(100), seed=seed)
        covered += found.low <= 2.0 <= found.high
    assert 180 <= covered <= 199  # 190 expected; 93% is usual for skewed values


def test_a_ratio_of_a_model_with_itself_is_one() -> None:
    values = np.random.default_rng(0).random(400)
    assert ratio([values, values], [values, values], USERS) == Interval(1.0, 1.0, 1.0)


def test_a_ratio_is_that_of_the_means() -> None:
    over, under = np.array([2.0, 4.0]), np.array([1.0, 1.0])
    assert ratio([over], [under], np.arange(2)) == Interval(3.0, 2.0, 4.0)


def test_pairing_takes_out_what_users_have_in_common() -> None:
    random = np.random.default_rng(0)
    easy = random.random(400) ** 4  # some users are easy for both models
    over, under = 0.9 * easy + random.normal(0, 0.01, 400), easy
    paired = ratio([over], [under], USERS)
    unpaired = ratio([over], [under[random.permutation(400)]], USERS)
    assert paired.low < 0.9 < paired.high
    assert unpaired.high - unpaired.low > 5 * (paired.high - paired.low)


def test_where_only_seeds_differ_the_interval_is_students() -> None:
    """0.8, 1 and 1.2: s is 0.2, and t of 2 degrees of freedom is 4.303."""
    over = [np.full(400, value) for value in (0.8, 1.0, 1.2)]
    found = ratio(over, [np.ones(400)] * 3, USERS)
    assert found.mean == pytest.approx(1.0)
    half = 4.303 * 0.2 / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half), abs=0.1 * half)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_the_truth_where_seeds_differ_most(seeds: int) -> None:
    """Models of different seeds are better or worse by far more than 100 users leave open."""
    random = np.random.default_rng(seeds)
    covered = 0
    for draw in range(200):
        users = random.normal(0.5, 0.05, 100)
        over = [users + effect for effect in random.normal(0, 0.1, seeds)]
        found = ratio(over, [np.ones(100)] * seeds, np.arange(100), seed=draw)
        covered += found.low <= 0.5 <= found.high
    assert 180 <= covered <= 198  # 190 expected


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_users_differ_most_seeds_hardly_change_the_interval(seeds: int) -> None:
    random = np.random.default_rng(0)
    users = random.normal(3.0, 2.0, 400)
    one, several = ([users + effect for effect in random.normal(0, 0.002, count)] for count in (1, seeds))
    alone = ratio(one, [np.ones(400)], USERS)
    found = ratio(several, [np.ones(400)] * seeds, USERS)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.03)


def test_what_seeds_do_to_both_sides_cancels() -> None:
    effects = (0.0, 0.3, 0.9)
    found = ratio(
        [np.full(400, 2 + 2 * effect) for effect in effects], [np.full(400, 1 + effect) for effect in effects], USERS
    )
    assert found == pytest.approx((2, 2, 2))


def test_unequal_sides_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs the same seeds and targets on all sides; got \[2, 1\] seeds"):
        ratio([np.ones(4), np.ones(4)], [np.ones(4)], np.arange(4))
    with pytest.raises(ValueError, match=r"of \[3, 4\] targets for 4 users"):
        ratio([np.ones(4)], [np.ones(3)], np.arange(4))
