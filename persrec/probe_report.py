"""What a probe found, as tables for the terminal and as a figure."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.text import Text

from persrec.errors import UserError
from persrec.probe import LENGTHS, WINDOWS, Probe
from persrec.sheets import Sheet, rich

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
COLOURS = ("#1f6f8b", "#d1793b", "#7a5195")  # by length of history
GREY = "#6b6b6b"


def shown(probe: Probe) -> Group:
    """The facts, one table per way to ask, and the advice."""
    facts = probe.facts
    head = f"{probe.name}: {facts['users']:,} users, {facts['items']:,} items, {facts['events']:,} events"
    if facts["users_sampled"] is not None:
        head += " (a sample of the users)"
    seen = f"{facts['repeat_share']:.1%} of the events repeat an item of the user; seen items are {facts['seen']}"
    asked = list(dict.fromkeys(row["asked"] for row in probe.rows))
    tables = [rich(_sheet(name, [row for row in probe.rows if row["asked"] == name])) for name in asked]
    return Group(Text(head), Text(seen), *tables, Text(str(probe.advice), style="bold"))


def figure(probe: Probe, path: Path) -> list[Path]:
    """The gains with their intervals, and when the targets were last had, as PNG and SVG; the files."""
    from matplotlib.figure import Figure

    asked = list(dict.fromkeys(row["asked"] for row in probe.rows))
    drawn = Figure(figsize=(4.2 * len(asked) + 3.8, 3.6), layout="constrained")
    axes = drawn.subplots(1, len(asked) + 1, squeeze=False)[0]
    for name, panel in zip(asked, axes[:-1], strict=True):
        _gains(panel, name, [row for row in probe.rows if row["asked"] == name])
    _ages(axes[-1], probe)
    drawn.suptitle(f"{probe.name}: what events older than the last R add", x=0.01, ha="left", fontsize=11)
    files = [path.with_suffix(ending) for ending in FORMATS]
    try:
        for file in files:
            drawn.savefig(file, dpi=150)
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written ({error.strerror}); choose another place") from error
    return files


def check_format(path: Path) -> None:
    """Raise UserError for a figure with another ending."""
    if path.suffix not in FORMATS:
        raise UserError(f"--figure {path}: got the ending {path.suffix!r}, expected .png or .svg; both are written")


def _sheet(asked: str, rows: list[dict[str, Any]]) -> Sheet:
    counted = rows[0]["frequency_all"] is not None
    head = ["events before", "R", "targets", "last R", "older adds"]
    head += ["counts in R", "in all add"] if counted else []
    cells = []
    for row in rows:
        line = [row["group"], str(row["R"]), f"{row['targets']:,}", f"{row['recent']:.4f}"]
        line.append(_change(row["gain"], row["low"], row["high"]))
        if counted:
            line.append(f"{row['frequency_recent']:.4f}")
            line.append(_change(row["frequency_gain"], row["frequency_low"], row["frequency_high"]))
        cells.append((*line, f"{row['had_earlier']:.0%}"))
    return Sheet(f"{asked}, NDCG@10", (*head, "had > R"), cells)


def _change(change: float, low: float, high: float) -> str:
    """In percent, with half the width of its 95% interval."""
    return f"{100 * change:+.1f}% ±{50 * (high - low):.1f}"


def _gains(panel: "Axes", title: str, rows: list[dict[str, Any]]) -> None:
    """One mark per length of history and R, filled for the linear model, hollow for counting."""
    panel.axhline(0, color=GREY, linewidth=0.8)
    for place, (group, _) in enumerate(LENGTHS):
        found = [row for row in rows if row["group"] == group]
        shift = 0.22 * (place - 1)
        at = np.array([WINDOWS.index(row["R"]) for row in found]) + shift
        _marks(panel, at, found, ("gain", "low", "high"), color=COLOURS[place], label=group)
        if found and found[0]["frequency_gain"] is not None:
            keys = ("frequency_gain", "frequency_low", "frequency_high")
            _marks(panel, at + 0.09, found, keys, color=COLOURS[place], mfc="white", alpha=0.7)
    panel.set_xticks(range(len(WINDOWS)), [f"R = {window}" for window in WINDOWS])
    panel.set_ylabel("change in NDCG@10, %")
    panel.set_title(title, fontsize=10, loc="left")
    panel.legend(fontsize=8, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)


def _marks(panel: "Axes", at: Any, rows: list[dict[str, Any]], keys: tuple[str, str, str], **style: Any) -> None:
    middle, low, high = (100 * np.array([row[key] for row in rows], dtype=float) for key in keys)
    panel.errorbar(at, middle, [middle - low, high - middle], fmt="o", markersize=5, capsize=2, linewidth=1.2, **style)


def _ages(panel: "Axes", probe: Probe) -> None:
    """The share of targets that the user had at most so many events ago."""
    for place, (name, ages) in enumerate(probe.ages.items()):
        had = np.sort(ages[ages > 0])
        share = 100 * np.arange(1, len(had) + 1) / len(ages)
        panel.step(had, share, where="post", color=("#222222", "#b0413e")[place], linewidth=1.4, label=name)
    for window in WINDOWS:
        panel.axvline(window, color=GREY, linewidth=0.6, linestyle=":")
    panel.set_xscale("log")
    panel.set_ylim(0, 100)
    panel.set_xlabel("events since the target was last had")
    panel.set_ylabel("targets, %")
    panel.set_title("repeats", fontsize=10, loc="left")
    panel.legend(fontsize=8, frameon=False, loc="upper left")
    panel.spines[["top", "right"]].set_visible(False)
