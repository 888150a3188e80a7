"""The chapters of a report: each takes the material and returns HTML, or nothing where it has nothing to show."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from persrec import report
from persrec.evaluation import comparison, intervals
from persrec.evaluation.comparison import ORDER, Side
from persrec.evaluation.intervals import Interval
from persrec.page import curves, figures, verdicts
from persrec.page.attended import Attended
from persrec.page.closeup import Closeup
from persrec.page.examples import CLEAR, MEMORY, UNREAD, Example, Stretch
from persrec.page.figures import Curve, Floats, Look
from persrec.page.layout import Gallery, boxes, folded, note, table
from persrec.run import Run

GROUPS = {  # of the targets: the heading, and what a figure says of its groups
    "history length": ("by length of the history", "events before the query"),
    "last consumption of the item": (
        "by age of the last consumption",
        "when the user last had the target, events ago",
    ),
    "training events of the item": ("by popularity of the target", "training events of the target, 0 = cold"),
    "hours since the last event": ("by hours since the last event", "hours since the user's last event"),
}
HEADINGS = {UNREAD: "Not read", MEMORY: "From memory", CLEAR: "Clear from here"}  # of events by how they are read
READS = {
    "full": "Events are read as they are.",
    "recent": "Clear events are read as they are; nothing is read of those before them.",
    "compressed": "Clear events are read as they are; of those before them the model has its memory alone.",
}
FEW = 10  # targets, below which a group is not drawn


@dataclass(frozen=True)
class Material:
    """All that a page is made of."""

    sides: list[Side]
    runs: list[Run]
    metric: str
    looks: dict[str, Look]
    closeups: list[Closeup]  # of the models, the first run of each
    facts: dict[str, Any] | None  # of the prepared log; None where it is gone


def summary(material: Material, gallery: Gallery) -> str:
    claims = "".join(f"<li>{html.escape(text)}</li>\n" for text in verdicts.verdicts(material.sides, material.metric))
    asked = material.runs[0].metrics["protocol"]
    text = (
        f"{material.metric} on {asked['targets']:,} {asked.get('part', 'test')} targets of {asked['users']:,} users, "
        f"{asked['split']}. Figures in brackets are 95% intervals by bootstrap over users, and over seeds where there "
        "are several; with one seed they do not cover what another course of training would give. Ratios are paired: "
        "the same targets on both sides."
    )
    return f'<ul class="claims">\n{claims}</ul>\n{note(text)}'


def quality(material: Material, gallery: Gallery) -> str:
    sides, metric = material.sides, material.metric
    k = int(metric.partition("@")[2])
    deepest = min(max(side.recipe["evaluation"]["k"]) for side in sides)
    metrics = list(dict.fromkeys([metric, f"recall@{k}", f"mrr@{k}", f"recall@{deepest}"]))
    means = {side.name: comparison.mean(side, metric) for side in sides}
    part = material.runs[0].metrics["protocol"].get("part", "test")
    drawn = gallery(
        "quality",
        f"{metric} of each run",
        figures.bars(means, material.looks, f"{metric} on the {part} targets"),
        f"Bars are means over the {part} targets and seeds, lines their 95% intervals over users (and seeds). Whether "
        "two runs differ is in the table of pairs: intervals that overlap here may belong to runs that differ target "
        "by target.",
    )
    kept = report.retention_sentences(comparison.retention(sides, metric), metric)
    pairs = comparison.pairs(sides, metric)
    tables = table(verdicts.quality_sheet(sides, material.runs, metrics))
    tables += table(verdicts.lists_sheet(sides, material.runs))
    if pairs:
        tables += table(report.pairs_sheet(f"Pairs in {metric}, on the same targets", pairs))
        tables += note("p is that of a permutation test over users, two-sided; it is not corrected for many pairs.")
    return f"<h2>How good each run is</h2>\n{drawn}{tables}" + "".join(map(note, kept))


def groups(material: Material, gallery: Gallery) -> str:
    """Quality by what is known of the targets, of the models and the best baseline."""
    shown = _models_and_best_baseline(material)
    parts = []
    known = comparison.all_groups(shown[0])
    for by, (heading, what) in GROUPS.items():
        if by not in known:  # hours, of a log without times
            continue
        groups = known[by]
        names, counts = [name for name, _ in groups], [int(part.sum()) for _, part in groups]
        values = {side.name: [comparison.mean(side, material.metric, part) for _, part in groups] for side in shown}
        drawn = gallery(
            by.replace(" ", "-"),
            f"{material.metric} {heading}",
            figures.groups(*_shown_groups(names, counts, values), material.looks, what=what, label=material.metric),
        )
        parts.append(drawn + folded("The same as a table", verdicts.group_sheet(by, names, counts, values)))
    how = note(
        "Marks are means over the n targets of a group, lines 95% intervals over users (and seeds). Groups hold "
        "different users and targets: compare runs within a group, not groups with each other. Those with fewer than "
        f"{FEW} targets are only in the table."
    )
    said = "".join(map(note, comparison.recent_notes(shown)))
    return f'<h2>Where the targets are easy and where hard</h2>\n{how}<div class="pair">{boxes(parts)}</div>{said}'


def _shown_groups(
    names: Sequence[str], counts: Sequence[int], values: Mapping[str, Sequence[Interval]]
) -> tuple[list[str], dict[str, list[Interval]]]:
    """Names and values of the groups that are large enough for a figure (all, where none is)."""
    large = [place for place, count in enumerate(counts) if count >= FEW] or list(range(len(counts)))
    short = [name.replace(" events ago", "").replace("had ", "") for name in names]
    shown = [f"{short[place]}\nn = {counts[place]:,}" for place in large]
    return shown, {side: [found[place] for place in large] for side, found in values.items()}


def costs(material: Material, gallery: Gallery) -> str:
    if not material.closeups:
        return ""
    means = {side.name: comparison.mean(side, material.metric) for side in material.sides}
    size = {one.side: (Interval(*[one.bytes_kept] * 3), means[one.side]) for one in material.closeups}
    took = {one.side: (one.milliseconds, means[one.side]) for one in material.closeups}
    users = material.closeups[0].sampled
    parts = [
        gallery(
            "bytes",
            f"{material.metric} against bytes per user",
            figures.against(size, material.looks, cost="kept for a read, bytes per user", label=material.metric),
            "Bytes are the mean over the queries of what a read takes: the memory in its encoding, and 4 bytes "
            "for the id of each clear event (8 more for its time, where the model knows times). What a store keeps of "
            "seen items, to exclude them or for a repeat head, is not in it. Vertical lines are 95% intervals.",
        ),
        gallery(
            "milliseconds",
            f"{material.metric} against milliseconds of a read",
            figures.against(took, material.looks, cost="read of one user, ms", label=material.metric),
            f"Measured when this page was made: {users} users by chance, one at a time on one thread of its machine; "
            "clear events in, the vector that is matched against items out, on a memory that is there already; the "
            "search among the items is not in it. The full history is read anew each time, without a cache. Marks are "
            "medians over users, horizontal lines the middle half of them, vertical lines 95% intervals.",
        ),
    ]
    return f'<h2>What quality costs</h2>\n<div class="pair">{boxes(parts)}</div>'


def worth(material: Material, gallery: Gallery) -> str:
    """What old events are worth to full and compressed models, by recipe."""
    parts: list[str] = []
    for recipe in dict.fromkeys(side.recipe["name"] for side in material.sides):
        for key in WORTH:
            tested = [
                (side, run)
                for side in material.sides
                for run in material.runs
                if side.recipe["name"] == recipe and verdicts.is_of(run, side) and key in run.metrics
            ]
            parts += [_tests(key, recipe, tested, material, gallery, len(parts) + 1)] if tested else []
    shown = f'<div class="pair">{boxes(parts)}</div>{note(BOUNDS)}'
    return f"<h2>Whether old events are used</h2>\n{shown}" if parts else ""


BOUNDS = (
    "Figures in brackets are 95% intervals over users; of several seeds, means of their bounds. They do not cover what "
    "seeds differ by, whose standard deviation stands after ±."
)
WORTH = {
    "history_tests": (
        "the full model reads recent events alone",
        "The same models and targets; below 1 the model makes use of old events. Lines are 95% intervals over users, "
        "one mark per run. Where a full model is better than a recent one and loses nothing here, it is better for "
        "having trained on more rows, and not for the old events that it reads.",
    ),
    "memory_tests": (
        "the memory emptied, exchanged, and its boundary moved",
        "The same models and targets; below 1 the change costs quality. Lines are 95% intervals over users, one mark "
        "per run. A memory that is used loses by being emptied and by being another user's; one whose ratio's interval "
        "holds 1 shows no use. A model should not mind where the boundary between memory and clear events stands (the "
        "last three).",
    ),
}


def _tests(
    key: str, recipe: str, tested: Sequence[tuple[Side, Run]], material: Material, gallery: Gallery, place: int
) -> str:
    """One kind of test of a recipe's runs: a figure and a table."""
    (what, said), name = WORTH[key], report.WORTH[key][0]
    ratios = {
        test[name]: [(side.name, Interval(**run.metrics[key][row]["ratio"])) for side, run in tested]
        for row, test in enumerate(tested[0][1].metrics[key])
    }
    figure = figures.ratios(ratios, material.looks, f"{material.metric} as a ratio to the model as it is")
    drawn = gallery(f"{key.replace('_', '-')}-{place}", f"{recipe}: {what}", figure, said)
    return drawn + "".join(map(table, report.worth_sheets([run.metrics for _, run in tested], material.metric)))


def attention(material: Material, gallery: Gallery) -> str:
    parts: list[str] = []
    absent = ""
    for one in material.closeups:
        if isinstance(one.attended, str):
            absent += note(f"{one.side}: not shown, because {one.attended}.")
        elif one.attended is not None:
            parts += _looks_at(one, one.attended, material.looks[one.side], gallery, len(parts) + 1)
    if not parts and not absent:
        return ""
    text = (
        "A share is the length of what a row adds to another (|weight| times the length of its value, over all heads), "
        "divided by that of all rows. It says where the model looks, not whether that helps: a model that learned "
        "nothing has such figures too. What the memory is worth is in the tests above."
    )
    shown = f'{note(text)}<div class="pair">{boxes(parts)}</div>' if parts else ""
    return f"<h2>What memory tokens hold, and which of them are read</h2>\n{shown}{absent}"


def _looks_at(one: Closeup, found: Attended, look: Look, gallery: Gallery, number: int) -> list[str]:
    users = np.arange(len(found.clear))
    count, tokens, places = found.written.shape
    flat = intervals.means(found.written.reshape(count, -1).T, users)
    written = [flat[token * places : (token + 1) * places] for token in range(tokens)]
    ages = [share[~np.isnan(share)] for share in found.read.T if (~np.isnan(share)).sum() >= min(5, count)]
    read = [intervals.mean(share, np.arange(len(share))) for share in ages]
    clear = intervals.mean(found.clear, users)
    said = _of_layers(found) if found.carried is None else _of_rows(found.carried)
    return [
        gallery(
            f"tokens-{number}",
            f"{one.side}: places of the segment that tokens attend to",
            figures.written(written),
            f"Means over {count} users' segments and {said.written_in}; bands are 95% intervals over users. The dotted "
            f"line is an even share of the segment's events; what is missing to 100% goes to the tokens and to "
            f"{said.old}.{said.begun}",
        ),
        gallery(
            f"segments-{number}",
            f"{one.side}: {said.what} that the query attends to",
            figures.read(read, look, said.axis),
            f"Means over {said.whom.format(count=count, few=min(5, count))}, and over {said.read_in}; lines are 95% "
            f"intervals over users. The clear events get {clear.mean:.0%} [{clear.low:.0%}, {clear.high:.0%}].",
        ),
    ]


class _Said(NamedTuple):
    """The words for a memory of some kind."""

    written_in: str
    old: str
    begun: str
    what: str
    axis: str
    whom: str
    read_in: str


def _of_layers(found: Attended) -> _Said:
    """A layered memory: rows of each segment, read by the layers above those that wrote them."""
    begun = (
        " Before it attends to anything, each token is given the mean of its share of the segment, the first one "
        "that of the oldest events; that is not in the figure."
    )
    return _Said(
        written_in="the layers whose output is remembered",
        old="older memory",
        begun=begun if found.means else "",
        what="remembered segments",
        axis="age of the segment, in segments (1 = newest)",
        whom="those of {count} users who have a segment of that age (at least {few})",
        read_in="all layers" if found.means else "the layers above the first",
    )


def _of_rows(carried: Floats) -> _Said:
    """A recurrent memory, of which each fold makes a new one; `carried` (B,) is the old one's share in that."""
    several = carried[~np.isnan(carried)]
    share = intervals.mean(several, np.arange(len(several))) if len(several) else None
    old = "" if share is None else f", from the second segment on {share.mean:.0%} [{share.low:.0%}, {share.high:.0%}]"
    return _Said(
        written_in="all layers",
        old=f"the memory of before{old}",
        begun="",
        what="rows of the memory",
        axis="row of the memory",
        whom="{count} users",
        read_in="all layers",
    )


def users(material: Material, gallery: Gallery) -> str:
    """Three users as one model answers them: the compressed one, where there is one."""
    if not material.closeups:
        return ""
    one = next((one for one in material.closeups if one.history == "compressed"), material.closeups[0])
    text = (
        f"Drawn by chance from users with a long history, not by success; the lists are those of {one.side}. "
        f"{READS[one.history]}"
    )
    if any(side.name == one.side and side.recipe["repeat"] == "head" for side in material.sides):
        text += " Its repeat head, beside that, counts what the user has had."
    shown = boxes([_user(example, one.names) for example in one.examples])
    return f'<h2>Three users</h2>\n{note(text)}<div class="pair">{shown}</div>'


def _user(example: Example, names: Sequence[str]) -> str:
    def name(item: int) -> str:
        return html.escape(names[item])

    history = "".join(_stretch(stretch, name) for stretch in example.history)
    listed = "".join(
        f"<li{' class=hit' if place.hit else ''}>{name(place.item)}{' ✓ hit' if place.hit else ''}"
        f"{' <span class=had>had before</span>' if place.had else ''}</li>"
        for place in example.best
    )
    hit = any(place.hit for place in example.best)
    asked = " · ".join(map(name, example.targets[:10]))
    ranks = "; ".join(f"{side} {', '.join(map(_rank, found[:10]))}" for side, found in example.ranks.items())
    return (
        f'<div class="user"><h3>User {html.escape(example.user)}: {"hit" if hit else "miss"}</h3>\n'
        f"<p><b>History</b>, {example.events:,} events</p>\n{history}"
        f"<p><b>Next</b>: {asked}</p>\n<b>Recommended</b>\n<ol>{listed}</ol>\n"
        f'<p class="note">Rank of what came next: {html.escape(ranks)}.</p></div>'
    )


def _stretch(stretch: Stretch, name: Callable[[int], str]) -> str:
    """How many events are read in that way, and the newest of them."""
    older = stretch.events - len(stretch.newest)
    newest = " · ".join(map(name, stretch.newest))
    before = f"{older:,} older, then " if older else ""
    items = f": {before}{newest}" if newest else ""
    return f"<p class={stretch.how}><b>{HEADINGS[stretch.how]}</b>, {stretch.events:,}{items}</p>\n"


def training(material: Material, gallery: Gallery) -> str:
    lines: list[Curve] = []
    clear = {}
    for side in material.sides:
        mine = [run for run in material.runs if verdicts.is_of(run, side)]
        lines += [curve for run in mine if (curve := curves.of_run(side.name, run)).epochs]
        losses = curves.by_clear_events(mine)
        if losses is not None:
            clear[side.name] = losses
    parts = []
    if lines:
        sentence = (
            "One line per run, so several seeds are several lines; no intervals. The weights of the best epoch by "
            "validation are those that were tested. Losses of recipes with other objectives do not compare."
        )
        drawn = figures.training(lines, material.looks)
        parts.append(gallery("training", "Quality and loss while training", drawn, sentence))
    if clear:
        memory = material.sides[0].recipe["memory"]
        marks = {"R": memory["recent"], "R+S-1": memory["recent"] + memory["segment"] - 1}
        sentence = (
            "Mean over all rows of the best epoch and over seeds, in bins that widen; no intervals. Rows with more "
            "clear events are also rows of longer histories, so compare runs at the same number: there the rows differ "
            "in what lies behind the clear events."
        )
        drawn = figures.clear_events(clear, material.looks, marks)
        parts.append(gallery("clear-events", "Loss by number of clear events", drawn, sentence))
    return f'<h2>How training went</h2>\n<div class="pair">{boxes(parts)}</div>' if parts else ""


def protocol(material: Material, gallery: Gallery) -> str:
    data = "" if material.facts is None else table(verdicts.data_sheet(material.facts), "wide facts")
    protocol = table(verdicts.protocol_sheet(material.runs), "wide facts")
    searches = {
        f"{run.recipe['name']} {run.metrics['history']}, seed {run.metrics['seed']}": run.metrics["protocol"][
            "retrieval"
        ]
        for run in material.runs
        if "retrieval" in run.metrics["protocol"]
    }
    searched = "".join(map(table, report.search_sheets(searches)))
    return f'<h2>The data and the protocol</h2>\n<div class="pair">{boxes([data, protocol])}</div>{searched}'


def ran(material: Material, gallery: Gallery) -> str:
    """Runs, versions and recipes; paths of the machine stay out."""
    parts = [table(verdicts.runs_sheet(material.runs))]
    for side in material.sides:
        recipe = {**side.recipe, "data": dict(side.recipe["data"])}
        if recipe["data"].get("path"):
            recipe["data"]["path"] = Path(recipe["data"]["path"]).name
        text = html.escape(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        parts.append(f"<details><summary>Recipe of {html.escape(side.name)}</summary><pre>{text}</pre></details>\n")
    return "<h2>What was run</h2>\n" + "".join(parts) + table(verdicts.versions_sheet(material.runs))


def _models_and_best_baseline(material: Material) -> list[Side]:
    models = [side for side in material.sides if side.history in ORDER]
    plain = [side for side in material.sides if side.history not in ORDER]
    return models + sorted(plain, key=lambda side: comparison.mean(side, material.metric).mean)[-1:]


def _rank(rank: float) -> str:
    return f"{rank:g}" if np.isfinite(rank) else "beyond the list"


ALL = (summary, quality, groups, costs, worth, attention, users, training, protocol, ran)
