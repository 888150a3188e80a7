"""Points in time as people give them."""

from datetime import UTC, datetime
from typing import Any

from persrec.constants import LATEST_MS
from persrec.errors import UserError


def milliseconds(at: Any, name: str = "at") -> int:
    """Ms since 1970 of such a number, of ISO 8601 text, or of a time of Python, pandas or numpy; UTC where no zone is.

    Raises:
        UserError: it is none of these; `name` is what the person called it.
    """
    try:
        if isinstance(at, bool | float):
            raise ValueError(at)
        if isinstance(at, str) and not at.lstrip("-").isdigit():
            at = datetime.fromisoformat(at)
        if str(getattr(at, "dtype", "")).startswith("datetime64"):  # of numpy
            at = at.astype("datetime64[us]").item()
        if isinstance(at, datetime):
            at = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        moment = int(at)
        if not 0 <= moment <= LATEST_MS:
            raise ValueError(moment)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{name}: got {at!r}, expected one point in time from 1970 to 2199: ISO 8601, as in 2024-05-31T12:00, a "
            "datetime, or ms since 1970"
        ) from None
    return moment
