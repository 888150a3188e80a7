"""What a log is like: counts, ties, repeats, span, and whether there is anything to compress."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from persrec.interactions.schema import ITEM, TIME, USER

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

    def with_segments(self, events: pl.LazyFrame, *, segment: int, recent: int, length: int | None) -> "Facts":
        """Also how many users have m = max(0, (n - R) // S) >= 1 over their last `length` events."""
        seen = pl.len() if length is None else pl.len().clip(upper_bound=length)
        lengths = events.group_by(USER).agg(seen.alias("events"))
        with_memory = lengths.filter(pl.col("events") >= segment + recent).select(pl.len()).collect().item()
        return replace(self, segment=segment, recent=recent, length=length, users_with_memory=int(with_memory))


def facts_of(events: pl.LazyFrame, *, duplicates: int, filtered: int) -> Facts:
    """The facts of an ordered log in numbers (users 0.., items 1.., no gaps)."""
    lengths = events.group_by(USER).agg(pl.len().alias("events"))
    per_user = lengths.select(
        pl.len().alias("users"),
        pl.col("events").sum(),
        pl.col("events").median().alias("median"),
        pl.col("events").max().alias("max"),
    )
    counts = per_user.collect().row(0, named=True)
    timed = TIME in events.collect_schema().names()
    return Facts(
        users=counts["users"],
        items=int(events.select(pl.col(ITEM).max()).collect().item()),
        events=counts["events"],
        duplicates_dropped=duplicates,
        filtered_dropped=filtered,
        median_events=float(counts["median"]),
        max_events=counts["max"],
        ties=_ties(events) if timed else None,
        repeats=_repeats(events),
        first_time=_moment(events, pl.col(TIME).min()) if timed else None,
        last_time=_moment(events, pl.col(TIME).max()) if timed else None,
    )


def _ties(events: pl.LazyFrame) -> int:
    same = (pl.col(USER) == pl.col(USER).shift()) & (pl.col(TIME) == pl.col(TIME).shift())
    tied = same.fill_null(False) | same.shift(-1).fill_null(False)
    return int(events.select(tied.sum()).collect().item())


def _repeats(events: pl.LazyFrame) -> int:
    pair = pl.col(USER).cast(pl.Int64) * 2**32 + pl.col(ITEM)
    return int(events.select((pair.sort().diff() == 0).sum()).collect().item())


def _moment(events: pl.LazyFrame, time: pl.Expr) -> str:
    moment = time.cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%d %H:%M:%S")
    return str(events.select(moment).collect().item())
