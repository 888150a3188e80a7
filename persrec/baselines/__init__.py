"""Baselines: counts and closed forms that a model must beat, by the names that recipes use."""

from collections.abc import Callable

from persrec.baselines.baseline import Baseline
from persrec.baselines.frequency import PersonalFrequency
from persrec.baselines.linear import SLIST
from persrec.baselines.neighbours import ItemKNN
from persrec.baselines.popularity import Popular, PopularRecent
from persrec.baselines.vectors import SVD, DecayedMean

BASELINES: dict[str, Callable[..., Baseline]] = {
    "popular": Popular,
    "popular_recent": PopularRecent,
    "personal_frequency": PersonalFrequency,
    "item_knn": ItemKNN,
    "slist": SLIST,
    "decayed_mean": DecayedMean,
    "svd": SVD,
}

__all__ = ["BASELINES", "Baseline"]
