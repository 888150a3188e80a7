"""Sheets in their forms."""

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from persrec.evaluation.sheets import FORMS, SENTENCES, Sheet, escaped, rich

SHEET = Sheet("NDCG@10 & more_", ("", "a|b", "95%"), [("x < y", "0.1 ±0.2", "[1, 2]"), ("<b>", "2", "3")])


def test_markdown() -> None:
    rows = "|  | a\\|b | 95% |\n| --- | ---: | ---: |\n| x < y | 0.1 ±0.2 | [1, 2] |\n| <b> | 2 | 3 |\n"
    assert FORMS["markdown"](SHEET) == f"**NDCG@10 & more_**\n\n{rows}"


def test_latex_escapes_what_it_must() -> None:
    text = FORMS["latex"](SHEET)
    assert r"\caption{NDCG@10 \& more\_}" in text
    assert r"x $<$ y & 0.1 $\pm$0.2 & [1, 2] \\" in text
    assert r"\begin{tabular}{lrr}" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_latex_of_all_special_signs_and_of_other_scripts() -> None:
    assert escaped("&%$#_{}~^\\") == (r"\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}")
    assert escaped("a_b: 0.5 ±0.1, ≤ 3, ≥ 4, 2 × 3 – 4 …") == (  # noqa: RUF001
        r"a\_b: 0.5 $\pm$0.1, $\le$ 3, $\ge$ 4, 2 $\times$ 3 -- 4 \ldots{}"
    )
    assert escaped("café чай ½") == "cafe ??? ?"


@given(st.text())
def test_latex_is_ascii_and_no_sign_speaks_to_it(text: str) -> None:
    """Without what `escaped` writes itself, no special sign is left."""
    said = escaped(text)
    assert said.isascii()
    commands = r"\\(textasciitilde|textasciicircum|textbackslash|ldots)\{\}|\$\\?[a-z<>|-]+\$|\\[&%$#_{}]"
    assert not set("&%$#_{}~^\\") & set(re.sub(commands, "", said))


def test_latex_rows_that_start_like_an_option() -> None:
    """After a row's end `[` and `*` would be read as belonging to it."""
    text = FORMS["latex"](Sheet("", ("", "b"), [("[x]", "1"), ("*", "2")]))
    assert "\n{}[x] & 1" in text
    assert "\n{}* & 2" in text


def test_sentences_are_escaped_like_cells() -> None:
    assert SENTENCES["latex"]("my_recipe: 50%") == "my\\_recipe: 50\\%\n"
    assert SENTENCES["html"]("a < b") == "<p>a &lt; b</p>"
    assert SENTENCES["markdown"]("a_b") == "a_b"


def test_html_escapes_what_it_must() -> None:
    text = FORMS["html"](SHEET)
    assert "<td>&lt;b&gt;</td>" in text
    assert "<caption>NDCG@10 &amp; more_</caption>" in text
    assert text.count("<tr>") == text.count("</tr>") == 3


def test_the_terminal_shows_every_cell() -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(rich(SHEET))
    shown = console.file.getvalue()
    assert all(cell in shown for row in SHEET.rows for cell in row)


def drawn(sheet: Sheet, width: int) -> list[str]:
    console: Any = Console(width=width, file=io.StringIO())
    console.print(rich(sheet))
    return console.file.getvalue().splitlines()


NAMES = [f"a_rather_long_name-{place}" for place in range(8)]
BY_GROUP = Sheet("by", ("length", *NAMES), [(f"{group}", *(f"0.{group}{n}00" for n in range(8))) for group in (5, 6)])
BY_NAME = Sheet(
    "of all", ("", *"abcdefgh"), [(name, *(f"0.{place}{n}00" for n in range(8))) for place, name in enumerate(NAMES)]
)


@pytest.mark.parametrize("sheet", [BY_GROUP, BY_NAME])
@pytest.mark.parametrize("width", [76, 36])
def test_no_figure_is_broken_where_a_terminal_is_narrow(sheet: Sheet, width: int) -> None:
    """Where neither form fits, columns stand in several tables."""
    lines = drawn(sheet, width)
    words = " ".join(lines).split()
    assert all(len(line) <= width for line in lines)
    assert all(figure in words for row in sheet.rows for figure in row[1:])
    assert all(name in words for name in NAMES), "names are whole"
    assert sum(line.startswith(sheet.title) for line in lines) == 1


def test_long_names_are_broken_between_words() -> None:
    sheet = Sheet("pairs", ("pair", "ratio"), [("a_rather_long_name / another_long_name", "0.84 [0.5, 1.1]")])
    lines = [line.split() for line in drawn(sheet, 42)]
    assert lines[-3:-1] == [["a_rather_long_name", "/", "0.84", "[0.5,", "1.1]"], ["another_long_name"]]


def test_a_sheet_that_is_too_wide_has_its_columns_as_rows() -> None:
    assert [line.split() for line in drawn(BY_GROUP, 76)[4:6]] == [[NAMES[n], f"0.5{n}00", f"0.6{n}00"] for n in (0, 1)]
    assert drawn(BY_GROUP, 300)[4].split()[:2] == ["5", "0.5000"]
