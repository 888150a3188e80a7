"""Figures of a report: each function takes plain numbers and returns a matplotlib Figure.

They are narrow, so that a phone shows them without shrinking the text, and their colours are seen on white and on
black: `inline` leaves background and ink to the page.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from persrec.evaluation.intervals import Interval

WIDTH = 4.8  # inches
INK, PALE = "#30343b", "#8b9097"  # of text and axes, of lines that help; the first becomes the page's text colour
COLOURS = {"full": "#3f86c9", "recent": "#d9772b", "compressed": "#2a9d6f"}
OTHERS = ("#9a6fb0", "#b0747a", "#7f8c3a", "#8b9097", "#a3823f", "#5f8f95")  # of baselines
MARKS, LINES = "osD^vP", ("-", "--", ":", "-.")  # of recipes
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "persrec",
}

Given = ParamSpec("Given")
Floats = npt.NDArray[Any]


class Look(NamedTuple):
    """How a side is drawn, alike in all figures."""

    colour: str
    mark: str
    line: str


class Curve(NamedTuple):
    """One run's training: epochs counted from 1."""

    side: str
    epochs: list[int]
    quality: list[float]  # on the validation targets
    losses: list[tuple[float, float]]  # (epochs done, mean loss)


def looks(sides: Sequence[tuple[str, str, str]]) -> dict[str, Look]:
    """Of sides given as (name, history, recipe): colour by history, mark and line by recipe."""
    recipes = list(dict.fromkeys(recipe for *_, recipe in sides))
    plain = [name for name, history, _ in sides if history not in COLOURS]
    found = {}
    for name, history, recipe in sides:
        colour = COLOURS.get(history) or OTHERS[plain.index(name) % len(OTHERS)]
        place = recipes.index(recipe)
        found[name] = Look(colour, MARKS[place % len(MARKS)], LINES[place % len(LINES)])
    return found


def _styled(draw: Callable[Given, Figure]) -> Callable[Given, Figure]:
    @wraps(draw)
    def drawn(*given: Given.args, **named: Given.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*given, **named)

    return drawn


@_styled
def bars(values: Mapping[str, Interval], looks: Mapping[str, Look], label: str) -> Figure:
    """One bar with its interval per side, the best on top."""
    figure = Figure(figsize=(WIDTH, 1.0 + 0.36 * len(values)), layout="constrained")
    panel = figure.subplots()
    order = sorted(values, key=lambda name: values[name].mean)
    for place, name in enumerate(order):
        mean, _, high = values[name]
        panel.barh(place, mean, height=0.62, color=looks[name].colour, alpha=0.85)
        panel.errorbar(mean, place, xerr=_around([values[name]]), color=INK, capsize=3, linewidth=1.2)
        panel.annotate(f"{mean:.4f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    panel.set_yticks(range(len(order)), order)
    panel.set_xlim(0, 1.18 * max([value.high for value in values.values()] + [1e-4]))
    panel.set_xlabel(label)
    return figure


@_styled
def training(curves: Sequence[Curve], looks: Mapping[str, Look]) -> Figure:
    """Quality on the validation targets, and the loss, by epoch; a line per run."""
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for curve in curves:
        look = looks[curve.side]
        style: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": 1.5}
        above.plot(curve.epochs, curve.quality, marker=look.mark, markersize=3.5, label=curve.side, **style)
        if curve.losses:
            below.plot(*zip(*curve.losses, strict=True), marker=look.mark, markersize=3.5, **style)
    above.set_ylabel("validation NDCG@10")
    below.set_ylabel("training loss, nats per row")
    below.set_xlabel("epochs")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(above)
    return figure


@_styled
def clear_events(
    losses: Mapping[str, tuple[Floats, Floats]], looks: Mapping[str, Look], marks: Mapping[str, int]
) -> Figure:
    """Loss by number of clear events, (numbers, losses) per side; `marks` are names of numbers that matter."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panel = figure.subplots()
    for name, (clear, loss) in losses.items():
        panel.plot(clear, loss, color=looks[name].colour, linestyle=looks[name].line, linewidth=1.6, label=name)
    for place, (name, number) in enumerate(marks.items()):
        panel.axvline(number, color=PALE, linewidth=0.8, linestyle=":")
        panel.text(
            number,
            0.98,
            f" {name} ",
            transform=panel.get_xaxis_transform(),
            ha=("right", "left")[place % 2],
            va="top",
            color=PALE,
            fontsize=8.5,
        )
    panel.set_xscale("log")
    panel.set_xlabel("clear events that a row sees (log scale)")
    panel.set_ylabel("training loss, nats per row")
    _legend(panel)
    return figure


@_styled
def groups(
    names: Sequence[str],
    values: Mapping[str, Sequence[Interval]],
    looks: Mapping[str, Look],
    *,
    what: str,
    label: str,
) -> Figure:
    """A mark with its interval per side and group of the targets."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panel = figure.subplots()
    step = 0.7 / len(values)
    for place, (side, found) in enumerate(values.items()):
        at = np.arange(len(names)) + step * (place - (len(values) - 1) / 2)
        _marks(panel, at, found, looks[side], side)
    for edge in np.arange(len(names) - 1) + 0.5:
        panel.axvline(edge, color=PALE, linewidth=0.4, alpha=0.5)
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.set_ylim(bottom=0)
    panel.set_xlabel(what)
    panel.set_ylabel(label)
    _legend(panel)
    return figure


@_styled
def against(
    points: Mapping[str, tuple[Interval, Interval]], looks: Mapping[str, Look], *, cost: str, label: str
) -> Figure:
    """Quality against a cost, (cost, quality) per side, both with what lies around them."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panel = figure.subplots()
    for name, (price, quality) in points.items():
        look = looks[name]
        panel.errorbar(
            price.mean,
            quality.mean,
            xerr=_around([price]),
            yerr=_around([quality]),
            fmt=look.mark,
            color=look.colour,
            capsize=3,
            label=name,
        )
    panel.set_xlim(0, 1.15 * max(price.high for price, _ in points.values()) or 1)
    panel.set_xlabel(cost)
    panel.set_ylabel(label)
    _legend(panel)
    return figure


@_styled
def ratios(tests: Mapping[str, Sequence[tuple[str, Interval]]], looks: Mapping[str, Look], label: str) -> Figure:
    """Per test, and within it per run (side and seed), the ratio to the same model as it is."""
    runs = len(next(iter(tests.values())))
    figure = Figure(figsize=(WIDTH, 1.1 + (0.28 + 0.14 * runs) * len(tests)), layout="constrained")
    panel = figure.subplots()
    panel.axvline(1, color=INK, linewidth=0.8)
    for place, found in enumerate(tests.values()):
        for index, (side, ratio) in enumerate(found):
            at = place + 0.6 / runs * (index - (runs - 1) / 2)
            look = looks[side]
            panel.errorbar(ratio.mean, at, xerr=_around([ratio]), fmt=look.mark, color=look.colour, capsize=3)
    panel.set_yticks(range(len(tests)), list(tests))
    panel.set_ylim(len(tests) - 0.5, -0.5)
    panel.set_xlabel(label)
    return figure


@_styled
def written(shares: Sequence[Sequence[Interval]]) -> Figure:
    """Per token (K) and place in the segment (S), the share of the token that comes from there, in percent."""
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panel = figure.subplots()
    places = np.arange(1, len(shares[0]) + 1)
    for token, row in enumerate(shares):
        mean, low, high = 100 * np.array(row).T
        colour = (*COLOURS.values(), *OTHERS)[token % 9]
        panel.plot(
            places, mean, color=colour, linestyle=LINES[token // 9 % 4], linewidth=1.6, label=f"token {token + 1}"
        )
        panel.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.axhline(100 / len(places), color=PALE, linewidth=0.8, linestyle=":")
    panel.set_ylim(bottom=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel(f"place in the segment (1 = oldest of its {len(places)} events)")
    panel.set_ylabel("share of attention, %")
    _legend(panel)
    return figure


@_styled
def read(shares: Sequence[Interval], look: Look, what: str) -> Figure:
    """The share of a query's attention per remembered segment or row, in percent; `what` stands below."""
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    panel = figure.subplots()
    percent = [Interval(*(100 * value for value in share)) for share in shares]
    _marks(panel, np.arange(1, len(shares) + 1), percent, look, "")
    panel.set_ylim(bottom=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel(what)
    panel.set_ylabel("share of attention, %")
    return figure


def inline(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG element of a web page: its ink is the page's, its ids begin with `name`."""
    text = _svg(figure, transparent=True)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor").replace("xlink:href", "href").replace("#000000", "currentColor")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg role="img" aria-label="{title}"', text, count=1)
    return re.sub(r"\n\s*", "\n", text)


def save(figure: Figure, stem: Path) -> None:
    """The figure as PNG and SVG files on white."""
    stem.with_suffix(".svg").write_text(_svg(figure, transparent=False), encoding="utf-8")
    with mpl.rc_context(STYLE):
        figure.savefig(stem.with_suffix(".png"), dpi=160, metadata={"Software": None})


def _svg(figure: Figure, *, transparent: bool) -> str:
    with mpl.rc_context(STYLE), io.StringIO() as text:
        figure.savefig(text, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
        return text.getvalue()


def _marks(panel: Axes, at: Floats, found: Sequence[Interval], look: Look, label: str) -> None:
    mean = [one.mean for one in found]
    drawn: dict[str, Any] = {"fmt": look.mark, "color": look.colour, "label": label or None}
    panel.errorbar(at, mean, _around(found), markersize=4.5, capsize=2.5, **drawn)


def _around(found: Sequence[Interval]) -> Floats:
    """What lies below and above the means, (2, n); a bootstrap's bounds may both lie on one side."""
    mean, low, high = np.array(found, dtype=float).T
    with np.errstate(invalid="ignore"):
        return np.maximum(np.nan_to_num([mean - low, high - mean], nan=0.0, posinf=0.0, neginf=0.0), 0)


def _legend(panel: Axes) -> None:
    """Above the panel, where it hides nothing."""
    marks, names = panel.get_legend_handles_labels()
    one = dict(zip(names, marks, strict=True))  # a side with several runs is named once
    columns = 3 if max(map(len, one), default=0) < 16 else 2
    panel.legend(one.values(), one.keys(), loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns, borderaxespad=0)
