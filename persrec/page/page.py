"""A report: runs on one self-contained web page, with its figures as files beside it.

The page loads nothing, needs no script, fits a phone, and follows the reader's choice of light or dark.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from persrec import run as runs
from persrec.errors import UserError, whole
from persrec.evaluation import comparison
from persrec.evaluation.comparison import ORDER
from persrec.page import chapters, figures, verdicts
from persrec.page.chapters import Material
from persrec.page.closeup import look_closely
from persrec.page.examples import own_titles, titles
from persrec.page.layout import STYLE, Gallery


def write(
    folders: Sequence[Path],
    out: Path,
    *,
    titles_file: str | Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """The page of some runs as a file; its figures lie in a folder beside it, named after it.

    Raises UserError for runs that do not compare, titles that cannot be read, and a place that cannot be written.
    """
    known = None if titles_file is None else titles(titles_file)
    material = _material(folders, known, say)
    with whole(out, "--out") as place:
        text = page(material, Gallery(out.with_name(f"{out.stem}-figures")))
        place.write_text(text, encoding="utf-8")
    return out


def _material(folders: Sequence[Path], known: Mapping[str, str] | None, say: Callable[[str], None]) -> Material:
    """Everything read and measured; without `known` titles, items go by those of the first run that has any."""
    sides = comparison.load(folders)
    metric = str(sides[0].recipe["primary"])
    comparison.check_metric(sides, metric)
    found = [runs.load(folder) for folder in folders]
    looks = figures.looks([(side.name, side.history, side.recipe["name"]) for side in sides])
    try:
        data = runs.open_log(found[0].data, found[0].metrics["protocol"]["split"])
    except UserError as error:
        say(f"{error}. The report goes without data counts, reads, users and attention.")
        return Material(sides, found, metric, looks, [], None)
    if known is None:
        known = next(filter(None, (own_titles(run.recipe, data, say) for run in found)), {})
    closeups = []
    for side in sides:
        if side.history in ORDER:
            first = next(run for run in found if verdicts.is_of(run, side))
            say(f"{side.name}: measuring reads, looking at users")
            closeups.append(look_closely(first, side, sides, data, known))
    return Material(sides, found, metric, looks, closeups, data.facts)


def page(material: Material, gallery: Gallery) -> str:
    """The whole text of the page."""
    names = ", ".join(dict.fromkeys(run.recipe["name"] for run in material.runs))
    body = "\n".join(chapter(material, gallery) for chapter in chapters.ALL)
    heading = html.escape(names)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}: persrec report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{heading}: what the runs show</h1>\n{body}\n</body>\n</html>\n"
    )
