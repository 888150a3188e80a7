"""A small log and small models of RecTools."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel

from persrec.plug.rectools import compressed as arguments

KINDS = {"HSTUModel": HSTUModel, "SASRecModel": SASRecModel}


def log(users: int = 12, *, longest: int = 34) -> pd.DataFrame:
    """Histories of 3 to `longest` events."""
    random = np.random.default_rng(0)
    counts = random.integers(3, longest, users)
    counts[0] = longest
    seconds = np.concatenate([np.cumsum(random.integers(60, 10**5, count)) for count in counts])
    return pd.DataFrame(
        {
            "user_id": np.repeat([f"u{user}" for user in range(users)], counts),
            "item_id": random.integers(100, 130, counts.sum()),
            "weight": 1.0,
            "datetime": pd.Timestamp("2020-01-01") + pd.to_timedelta(seconds, unit="s"),
        }
    )


def context(frame: pd.DataFrame) -> pd.DataFrame:
    """Everybody asked at the same time."""
    users = frame["user_id"].unique()
    return pd.DataFrame({"user_id": users, "datetime": pd.Timestamp("2021-01-01"), "weight": 1.0})


def build(kind: str, *, compressed: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A model that is not fitted yet."""
    shape = {
        "n_blocks": 3,
        "n_heads": 2,
        "n_factors": 16,
        "session_max_len": 24,
        "epochs": 1,
        "lr": 0.01,
        "recommend_torch_device": "cpu",
    }
    padding = {"use_key_padding_mask": True} if kind == "SASRecModel" else {}
    return KINDS[kind](**shape | padding | changes, **(arguments(**compressed) if compressed else {}))


def fitted(kind: str, *, compressed: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A model fitted on the log."""
    model = build(kind, compressed=compressed, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and loggers
        model.fit(Dataset.construct(log()))
    return model
