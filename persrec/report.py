"""Tables for the terminal, from what fit, evaluate and prepare found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

Rows = Sequence[Mapping[str, Any]]


def facts_table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Two columns: what, and how much."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for what, value in rows:
        table.add_row(what, value)
    return table


def metrics_table(title: str, rows: Rows, metrics: Sequence[str]) -> Table:
    """One line per history, means over seeds; a row is a run's summary with `history`, `seed`, `seconds`, `epochs`."""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAVY, padding=(0, 1), pad_edge=False, collapse_padding=True
    )
    table.add_column("history", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right")  # the spread goes to a second line where the terminal is narrow
    for name in ("bytes/user", "epochs", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for history in dict.fromkeys(row["history"] for row in rows):
        same = [row for row in rows if row["history"] == history]
        cells = [_spread([row["metrics"][metric]["mean"] for row in same]) for metric in metrics]
        sizes, epochs, seconds = (
            np.mean([row[key] for row in same]) for key in ("bytes_per_user", "epochs", "seconds")
        )
        table.add_row(history, str(len(same)), *cells, f"{sizes:,.0f}", f"{epochs:.0f}", f"{seconds:,.0f}")
    return table


def buckets_table(title: str, rows: Rows, metric: str) -> Table:
    """One metric by number of events before the target, a column per history, means over seeds."""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAVY, padding=(0, 1), pad_edge=False, collapse_padding=True
    )
    table.add_column("events before")
    table.add_column("targets", justify="right")
    histories = list(dict.fromkeys(row["history"] for row in rows))
    for history in histories:
        table.add_column(history, justify="right")
    for place, bucket in enumerate(rows[0]["by_history_length"]):
        cells = [
            _spread([r["by_history_length"][place]["metrics"][metric]["mean"] for r in rows if r["history"] == history])
            for history in histories
        ]
        table.add_row(bucket["events"], f"{bucket['targets']:,}", *cells)
    return table


def _spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ±{np.std(values, ddof=1):.4f}"
