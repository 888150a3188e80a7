"""What is public in a log of causes: its settings, its catalogue, and all that holds for every user."""

from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from persrec.errors import UserError

CAUSES: Final = ("session", "taste", "resume", "staple", "switched", "noise")
PERSONAL: Final = CAUSES[1:5]
STAYS = 0.75  # how probable it is that a mood lasts, unless there is a staple
BROWSING, LANDING, SUCCESSORS = 60, 10, (0.4, 0.3, 0.2, 0.1)
SESSION_ENDS = 0.08
CATEGORIES, TASTES, PER_CATEGORY = 36, 6, 2
SERIES, CURRENT = 40, 4  # items that are series; how many of those seen last a user does not turn back to
STAPLES, BRANDS, SHELF, PERIODS = 4, 5, 10, (15.0, 200.0)
DOMAINS, OPTIONS, SWITCHES = 5, 6, 0.12
NOISE = 80
SHARES: Final = {"session": 0.1, "taste": 0.22, "resume": 0.22, "staple": 0.16, "switched": 0.18}  # the rest is noise
BLOCKS: Final = {
    "browse": BROWSING,
    "landing": LANDING,
    "taste": CATEGORIES * PER_CATEGORY,
    "series": SERIES,
    "staple": STAPLES * BRANDS,
    "switched": DOMAINS * OPTIONS,
    "noise": NOISE,
    "shelf": STAPLES * SHELF,
}
FIRST: Final = dict(zip(BLOCKS, accumulate(BLOCKS.values(), initial=0), strict=False))  # first item of each block
ITEMS: Final = sum(BLOCKS.values())

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Settings(NamedTuple):
    """The keys of `data.causes` in a recipe."""

    users: int = 2000
    events: int = 300  # the median of a user
    dial: float = 0.75
    series: int = 12
    only: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise UserError for a setting outside its range."""
        for name, least, most in (("users", 1, None), ("events", 4, None), ("series", 1, SERIES), ("seed", 0, None)):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                bounds = f"at least {least}" if most is None else f"{least} to {most}"
                raise UserError(f"data.causes.{name}: got {value}, expected {bounds}.")
        if not 0 <= self.dial <= 1:
            raise UserError(f"data.causes.dial: got {self.dial}, expected a share from 0 to 1.")
        if self.only is not None and self.only not in PERSONAL:
            raise UserError(f"data.causes.only: got {self.only!r}, expected null or one of {', '.join(PERSONAL)}.")


class World:
    """What is public: shares, popularities, successors, periods, the law of resuming."""

    def __init__(self, settings: Settings) -> None:
        random = np.random.default_rng([settings.seed, 0])
        shares = {cause: SHARES[cause] * settings.dial for cause in PERSONAL}
        if settings.only is not None:
            shares = {cause: sum(shares.values()) * (cause == settings.only) for cause in PERSONAL}
        self.share = {**shares, "session": SHARES["session"]}
        self.share["noise"] = 1 - sum(self.share.values())
        self.after = self._after()  # (CAUSES + 1, CAUSES)
        self.ranks = self._ranks(settings.series)  # (J,)
        self.landing = popularity(random, LANDING)
        self.taste = np.stack([popularity(random, PER_CATEGORY) for _ in range(CATEGORIES)])
        self.successors = np.stack([random.choice(BROWSING, 4, replace=False) for _ in range(ITEMS)])  # (ITEMS, 4)
        spread = (random.permutation(STAPLES) + random.random(STAPLES)) / STAPLES
        self.periods = np.round(np.exp(np.log(PERIODS[0]) + spread * np.log(PERIODS[1] / PERIODS[0]))).astype(np.int64)
        often = self.periods**-0.5
        self.staple = often / often.sum()  # (STAPLES,) shares
        each = np.maximum(self.share["staple"] * self.staple, 1e-9)
        self.waiting = (1 - each) / each  # (STAPLES,) events that a user who is ready has to wait, on average
        wide = np.exp(random.uniform(0, np.log(8), DOMAINS))
        self.domain = wide / wide.sum()  # (DOMAINS,) shares

    def _after(self) -> Floats:
        """Shares of the next event's cause, by the cause before; the last row is for the first event.

        A staple is as probable after any cause, so that when one comes says nothing about how long ago another did.
        """
        share, staple = np.array([self.share[cause] for cause in CAUSES]), CAUSES.index("staple")
        found = (1 - STAYS) * share + STAYS * (1 - share[staple]) * np.eye(len(CAUSES))
        found[:, staple] = share[staple]
        found[staple] = share
        return np.concatenate([found, share[None]])

    @staticmethod
    def _ranks(series: int) -> Floats:
        """How probable it is that the one is resumed that was seen last, the one before, and so on."""
        rank = np.arange(1.0, series + 1)
        law = np.where(rank > min(CURRENT, series - 1), rank**-1.5, 0)
        return law / law.sum()


def popularity(random: np.random.Generator, count: int) -> Floats:
    """(count,) shares that fall as 1 / rank, in random order."""
    shares = 1 / (1 + random.permutation(count))
    return shares / shares.sum()


def item_names() -> list[str]:
    """The (ITEMS,) ids, in the order of the catalogue: <block>-<number in it>, as in series-0041."""
    return [f"{block}-{number:04d}" for block, count in BLOCKS.items() for number in range(count)]
