"""What fit and evaluate found, as a table.

What needs torch is imported where it is used.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from persrec import report
from persrec.evaluation import sheets
from persrec.recipe.recipe import Recipe

SHOWN_GROUPS = "history length", "last consumption of the item"


@dataclass(frozen=True)
class Table:
    """Rows of results, and how they look: on a terminal, or as `text` where another form was asked for.

    `print(table)` shows it, `polars.DataFrame(table.rows)` computes with it.
    """

    rows: list[dict[str, Any]]
    shown: Group
    folder: Path | None = None  # of the runs that were made or evaluated
    text: str | None = None

    def __rich__(self) -> Group:
        return self.shown

    def __repr__(self) -> str:
        return str(self)  # for notebooks: the rows take pages

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        text = Console(width=100, file=io.StringIO(), force_terminal=False)
        with text.capture() as captured:
            text.print(self.shown)
        return captured.get().rstrip()


def results(
    recipe: Recipe, rows: list[dict[str, Any]], places: Sequence[Path], folder: Path, overrides: Sequence[str] = ()
) -> Table:
    """The table of runs on one log, in `places` below a folder; of none, where nothing was saved.

    `overrides` are what was set for this table alone."""
    from persrec.evaluation import comparison

    k = int(recipe.primary.partition("@")[2])
    metrics = list(dict.fromkeys([recipe.primary, f"recall@{k}", f"recall@{max(recipe.evaluation.k)}"]))
    protocol = rows[0]["protocol"]
    odds = protocol.get("seen_odds")
    seen = "excluded" if protocol["exclude_seen"] else "included" if odds is None else f"at {odds:g} times their odds"
    heading = (
        f"{recipe.name}: {protocol.get('part', 'test')} ({protocol['split']}), {_asked(protocol)}, all items ranked, "
        f"seen items {seen}, time: {protocol['time']}"
    )
    if protocol["exclude_seen"] and protocol["targets_seen_before"]:
        heading += f"; {protocol['targets_seen_before']:,} targets were seen before"
        heading += "" if "recommendations" in rows[0] else " and are ranked all the same"
    if overrides:
        heading += f"; set for this table alone: {', '.join(overrides)}"
    found = [report.metrics_sheet(heading, rows, metrics)]
    found += [report.group_sheet(f"{recipe.primary} by {what}", rows, what, recipe.primary) for what in SHOWN_GROUPS]
    found += report.worth_sheets(rows, recipe.primary)
    searches = {f"{row['history']}, seed {row['seed']}": row["protocol"].get("retrieval", {}) for row in rows}
    found += report.search_sheets(searches)
    if not places:
        return Table(rows, shown(found, []))
    sides = comparison.load(places)
    sentences = report.retention_sentences(comparison.retention(sides, recipe.primary), recipe.primary)
    return Table(rows, shown(found, [*sentences, _other_groups(rows[0], folder), f"Run folder: {folder}"]), folder)


def _other_groups(row: dict[str, Any], folder: Path) -> str:
    """Where the groups are that are not shown, and how many targets are cold."""
    from persrec.evaluation.comparison import SHORT

    found = [short for short, name in SHORT.items() if name in row["groups"] and name not in SHOWN_GROUPS]
    cold = row["protocol"]["cold_targets"]
    said = f"{cold:,} targets are cold" if cold else "no target is cold"
    users = row["protocol"].get("cold_users", 0)
    said += f", {users:,} users have no training" if users else ""
    return f"More groups: persrec compare {folder} --by {found[0]} (or {', '.join(found[1:])}); {said}."


def shown(found: Sequence[sheets.Sheet], sentences: Sequence[str]) -> Group:
    """Sheets and sentences for the terminal."""
    return Group(*map(sheets.rich, found), *map(Text, sentences))


def _asked(protocol: dict[str, Any]) -> str:
    """How much is asked of how many."""
    asked = f"{protocol['users']:,} users"
    if protocol["queries"] > protocol["users"]:
        asked += f", {protocol['queries']:,} queries"
    if protocol["targets"] > protocol["queries"]:
        asked += f" for {protocol['targets']:,} targets"
    return asked
