"""What fit, evaluate, compare and prepare found, as sheets."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from persrec.evaluation.intervals import Interval
from persrec.evaluation.sheets import Sheet

if TYPE_CHECKING:
    from persrec.evaluation.comparison import Pair, Retention, Side

Rows = Sequence[Mapping[str, Any]]


def facts_table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Two columns: what, and how much."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for what, value in rows:
        table.add_row(what, value)
    return table


def metrics_sheet(title: str, rows: Rows, metrics: Sequence[str]) -> Sheet:
    """One line per history, means over seeds; a row is a run's summary with `history`, `seed`, `seconds`, `epochs`."""
    found = []
    for history, same in _by_history(rows).items():
        means = [_spread([row["metrics"][metric]["mean"] for row in same]) for metric in metrics]
        sizes, epochs, seconds = (
            np.mean([row[key] for row in same]) for key in ("bytes_per_user", "epochs", "seconds")
        )
        found.append((history, str(len(same)), *means, f"{sizes:,.0f}", f"{epochs:.0f}", f"{seconds:,.0f}"))
    return Sheet(title, ("history", "seeds", *metrics, "memory bytes", "epochs", "seconds"), found)


def group_sheet(title: str, rows: Rows, what: str, metric: str) -> Sheet:
    """One metric by a group of the targets, a column per history (baselines only where there is none), means over
    seeds."""
    histories = _by_history([row for row in rows if row["epochs"]] or rows)
    found = []
    for place, group in enumerate(rows[0]["groups"][what]):
        means = [
            _spread([row["groups"][what][place]["metrics"][metric]["mean"] for row in same])
            for same in histories.values()
        ]
        found.append((group["group"], f"{group['targets']:,}", *means))
    return Sheet(title, (what, "targets", *histories), found)


WORTH = {"history_tests": ("history", "full", "reading less"), "memory_tests": ("memory", "compressed", "its memory")}


def worth_sheets(rows: Rows, metric: str) -> list[Sheet]:
    """What full models lose without old events, and compressed ones without their memories or with other boundaries;
    means over seeds.

    Ratios stand with their 95% intervals over users: of several seeds, the means of the bounds, while what seeds differ
    by is the deviation beside the mean.
    """
    found = []
    for key, words in WORTH.items():
        those = [row for row in rows if key in row]
        found += [_tests(those, key, metric, *words)] if those else []
    return found


def _tests(rows: Rows, key: str, metric: str, what: str, model: str, how: str) -> Sheet:
    tested, asked = [row[key] for row in rows], rows[0][key][0].get("queries")
    whole = asked is None or asked == rows[0]["protocol"]["queries"]
    found = []
    for tests in zip(*tested, strict=True):
        mean = _spread([test[metric]["mean"] for test in tests])
        ratio = _with_bounds([test["ratio"] for test in tests])
        none = np.mean([test.get("got_none", 0.0) for test in tests])  # beside whom nobody had folded as few events
        name = tests[0][what] + (f" ({none:.0%} got none)" if none >= 0.005 else "")
        found.append((name, mean, ratio))
    where = "the same targets" if whole else f"{asked:,} of the queries"
    title = f"{metric} of the {model} model on {where}, {how}"
    return Sheet(title, (what, metric, f"of {model} [95%, users]"), found)


def search_sheets(searches: Mapping[str, Mapping[str, Any]]) -> list[Sheet]:
    """What indexes find and cost beside exact search: `protocol.retrieval` of runs by their names; of exact search
    alone, nothing. Runs before exact search was timed have no figures of it."""
    found = [
        (
            name,
            one["kind"],
            f"{one['recall']:.4f}",
            *(f"{one[key]:.3f}" if key in one else "" for key in ("milliseconds", "exact_milliseconds")),
            *(f"{one[key]:,}" if key in one else "" for key in ("nbytes", "exact_nbytes")),
        )
        for name, one in searches.items()
        if "recall" in one
    ]
    head = ("run", "index", "recall", "ms per query", "exact, ms", "bytes", "exact, bytes")
    return [Sheet("The ten best items of a query by an index, beside exact search", head, found)] if found else []


def sides_sheet(title: str, sides: Sequence["Side"], means: Sequence[Interval], metric: str) -> Sheet:
    """One line per side: the mean over seeds with its interval."""
    found = [
        (side.name, str(len(side.tables)), side.recipe["time"], f"{mean.mean:.4f} {_bounds(mean, 4)}")
        for side, mean in zip(sides, means, strict=True)
    ]
    return Sheet(title, ("", "seeds", "time", f"{metric} [95%]"), found)


def pairs_sheet(title: str, pairs: Sequence["Pair"]) -> Sheet:
    """One line per pair: ratio and difference with their intervals, p of the permutation test."""
    found = [
        (
            f"{pair.over} / {pair.under}",
            f"{_number(pair.ratio.mean, '.3f')} {_bounds(pair.ratio, 3)}",
            f"{_number(pair.difference.mean, '+.4f')} {_bounds(pair.difference, 4)}",
            _number(pair.p, ".4f"),
        )
        for pair in pairs
    ]
    return Sheet(title, ("pair", "ratio [95%]", "difference [95%]", "p"), found)


def comparison_rows(
    group: Mapping[str, Any],
    sides: Sequence["Side"],
    means: Sequence[Interval],
    pairs: Sequence["Pair"],
    kept: Sequence["Retention"],
) -> list[dict[str, Any]]:
    """Flat rows for JSON, each with what it is of: a `run`, a `pair` or the `retention` of a recipe (null, where full
    and recent do not differ)."""
    found = [
        {"run": side.name, **mean._asdict(), "seeds": len(side.tables)} for side, mean in zip(sides, means, strict=True)
    ]
    found += [pair.as_row() for pair in pairs]
    found += [
        {"retention": one.recipe, "gain": one.gain._asdict(), "kept": one.kept and one.kept._asdict()} for one in kept
    ]
    return [{**group, **row} for row in found]


def retention_sentences(found: Sequence["Retention"], metric: str, group: str = "") -> list[str]:
    """What compression keeps of what history brings, or that there is nothing to keep; `group` names the targets."""
    sentences = []
    for one in found:
        gain = f"full / recent {_number(one.gain.mean, '.3f')} {_bounds(one.gain, 3)}"
        if not math.isfinite(one.gain.low):
            text = f"Too few users have a hit to say whether history helps: {gain} in {metric}."
        elif one.kept is None:
            text = f"No history effect shown: {gain} in {metric}; retention is not defined."
        else:
            kept = f"{one.kept.mean:.2f} {_bounds(one.kept, 2)}"
            text = f"Retention{group}, (compressed - recent) / (full - recent), is {kept}; {gain}."
        sentences.append(f"{one.recipe}: {text}")
    return sentences


def _by_history(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["history"], []).append(row)
    return found


def _bounds(interval: Interval, digits: int) -> str:
    """The interval, or that there is none: a ratio to nothing, or of a user or two."""
    if not math.isfinite(interval.low + interval.high):
        return "[-]"
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _with_bounds(found: Sequence[Mapping[str, float]]) -> str:
    """Means over seeds of figures and of the bounds of their intervals."""
    middle, low, high = (float(np.mean([one[key] for one in found])) for key in Interval._fields)
    return f"{_spread([one['mean'] for one in found])} {_bounds(Interval(middle, low, high), 3)}"


def _spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{np.mean(values):.4f}" if np.isfinite(values).all() else "-"  # of a ratio to nothing
    return mean if len(values) == 1 or mean == "-" else f"{mean} ±{np.std(values, ddof=1):.4f}"
