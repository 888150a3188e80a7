"""Sheets in their forms."""

import io

from rich.console import Console

from persrec.evaluation.sheets import FORMS, Sheet, rich

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
