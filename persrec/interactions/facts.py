"""What a log is like: counts, ties, repeats, span, and whether there is anything to compress."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.interactions.schema import ITEM, TIME, USER

Ints = npt.NDArray[np.int64]

SMALL_SHARE = 0.1  # of users with closed segments, below which compression can hardly show


@dataclass(frozen=True)
class Facts:
    """Of the log as it is prepared. Ties and repeats are events; shares are of `events`."""

    users: int
    items: int
    events: int
    duplicates_dropped: int
    filtered_dropped: int  # by the k-core
    median_events: float  # per user
    max_events: int
    ties: int | None  # events with the same time as another event of the same user; None without times
    repeats: int  # events whose item the same user had before
    first_time: str | None  # UTC
    last_time: str | None
    segment: int | None = None
    recent: int | None = None
    length: int | None = None
    users_with_memory: int | None = None  # m >= 1 under the segment rule

    def as_dict(self) -> dict[str, Any]:
        """The facts of the log alone."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def warnings(self) -> list[str]:
        """Sentences a person should read before training."""
        found = []
        if self.users_with_memory is not None and self.users_with_memory < SMALL_SHARE * self.users:
            found.append(
                f"only {self.users_with_memory:,} of {self.users:,} users "
                f"({self.users_with_memory / self.users:.1%}) have m >= 1 closed segments at S={self.segment}, "
                f"R={self.recent}: for the others compressed, recent and full are the same."
            )
        if self.ties is not None and self.ties > 0.2 * self.events:
            found.append(
                f"{self.ties / self.events:.0%} of the events share their time with another event of the same user: "
                "their order is that of the file."
            )
        return found

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) pairs for a table."""
        found = [
            ("users", f"{self.users:,}"),
            ("items", f"{self.items:,}"),
            ("events", f"{self.events:,}"),
            ("events per user, median / max", f"{self.median_events:g} / {self.max_events:,}"),
            ("exact duplicates dropped", f"{self.duplicates_dropped:,}"),
            ("dropped by the k-core", f"{self.filtered_dropped:,}"),
            ("ties in time", "no times" if self.ties is None else f"{self.ties:,} ({self.ties / self.events:.1%})"),
            ("repeats", f"{self.repeats:,} ({self.repeats / self.events:.1%})"),
            ("span", "no times" if self.first_time is None else f"{self.first_time} to {self.last_time} UTC"),
        ]
        if self.users_with_memory is not None:
            share = f"{self.users_with_memory:,} ({self.users_with_memory / self.users:.1%})"
            found.append((f"users with m >= 1 (S={self.segment}, R={self.recent})", share))
        return found

    def with_segments(self, lengths: Ints, *, segment: int, recent: int, length: int | None) -> "Facts":
        """Also how many users, of so many events each, have m = max(0, (n - R) // S) >= 1 over their last `length`."""
        read = lengths if length is None else np.minimum(lengths, length)
        with_memory = int((read >= segment + recent).sum())
        return replace(self, segment=segment, recent=recent, length=length, users_with_memory=with_memory)


def facts_of(parts: Iterable[pl.DataFrame], *, duplicates: int, filtered: int) -> Facts:
    """The facts of an ordered log in numbers (users 0.., items 1.., no gaps), of which no user stands in two parts."""
    lengths, items, ties, repeats = [np.zeros(0, dtype=np.int64)], 0, 0, 0
    moments: list[Any] = []
    for part in parts:
        lengths.append(part.group_by(USER).agg(pl.len().cast(pl.Int64).alias("events"))["events"].to_numpy())
        items = max(items, _whole(part, pl.col(ITEM).max()))
        repeats += _repeats(part)
        if TIME in part.columns:
            ties += _ties(part)
            moments += part.select(pl.col(TIME).min().alias("first"), pl.col(TIME).max().alias("last")).row(0)
    every = np.concatenate(lengths)
    return Facts(
        users=len(every),
        items=items,
        events=int(every.sum()),
        duplicates_dropped=duplicates,
        filtered_dropped=filtered,
        median_events=float(np.median(every)),
        max_events=int(every.max()),
        ties=ties if moments else None,
        repeats=repeats,
        first_time=_moment(min(moments)) if moments else None,
        last_time=_moment(max(moments)) if moments else None,
    )


def _ties(part: pl.DataFrame) -> int:
    same = (pl.col(USER) == pl.col(USER).shift()) & (pl.col(TIME) == pl.col(TIME).shift())
    return _whole(part, (same.fill_null(False) | same.shift(-1).fill_null(False)).sum())


def _repeats(part: pl.DataFrame) -> int:
    pair = pl.col(USER).cast(pl.Int64) * 2**32 + pl.col(ITEM)
    return _whole(part, (pair.sort().diff() == 0).sum())


def _whole(part: pl.DataFrame, number: pl.Expr) -> int:
    return int(part.select(number).item())


def _moment(time: int) -> str:
    return str(pl.Series([time]).cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%d %H:%M:%S")[0])
