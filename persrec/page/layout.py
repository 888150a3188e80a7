"""How a report looks: its style, and the HTML of tables, figures and notes.

There is no script, no font and no picture from elsewhere; colours follow the reader's choice of light or dark.
"""

import html
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from persrec.evaluation import sheets
from persrec.evaluation.sheets import Sheet
from persrec.page import figures

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#23272d;--pale:#626a73;--line:#d9dde1;--box:#f5f6f8;--hit:#1d7a55}
@media (prefers-color-scheme:dark){
:root{--paper:#14171b;--ink:#e2e5e9;--pale:#9aa3ad;--line:#363c44;--box:#1d2127;--hit:#4cc394}}
body{margin:0 auto;max-width:68rem;padding:1rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .5rem}
h3{font-size:1rem;margin:0 0 .5rem}p{max-width:44rem}
.claims{border-left:.25rem solid var(--hit);background:var(--box);padding:.5rem 1rem .5rem 2rem;
margin:1rem 0;max-width:44rem}
.claims li{margin:.4rem 0}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
.facts td{white-space:normal}
@media (max-width:30rem){table{font-size:.8rem}th,td{padding:.3rem .45rem}th{white-space:normal;vertical-align:bottom}}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:0 2rem;align-items:start}
figure{margin:1rem 0;max-width:34rem}figure svg{width:100%;height:auto;display:block}
figure svg text{font-family:inherit!important}
figcaption,.note{color:var(--pale);font-size:.9rem}
details{margin:.7rem 0}summary{cursor:pointer}
pre{background:var(--box);padding:.7rem;overflow-x:auto;font-size:.8rem}
.user{background:var(--box);padding:.8rem 1rem;border-radius:.4rem;margin:.5rem 0}
.unread,.memory{color:var(--pale)}.unread+.clear,.memory+.clear{border-top:2px dashed var(--hit);padding-top:.6rem}
.user ol{padding-left:1.6rem;margin:.3rem 0}.hit{color:var(--hit);font-weight:600}.had{color:var(--pale)}
"""


class Gallery:
    """Figures on their way to the page and to files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, heading: str, figure: Figure, sentence: str = "") -> str:
        """The figure with its heading and what it shows, where the chapter has not said so."""
        self.folder.mkdir(exist_ok=True)
        figures.save(figure, self.folder / name)
        drawn = figures.inline(figure, name, html.escape(heading))
        caption = f"<figcaption>{html.escape(sentence)}</figcaption>" if sentence else ""
        return f"<figure>\n<h3>{html.escape(heading)}</h3>\n{drawn}{caption}\n</figure>\n"


def table(sheet: Sheet, style: str = "wide") -> str:
    """A sheet that scrolls sideways where the screen is narrow."""
    return f'<div class="{style}">{sheets.web(sheet)}</div>\n'


def folded(summary: str, sheet: Sheet) -> str:
    """A sheet behind a line that opens it."""
    return f"<details><summary>{html.escape(summary)}</summary>{table(sheet)}</details>\n"


def boxes(parts: Sequence[str]) -> str:
    """Parts that a grid may put side by side."""
    return "\n".join(f"<div>{part}</div>" for part in parts)


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>\n'
