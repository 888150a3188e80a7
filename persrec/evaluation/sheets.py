"""A sheet: a titled table of text, and its forms for the terminal, Markdown, LaTeX and HTML."""

import html
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": "$|$",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "×": r"$\times$",  # noqa: RUF001
    "√": r"$\surd$",
    "→": r"$\to$",
    "−": "$-$",  # a minus  # noqa: RUF001
    "–": "--",  # noqa: RUF001
    "—": "---",
    "…": r"\ldots{}",
}


WIDEST = 10_000  # signs of a terminal line on which everything fits


class Sheet(NamedTuple):
    """The first column says what a row is about, the others hold figures."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def rich(sheet: Sheet) -> "Fitting":
    """For the terminal."""
    return Fitting(sheet)


class Fitting:
    """A sheet as it is; where that is too wide, rows as columns; else names over several lines, but never a figure."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        forms = _table(self.sheet), _table(_turned(self.sheet))
        fitting = (form for form in forms if _least(form, console, options) <= options.max_width)
        yield next(fitting, _table(self.sheet, names_fold=True))


def _least(table: Table, console: Console, options: ConsoleOptions) -> int:
    """The width below which a number would have to be broken."""
    return Measurement.get(console, options.update(width=WIDEST), table).minimum


def _turned(sheet: Sheet) -> Sheet:
    """A row per column, but for the first one."""
    first, *others = zip(sheet.head, *sheet.rows, strict=True)
    return Sheet(sheet.title, first, others)


def _table(sheet: Sheet, *, names_fold: bool = False) -> Table:
    table = Table(
        title=sheet.title,
        title_justify="left",
        box=box.SIMPLE_HEAVY,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )
    for place, name in enumerate(sheet.head):
        whole = names_fold if place else not names_fold
        table.add_column(name, justify="right" if place else "left", no_wrap=whole, overflow="fold")
    for row in sheet.rows:
        table.add_row(*row)
    return table


def markdown(sheet: Sheet) -> str:
    """A table of GitHub's Markdown under its title in bold."""
    rule = ["---", *["---:"] * (len(sheet.head) - 1)]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (sheet.head, *sheet.rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:])]
    return f"**{sheet.title}**\n\n" + "\n".join(lines) + "\n"


def latex(sheet: Sheet) -> str:
    r"""A table environment with the rules of booktabs; the title is its caption."""

    def line(cells: tuple[str, ...]) -> str:
        text = " & ".join(map(escaped, cells))
        return (f"{{}}{text}" if text.startswith(("[", "*")) else text) + r" \\"  # else they belong to the \\ before

    caption = escaped(sheet.title)
    body = [line(sheet.head), r"\midrule", *map(line, sheet.rows)]
    columns = "l" + "r" * (len(sheet.head) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text for LaTeX, in ASCII: special signs escaped, letters without accents, `?` for those of other scripts."""
    return "".join(LATEX.get(sign) or (sign if sign.isascii() else _plain(sign)) for sign in text)


def _plain(letter: str) -> str:
    kept = unicodedata.normalize("NFD", letter).encode("ascii", "ignore").decode()
    return "".join(LATEX.get(sign, sign) for sign in kept) or "?"


def web(sheet: Sheet) -> str:
    """A table of a web page."""

    def line(cells: tuple[str, ...], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "\n".join(line(row, "td") for row in sheet.rows)
    caption, head = html.escape(sheet.title), line(sheet.head, "th")
    return f"<table>\n<caption>{caption}</caption>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"


FORMS: dict[str, Callable[[Sheet], str]] = {"markdown": markdown, "latex": latex, "html": web}
SENTENCES: dict[str, Callable[[str], str]] = {  # a sentence below the tables
    "markdown": str,
    "latex": lambda text: f"{escaped(text)}\n",
    "html": lambda text: f"<p>{html.escape(text)}</p>",
}
