"""Figures as JSON, which has no numbers for NaN and infinity: null stands for them, and is NaN again in an interval."""

import json
import math
from typing import Any, Final

INTERVAL: Final = {"mean", "low", "high"}


def dumps(value: Any) -> str:
    """Text that every reader of JSON takes."""
    return json.dumps(finite(value), indent=2, allow_nan=False)


def loads(text: str) -> Any:
    """What `dumps` wrote; infinities come back as NaN."""
    return json.loads(text, object_hook=_interval)


def finite(value: Any) -> Any:
    """The same with None for what JSON has no numbers for."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _interval(found: dict[str, Any]) -> dict[str, Any]:
    if found.keys() != INTERVAL:
        return found
    return {key: math.nan if value is None else value for key, value in found.items()}
