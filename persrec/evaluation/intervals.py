"""95% intervals by bootstrap over users, and by Student's t over seeds.

Of one seed an interval speaks of that trained model and of other users. Few seeds cannot be resampled: two or three
drawn from as many never lie outside of what was seen. So a resample of users is moved by what n seeds leave open,
t s / sqrt(n), t being drawn from Student's distribution with n - 1 degrees of freedom, s the standard deviation of
the seeds: where only seeds differ, the interval is the mean and t(0.975, n - 1) s / sqrt(n) to either side.

Shapes: T targets, U users, M metrics, Q resamples, n seeds.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
DRAWS_AT_A_TIME = 1 << 22  # users drawn, all resamples of a chunk together

Values = npt.NDArray[np.float64]
Resamples = npt.NDArray[np.float64]  # (Q,)


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def means(values: Values, users: npt.NDArray[np.int64], *, seed: int = 0) -> list[Interval]:
    """Mean of each row of (M, T) values, resampled by the user (T,) that each belongs to; NaN where there are none."""
    if not len(users):
        return [Interval(np.nan, np.nan, np.nan)] * len(values)
    sums, counts = _per_user(values, users)
    resampled = _resampled(np.vstack([sums, counts[None]]), seed)  # (Q, M + 1)
    point = sums.sum(axis=1) / counts.sum()
    return [interval(point[row], resampled[:, row] / resampled[:, -1]) for row in range(len(values))]


def mean(values: Values, users: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Mean of (T,) values; see `means`."""
    return means(values[None], users, seed=seed)[0]


def ratio(over: list[Values], under: list[Values], users: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Mean of `over` divided by mean of `under`, paired: each is a list over seeds of (T,) values of the same targets.

    The interval covers users, and seeds too where there are several.
    """
    (above, tops), (below, bottoms) = paired([over, under], users, seed=seed)
    return quotient(above, tops, below, bottoms)


def quotient(above: float, tops: Resamples, below: float, bottoms: Resamples) -> Interval:
    """A ratio and the interval of its resamples; NaN or infinite where `below` is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(np.float64(above) / below, tops / bottoms)


def paired(sides: list[list[Values]], users: npt.NDArray[np.int64], *, seed: int = 0) -> list[tuple[float, Resamples]]:
    """The mean over seeds and targets of each side, and its (Q,) resamples, drawn alike for all sides.

    A side is a list over seeds of (T,) values of the same targets. Users are resampled, and where there are several
    seeds the mean is moved as these allow; so whatever is computed from the resamples covers both.
    """
    seeds = {len(side) for side in sides}
    if len(seeds) > 1 or any(len(values) != len(users) for side in sides for values in side):
        raise ValueError(
            f"a paired comparison needs the same seeds and targets on all sides; got {[len(side) for side in sides]} "
            f"seeds of {sorted({len(values) for side in sides for values in side})} targets for {len(users)} users"
        )
    several = seeds.pop()
    stacked = np.concatenate([np.stack(side) for side in sides])  # (sides * seeds, T)
    sums, counts = _per_user(stacked, users)
    resampled = _resampled(np.vstack([sums, counts[None]]), seed)
    per_seed = (resampled[:, :-1] / resampled[:, -1:]).reshape(RESAMPLES, len(sides), several)
    points = (sums.sum(axis=1) / counts.sum()).reshape(len(sides), several)
    tops = per_seed.mean(axis=2).T + points @ _seed_weights(several, seed).T
    return [(float(point), top) for point, top in zip(points.mean(axis=1), tops, strict=True)]


def interval(point: float, resampled: Resamples) -> Interval:
    """A figure and the 95% interval of its resamples."""
    with np.errstate(invalid="ignore"):  # resamples that are not finite
        low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(point), float(low), float(high))


def _seed_weights(several: int, seed: int) -> Values:
    """Weights (Q, n) by which figures of n seeds add up to a Student's t with n - 1 degrees times s / sqrt(n); they
    add up to 0, and are alike for all sides, so that whatever seeds move alike on two of them cancels."""
    if several == 1:
        return np.zeros((RESAMPLES, 1))
    random = np.random.default_rng([seed, 1])
    normal = random.standard_normal((RESAMPLES, several))
    normal -= normal.mean(axis=1, keepdims=True)
    return normal / np.sqrt(several * random.chisquare(several - 1, (RESAMPLES, 1)))


def _per_user(values: Values, users: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """Sums (M, U) of (M, T) values, and number of targets (U,) of each user."""
    _, place, counts = np.unique(users, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(place, weights=row, minlength=len(counts)) for row in values.astype(np.float64)])
    return np.asarray(sums, dtype=np.float64), counts.astype(np.float64)


def _resampled(sums: Values, seed: int) -> Values:
    """Sums (Q, M) over as many users as there are, drawn with replacement, of (M, U) sums per user."""
    random, users = np.random.default_rng([seed, 0]), sums.shape[1]
    rows = max(1, DRAWS_AT_A_TIME // users)
    found = np.empty((RESAMPLES, len(sums)))
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        drawn = random.integers(0, users, (count, users)) + users * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users)
        found[start : start + count] = times.astype(np.float64) @ sums.T
    return found
