"""Figures: axes have names, everything asked for is drawn, and both forms of a file are written."""

import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from persrec.evaluation.intervals import Interval
from persrec.page import figures
from persrec.page.figures import Curve

NAMES = ("full", "recent", "compressed", "<b> & чай")
LOOKS = figures.looks([(name, name, "one") for name in NAMES])
KINDS = ("bars", "training", "clear_events", "groups", "against", "ratios", "written", "read")
VALUES = {name: Interval(0.1 * place, 0.05 * place, 0.2 * place) for place, name in enumerate(NAMES)}


def drawn() -> dict[str, Figure]:
    groups = {name: [value, value._replace(low=np.nan)] for name, value in VALUES.items()}
    line = np.arange(1.0, 6.0)
    tests = {
        "emptied": [("compressed", Interval(0.9, 0.8, np.inf))],
        "of another user": [("compressed", VALUES["full"])],
    }
    return {
        "bars": figures.bars(VALUES, LOOKS, "ndcg@10"),
        "training": figures.training([Curve("full", [1, 2], [0.1, 0.2], [(1, 5.0), (2, 4.0)])] * 2, LOOKS),
        "clear_events": figures.clear_events({"full": (line, 5 - line)}, LOOKS, {"R": 2, "R+S-1": 4}),
        "groups": figures.groups(["0-9\nn = 3", "10+\nn = 9"], groups, LOOKS, what="events", label="ndcg@10"),
        "against": figures.against({"full": (VALUES["full"], VALUES["recent"])}, LOOKS, cost="ms", label="ndcg@10"),
        "ratios": figures.ratios(tests, LOOKS, "ratio"),
        "written": figures.written([[VALUES["recent"]] * 6] * 12),
        "read": figures.read([VALUES["recent"]] * 4, LOOKS["compressed"], "row of the memory"),
    }


@pytest.mark.parametrize("name", KINDS)
def test_every_axis_has_a_name(name: str) -> None:
    for panel in drawn()[name].axes:
        ticks = [label.get_text() for label in panel.get_yticklabels()]
        assert panel.get_ylabel() or set(ticks) & {*NAMES, "emptied"}
        assert panel.get_xlabel() or name == "training"


@pytest.mark.parametrize("name", KINDS)
def test_inlined_it_stands_alone(name: str) -> None:
    text = figures.inline(drawn()[name], "here", "чай &amp; more")
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root.get("aria-label") == "чай & more"
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(set(ids)) == len(ids)
    assert all(one.startswith("here-") for one in ids)
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', text)) <= set(ids)
    assert "http" not in text
    assert "currentColor" in text
    assert figures.INK not in text


def test_a_bar_is_as_long_as_its_value() -> None:
    panel = figures.bars(VALUES, LOOKS, "ndcg@10").axes[0]
    lengths = dict(zip([label.get_text() for label in panel.get_yticklabels()], panel.patches, strict=True))
    assert {name: bar.get_width() for name, bar in lengths.items()} == pytest.approx(
        {name: value.mean for name, value in VALUES.items()}
    )


def test_marks_and_intervals_are_those_given() -> None:
    given = {"full": [Interval(0.5, 0.4, 0.7), Interval(0.2, 0.1, 0.25)]}
    panel = figures.groups(["a", "b"], given, LOOKS, what="events", label="ndcg@10").axes[0]
    marks, _, (bars,) = panel.containers[0]
    assert marks.get_ydata() == pytest.approx([0.5, 0.2])
    assert [tuple(segment[:, 1]) for segment in bars.get_segments()] == [
        pytest.approx((0.4, 0.7)),
        pytest.approx((0.1, 0.25)),
    ]


def test_looks_tell_forms_by_colour_and_recipes_by_mark() -> None:
    sides = [("a full", "full", "a"), ("a recent", "recent", "a"), ("b full", "full", "b"), ("a slist", "slist", "a")]
    looks = figures.looks(sides)
    assert looks["a full"].colour == looks["b full"].colour != looks["a recent"].colour
    assert looks["a full"].mark == looks["a recent"].mark != looks["b full"].mark
    assert looks["a slist"].colour not in figures.COLOURS.values()


@pytest.mark.parametrize("colour", [*figures.COLOURS.values(), *figures.OTHERS, figures.PALE])
def test_colours_are_seen_on_white_and_on_black(colour: str) -> None:
    """At least 2.8 to 1 against both papers, by WCAG's measure of contrast."""

    def brightness(text: str) -> float:
        parts = [int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for paper in ("#ffffff", "#14171b"):
        light, dark = sorted([brightness(colour), brightness(paper)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 2.8


def test_files(tmp_path: Path) -> None:
    figure = drawn()["groups"]
    figures.save(figure, tmp_path / "groups")
    assert (tmp_path / "groups.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "groups.svg").read_text(encoding="utf-8")
    assert "&lt;b&gt; &amp; чай" in text
    assert ElementTree.parse(io.StringIO(text)).getroot().tag.endswith("svg")
