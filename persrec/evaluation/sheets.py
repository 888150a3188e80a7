"""A sheet: a titled table of text, and its forms for the terminal, Markdown, LaTeX and HTML."""

import html
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
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


GAP = 2  # signs between columns, and around all of them


class Sheet(NamedTuple):
    """The first column says what a row is about, the others hold figures."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def rich(sheet: Sheet) -> "Fitting":
    """For the terminal."""
    return Fitting(sheet)


class Fitting:
    """A sheet as it is; where that is too wide, rows as columns; else its columns in several tables.

    Figures stand on one line, names and heads are broken between words.
    """

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        forms = [_parts(sheet, room) for sheet in (self.sheet, _turned(self.sheet))]
        yield from (_table(part, room) for part in min(forms, key=len))  # as it is, where both need as many


def _parts(sheet: Sheet, room: int) -> list[Sheet]:
    """The sheet in as few as can be that fit, each with the first column; a column that does not is one of its own."""

    def part(columns: Sequence[int], title: str) -> Sheet:
        head, *rows = (tuple(row[place] for place in (0, *columns)) for row in (sheet.head, *sheet.rows))
        return Sheet(title, head, rows)

    found: list[list[int]] = [[]]
    for place in range(1, len(sheet.head)):
        if found[-1] and sum(_widths(part([*found[-1], place], ""), 0)) > room:
            found.append([])
        found[-1].append(place)
    return [part(columns, "" if index else sheet.title) for index, columns in enumerate(found)]


def _widths(sheet: Sheet, room: int) -> list[int]:
    """Of each column, with the gap after it: of the first as much as there is room for, or as its longest word is."""
    first, *others = zip(sheet.head, *sheet.rows, strict=True)
    needed = [GAP + max(_longest_word(head), *map(cell_len, cells)) for head, *cells in others]
    whole, word = max(map(cell_len, first)), max(map(_longest_word, first))
    return [GAP + max(word, min(whole, room - GAP - sum(needed))), *needed]


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _turned(sheet: Sheet) -> Sheet:
    """A row per column, but for the first one."""
    first, *others = zip(sheet.head, *sheet.rows, strict=True)
    return Sheet(sheet.title, first, others)


def _table(sheet: Sheet, room: int) -> Table:
    table = Table(
        title=sheet.title or None,
        title_justify="left",
        box=box.SIMPLE_HEAVY,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )
    for place, (name, width) in enumerate(zip(sheet.head, _widths(sheet, room), strict=True)):
        table.add_column(name, justify="right" if place else "left", width=width - GAP, overflow="fold")
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
