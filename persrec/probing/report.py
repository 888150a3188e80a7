"""What a probe found, as tables for the terminal and as a figure."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.text import Text

from persrec.errors import UserError
from persrec.evaluation.sheets import Sheet, rich
from persrec.probing.study import LENGTHS, WINDOWS, Probe

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
    signs = (
        "[ ]: 95% intervals; had > R: share of the targets whose item the user last had so long ago; certain is what "
        "lies more than three standard errors above 0, as many figures are looked at"
    )
    return Group(Text(head), Text(seen), *tables, *[Text(signs)] * bool(tables), Text(str(probe.advice), style="bold"))


def figure(probe: Probe, path: Path) -> list[Path]:
    """The gains with their intervals, and when the targets were last had, as PNG and SVG; the files."""
    if not probe.rows:
        raise UserError(f"--figure {path}: there is nothing to draw: {probe.advice.reason}")
    from matplotlib.figure import Figure

    asked = list(dict.fromkeys(row["asked"] for row in probe.rows))
    counted = any(row["frequency_all"] is not None for row in probe.rows)
    size = (4.0 * len(asked) + 3.6 * counted, 3.4 + 2.6 * counted)
    drawn = Figure(figsize=size, layout="constrained")
    panels = drawn.subplots(1 + counted, len(asked) + counted, squeeze=False)
    for place, name in enumerate(asked):
        rows = [row for row in probe.rows if row["asked"] == name]
        _gains(panels[0, place], name, rows, ("gain", "low", "high"), "a linear model gains, %")
        if counted:
            keys = ("frequency_gain", "frequency_low", "frequency_high")
            _gains(panels[1, place], "", rows, keys, "counting gains, %")
    if counted:
        _ages(panels[0, -1], probe)
        panels[1, -1].axis("off")
    marks = {
        name: mark
        for panel in panels[:, : len(asked)].flat
        for mark, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(
        marks.values(), marks, title="events before the target", loc="outside lower center", ncols=3, frameon=False
    )
    title = f"{probe.name}: what events older than the last R add (NDCG@10)"
    drawn.suptitle(textwrap.fill(title, int(11 * size[0])), fontsize=12)
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
    counted = any(row["frequency_all"] is not None for row in rows)
    head = ["before", "R", "targets", "last R", "older adds"]
    head += ["count R", "all adds"] if counted else []
    cells = []
    for row in rows:
        line = [row["group"], str(row["R"]), f"{row['targets']:,}", f"{row['recent']:.4f}"]
        line.append(_change(row["gain"], row["low"], row["high"]))
        if counted:
            line += _counted(row)
        cells.append((*line, f"{row['had_earlier']:.0%}"))
    return Sheet(f"{asked}: NDCG@10 by events before it", (*head, "had > R"), cells)


def _counted(row: dict[str, Any]) -> list[str]:
    if row["frequency_all"] is None:
        return ["", ""]
    return [
        f"{row['frequency_recent']:.4f}",
        _change(row["frequency_gain"], row["frequency_low"], row["frequency_high"]),
    ]


def _change(change: float, low: float, high: float) -> str:
    """In percent, with its 95% interval."""
    return f"{100 * change:+.1f}% [{100 * low:+.1f}, {100 * high:+.1f}]"


def _gains(panel: "Axes", title: str, rows: list[dict[str, Any]], keys: tuple[str, str, str], label: str) -> None:
    """One mark with its 95% interval per length of history and R."""
    panel.axhline(0, color=GREY, linewidth=0.8)
    for place, (group, _) in enumerate(LENGTHS):
        found = [row for row in rows if row["group"] == group]
        if not found:
            continue
        at = [WINDOWS.index(row["R"]) + 0.2 * (place - 1) for row in found]
        middle, low, high = (100 * np.array([row[key] for row in found], dtype=float) for key in keys)
        bars = [middle - low, high - middle]
        panel.errorbar(at, middle, bars, fmt="o", markersize=5, capsize=3, color=COLOURS[place], label=group)
    panel.set_xticks(range(len(WINDOWS)), [f"R = {window}" for window in WINDOWS])
    panel.set_xlim(-0.5, len(WINDOWS) - 0.5)
    panel.set_ylabel(label)
    panel.set_title(title, fontsize=11, loc="left")
    panel.spines[["top", "right"]].set_visible(False)


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
    panel.set_xlabel("events since the user had the target")
    panel.set_ylabel("targets, %")
    panel.set_title("repeats", fontsize=11, loc="left")
    panel.legend(fontsize=9, frameon=False, loc="upper left")
    panel.spines[["top", "right"]].set_visible(False)
