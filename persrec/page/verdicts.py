"""What runs held against each other show, in sentences and sheets: only what a model without old events does not.

Whatever `recent`, which throws old events away, does as well is no merit of a history or of a memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from persrec.evaluation import comparison
from persrec.evaluation.comparison import ORDER, Side
from persrec.evaluation.intervals import Interval
from persrec.evaluation.sheets import Sheet
from persrec.run import Run

DATA = {
    "users": "users",
    "items": "items",
    "events": "events",
    "median_events": "events per user, median",
    "max_events": "events per user, most",
    "repeats": "events that repeat an item of the user",
    "ties": "events at the time of another of the user",
    "duplicates_dropped": "exact duplicates dropped",
    "filtered_dropped": "dropped by the k-core",
    "first_time": "first event, UTC",
    "last_time": "last event, UTC",
}
LISTS = {
    "coverage": "coverage",
    "gini": "Gini",
    "novelty": "novelty, bits",
    "average_popularity": "training events per item",
    "diversity": "diversity",
}
TIMES = {"none": "none", "last": "that of the last event", "next": "also that of the query"}


def verdicts(sides: list[Side], metric: str) -> list[str]:
    """For each recipe what old history and memory are worth, then the best model beside the best baseline."""
    found = []
    for recipe in dict.fromkeys(side.recipe["name"] for side in sides):
        forms = {side.history: side for side in sides if side.recipe["name"] == recipe and side.history in ORDER}
        found += [f"{recipe}: {text}" for text in _of_recipe(forms, metric)] if forms else []
    return found + _beside_baselines(sides, metric) + comparison.time_notes(sides)


def _of_recipe(forms: Mapping[str, Side], metric: str) -> list[str]:
    if "recent" not in forms:
        return [
            "no run that throws old events away (history: recent) is among these, so nothing here says what old events "
            "or a memory of them are worth."
        ]
    recent, found = forms["recent"], []
    if "full" in forms:
        gain = comparison.pair(forms["full"], recent, metric).ratio
        if gain.low > 1:
            found.append(f"old events help: the full history gives {_times(gain)} the {metric} of recent events alone.")
        else:
            found.append(
                f"no worth of old events is seen: the full history gives {_times(gain)} the {metric} of recent events "
                "alone, so nothing here shows what a memory could keep."
            )
    if "compressed" in forms:
        kept = comparison.pair(forms["compressed"], recent, metric).ratio
        said = "is ahead of recent events alone" if kept.low > 1 else "is not ahead of recent events alone"
        found.append(f"the compressed history {said}: {_times(kept)} their {metric}.")
    return found or ["only recent events were read, so nothing is said of older ones."]


def _beside_baselines(sides: list[Side], metric: str) -> list[str]:
    ordered = sorted(sides, key=lambda side: comparison.mean(side, metric).mean)
    models = [side for side in ordered if side.history in ORDER]
    plain = [side for side in ordered if side.history not in ORDER]
    if not models or not plain:
        return []
    over, under = models[-1], plain[-1]
    ratio = comparison.pair(over, under, metric).ratio
    said = "is ahead of" if ratio.low > 1 else "is behind" if ratio.high < 1 else "cannot be told from"
    among = f"the best of {len(models)} models on these targets" if len(models) > 1 else "the only model"
    beside = f"the best of {len(plain)} baselines" if len(plain) > 1 else "the only baseline"
    return [f"{over.name}, {among}, {said} {under.name}, {beside}: {_times(ratio)} its {metric}."]


def quality_sheet(sides: Sequence[Side], runs: Sequence[Run], metrics: Sequence[str]) -> Sheet:
    """A line per side: means over its seeds with 95% intervals, and the share of seen items in the top 10."""
    rows = []
    for side in sides:
        seen = [run.metrics["protocol"]["seen_in_top_10"] for run in runs if is_of(run, side)]
        means = [cell(comparison.mean(side, metric)) for metric in metrics]
        rows.append((side.name, str(len(side.tables)), *means, f"{sum(seen) / len(seen):.0%}"))
    head = ("run", "seeds", *(f"{metric} [95%]" for metric in metrics), "seen in top 10")
    return Sheet("Test targets: means over seeds, with 95% intervals", head, rows)


def group_sheet(
    by: str, names: Sequence[str], counts: Sequence[int], values: Mapping[str, Sequence[Interval]]
) -> Sheet:
    """A line per group of the targets, a column per side."""
    rows = [
        (name, f"{count:,}", *(cell(found[place]) for found in values.values()))
        for place, (name, count) in enumerate(zip(names, counts, strict=True))
    ]
    return Sheet(f"By {by}", (by, "targets", *values), rows)


def runs_sheet(runs: Sequence[Run]) -> Sheet:
    """A line per run: its form and size, and how it was trained."""
    rows = []
    for run in runs:
        recipe, found = run.recipe, run.metrics
        memory, model = recipe["memory"], recipe["model"]
        if found["epochs"]:
            sizes = f"S {memory['segment']}, R {memory['recent']}"
            sizes += f", K {memory['tokens']}" if found["history"] == "compressed" else ""
            shape = f"{model['layers']} x {model['width']}, {model['heads']} heads"
            epochs = f"{found['best_epoch'] + 1} of {found['epochs']}"
        else:
            sizes, shape, epochs = "", "lists" if "recommendations" in found else "baseline", ""
        line = (recipe["name"], found["history"], str(found["seed"]), shape, sizes, epochs, f"{found['seconds']:,.0f}")
        rows.append(line)
    head = ("recipe", "history", "seed", "layers x width", "segments", "best epoch", "seconds")
    return Sheet("Runs", head, rows)


def versions_sheet(runs: Sequence[Run]) -> Sheet:
    """Which versions made the runs; several where they differ."""
    packages = dict.fromkeys(name for run in runs for name in run.versions)
    rows = [(name, ", ".join(dict.fromkeys(run.versions.get(name, "?") for run in runs))) for name in packages]
    return Sheet("Versions", ("package", "version"), rows)


def data_sheet(facts: Mapping[str, Any]) -> Sheet:
    """Counts of the prepared log."""
    counts, source = facts["counts"], facts["source"]
    rows = [("source", str(source["section"]["source"]))]
    rows += [(f"file {file['name']}", f"SHA-256 {file['sha256'][:12]}…") for file in source["files"]]
    rows += [(what, _count(counts[key])) for key, what in DATA.items() if counts.get(key) is not None]
    return Sheet("Data, as prepared", ("what", "how much"), rows)


def protocol_sheet(runs: Sequence[Run]) -> Sheet:
    """The rules that the figures hold under; runs under other splits or rules for seen items are refused."""
    protocol = runs[0].metrics["protocol"]
    times, lengths = (dict.fromkeys(run.metrics["protocol"][key] for run in runs) for key in ("time", "length"))
    searches = dict.fromkeys(_search(run.metrics["protocol"].get("retrieval", {"kind": "flat"})) for run in runs)
    rows = [
        ("split", protocol["split"]),
        ("evaluated", f"its {protocol.get('part', 'test')} targets"),
        ("users asked", _count(protocol["users"])),
        *[("of them cold, without training", _count(protocol[key])) for key in ("cold_users",) if key in protocol],
        ("queries", _count(protocol["queries"])),
        ("targets", _count(protocol["targets"])),
        ("of them seen before by the user", _count(protocol["targets_seen_before"])),
        ("of them cold, never trained on", _count(protocol["cold_targets"])),
        ("ranked", protocol["ranked"]),
        ("searched by", ", ".join(searches)),
        ("items seen before", _repeats(protocol)),
        ("ties", protocol["ties"]),
        ("time known to the model", ", ".join(TIMES[time] for time in times)),
        ("history used", ", ".join("all of it" if one is None else f"the last {one:,} events" for one in lengths)),
    ]
    return Sheet("Protocol", ("rule", "value"), rows)


def _repeats(protocol: dict[str, Any]) -> str:
    """What becomes of items that the user had before."""
    if protocol["exclude_seen"]:
        return "excluded, the target never"
    odds = protocol.get("seen_odds")
    return "may be recommended" if odds is None else f"may be recommended, at {odds:g} of their odds"


def lists_sheet(sides: Sequence[Side], runs: Sequence[Run]) -> Sheet:
    """What lists of ten are like as wholes, means over the runs of a side; runs that were not asked are left out."""
    rows = []
    for side in sides:
        found = [run.metrics["lists"] for run in runs if is_of(run, side) and "lists" in run.metrics]
        if found:
            means = (sum(one[key] for one in found) / len(found) for key in LISTS)
            rows.append((side.name, *(f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}" for mean in means)))
    return Sheet("Lists of ten as wholes, means over seeds, no intervals", ("run", *LISTS.values()), rows)


def is_of(run: Run, side: Side) -> bool:
    """Whether a run is one of a side's."""
    return run.recipe["name"] == side.recipe["name"] and run.metrics["history"] == side.history


def cell(value: Interval, digits: int = 4) -> str:
    """A mean and its interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _search(retrieval: Mapping[str, Any]) -> str:
    """The kind of index and, of one that is not exact, how much of the exact lists it found."""
    recall = retrieval.get("recall")
    return retrieval["kind"] if recall is None else f"{retrieval['kind']}, recall {recall:.3f} of exact search"


def _times(ratio: Interval) -> str:
    return f"{cell(ratio, 3)} times"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
