"""The rows of benchmarks/peers.py: what each model cost and came to, and persrec over RecTools.

Shapes: Q queries.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers_shared import Ints, Settings, Values
from persrec.evaluation import intervals

TARGETS = {  # persrec over RecTools; the figure and what was asked of it before anything was measured
    "seconds_per_epoch": 1 / 2,
    "seconds_to_target": 1 / 4,
    "answer_seconds": 1 / 3,
    "answer_seconds_from_memory": 1 / 8,
    "peak_mb": 1.0,
}


class Measured(NamedTuple):
    """What a cell came to."""

    library: str
    settings: Settings
    about: dict[str, Any]
    ndcg: Values  # (Q,) of each test query
    recall: Values

    def figures(self, target: float) -> dict[str, float | None]:
        """Seconds and megabytes; `target` is the validation NDCG@10 that is to be reached."""
        about, seconds = self.about, self.about["seconds"]
        reached = [second for second, value in zip(seconds, about["validation"], strict=True) if value >= target]
        metrics, memory = about["metrics_seconds"], about.get("recommend_seconds_from_memory")
        return {
            "seconds_per_epoch": float(np.median(np.diff([0, *seconds]))),
            "cpu_seconds_per_epoch": float(np.median(np.diff([0, *about["cpu_seconds"]]))),
            "seconds_to_target": reached[0] if reached else None,
            "recommend_seconds": about["recommend_seconds"],
            "metrics_seconds": metrics,
            "recommend_seconds_from_memory": memory,
            "answer_seconds": about["recommend_seconds"] + metrics,
            "answer_seconds_from_memory": None if memory is None else memory + metrics,
            "peak_mb": about["peak_mb"],
        }


def rows(name: str, every: list[Measured], users: Ints, *, named: bool) -> Iterator[dict[str, Any]]:
    """One row per cell, then pairs and ratios of persrec to RecTools."""
    for model, sampling in dict.fromkeys((one.settings.model, one.settings.sampling) for one in every):
        several = [one for one in every if (one.settings.model, one.settings.sampling) == (model, sampling)]
        common = {"dataset": name, "model": model, "sampling": sampling, "named": named}
        theirs = {one.settings.seed: one for one in several if one.library == "rectools"}
        aims = {seed: one.about["validation"][-1] for seed, one in theirs.items()}
        yield from (common | cell_row(one, aims[one.settings.seed], users) for one in several)
        own = [one for one in several if one.library == "persrec"]
        for history in dict.fromkeys(one.settings.history for one in own):
            ours = {one.settings.seed: one for one in own if one.settings.history == history}
            shared = common | {"pair": "persrec/rectools", "history": history, "seeds": len(ours)}
            yield from (shared | row for row in pair_rows(ours, theirs, aims, users))


def cell_row(one: Measured, target: float, users: Ints) -> dict[str, Any]:
    """The flat row of a cell."""
    settings, about = one.settings, one.about
    mean = intervals.mean(one.ndcg, users)
    figures = {key: None if value is None else round(value, 4) for key, value in one.figures(target).items()}
    keys = "time", "width", "layers", "heads", "length", "batch", "negatives"
    return {
        "library": one.library,
        "history": settings.history,
        "seed": settings.seed,
        **figures,
        "epochs": settings.epochs,
        "best_epoch": int(np.argmax(about["validation"])) + 1,
        "validation_ndcg10": round(max(about["validation"]), 6),
        "target_validation_ndcg10": round(target, 6),
        "recall10": round(float(one.recall.mean()), 6),
        "ndcg10": round(mean.mean, 6),
        "low": round(mean.low, 6),
        "high": round(mean.high, 6),
        **{key: getattr(settings, key) for key in keys},
        "batch_events": settings.events,
        "histories": "of any length" if settings.length is None else f"the last {settings.length} events",
        "same_from_memory": about.get("same_from_memory"),
        "versions_of_library": about.get("versions"),
    }


def pair_rows(
    ours: dict[int, Measured], theirs: dict[int, Measured], aims: dict[int, float], users: Ints
) -> Iterator[dict[str, Any]]:
    """Ratios of quality with intervals over users and seeds, and of cost as means over seeds."""
    for metric in ("ndcg", "recall"):
        over, under = ([getattr(side[seed], metric) for seed in ours] for side in (ours, theirs))
        ratio = intervals.ratio(over, under, users)._asdict()
        yield {"metric": f"{metric}10"} | {key: round(value, 4) for key, value in ratio.items()}
    own, other = ([side[seed].figures(aims[seed]) for seed in ours] for side in (ours, theirs))
    for figure, target in TARGETS.items():
        against = figure.removesuffix("_from_memory")
        tops, bottoms = ([one[key] for one in side] for side, key in ((own, figure), (other, against)))
        if None not in tops and None not in bottoms:
            quotient = float(np.sum(tops) / np.sum(bottoms))  # type: ignore[arg-type]
            yield {"metric": figure, "mean": round(quotient, 4), "target": target, "met": quotient <= target}


def show(found: Sequence[dict[str, Any]]) -> None:
    """A line per row."""
    for row in found:
        head = f"{row['dataset']:14s} {row['model']:7s} {row.get('sampling', ''):9s} {row.get('history', ''):10s}"
        if "pair" in row:
            bounds = f"[{row['low']:.3f}, {row['high']:.3f}]" if "low" in row else f"asked <= {row['target']:.3f}"
            print(f"{head} persrec/rectools {row['metric']:28s} {row['mean']:.3f} {bounds}")
        else:
            keys = "seconds_per_epoch", "seconds_to_target", "answer_seconds", "peak_mb", "recall10", "ndcg10"
            print(f"{head} {row['library']:9s}", ", ".join(f"{key} {row[key]}" for key in keys if key in row))
