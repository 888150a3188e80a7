"""95% intervals by bootstrap over users.

Shapes: T targets, U users, Q resamples.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000

Values = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def mean(values: Values, users: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Mean of (T,) values, resampled by the user (T,) that each belongs to; NaN throughout where there are none."""
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    sums, counts = _per_user(values, users)
    draws = _draws(len(sums), seed)
    return _interval(sums.sum() / counts.sum(), (draws @ sums) / (draws @ counts))


def ratio(over: list[Values], under: list[Values], users: npt.NDArray[np.int64], *, seed: int = 0) -> Interval:
    """Mean of `over` divided by mean of `under`, paired: each is a list over seeds of (T,) values of the same targets.

    Users are resampled, and seeds too where there are several, so the interval covers both.
    """
    if len(over) != len(under) or any(len(values) != len(users) for values in over + under):
        raise ValueError(
            f"a paired ratio needs the same seeds and targets on both sides; got {len(over)} and {len(under)} seeds of "
            f"{sorted({len(values) for values in over + under})} targets for {len(users)} users"
        )
    above = np.stack([_per_user(values, users)[0] for values in over])  # (seeds, U)
    below = np.stack([_per_user(values, users)[0] for values in under])
    draws = _draws(above.shape[1], seed)
    seeds = np.random.default_rng([seed, 1]).multinomial(len(over), np.full(len(over), 1 / len(over)), RESAMPLES)
    tops, bottoms = (np.einsum("qs,qs->q", seeds, draws @ side.T) for side in (above, below))
    return _interval(above.sum() / below.sum(), tops / bottoms)


def _per_user(values: Values, users: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """Sum of values and number of targets of each user."""
    _, place = np.unique(users, return_inverse=True)
    return np.bincount(place, weights=values).astype(np.float64), np.bincount(place).astype(np.float64)


def _draws(users: int, seed: int) -> Values:
    """How often each user is in each resample: (Q, U)."""
    random = np.random.default_rng([seed, 0])
    draws = np.zeros((RESAMPLES, users))
    for row in draws:
        row += np.bincount(random.integers(0, users, users), minlength=users)
    return draws


def _interval(point: float, resampled: Values) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(point), float(low), float(high))
