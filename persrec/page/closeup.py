"""One model looked at closely: what its reads cost, three users, and what its tokens attend to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from persrec.batches import Windows, collate, evaluation_windows
from persrec.evaluation.comparison import Side
from persrec.evaluation.intervals import Interval
from persrec.models.model import Model
from persrec.page import examples, reading_cost
from persrec.page.attended import Attended, attended, why_not
from persrec.page.examples import Example
from persrec.prepared import Prepared
from persrec.recipe.recipe import Recipe
from persrec.run import Run
from persrec.serving.recommender import Recommender

TIMED, WATCHED = 50, 64  # users


@dataclass(frozen=True)
class Closeup:
    """Of the first run of a side."""

    side: str
    history: str
    sampled: int  # users whose reads were timed
    milliseconds: Interval  # of a read: median and the middle half of these users
    bytes_kept: float
    attended: Attended | str | None  # why it is not shown; None without a memory
    examples: list[Example]
    names: list[str]  # (V+1,) of the items


def look_closely(run: Run, side: Side, sides: Sequence[Side], data: Prepared, titles: Mapping[str, str]) -> Closeup:
    """Load the model of a run and measure; which users are taken is the same for all runs of a log."""
    loaded = Recommender.load(run.folder)
    model, cell = loaded.model, loaded.recipe
    random = np.random.default_rng(0)
    data = replace(data, inputs=cell.model.inputs).asking(cell.evaluation.part)
    windows = evaluation_windows(data.test.user, data.test.end, length=cell.length)
    timed = windows.take(random.permutation(len(windows.user))[:TIMED])
    low, middle, high = np.quantile(reading_cost.milliseconds(model, data, timed, cell.time), [0.25, 0.5, 0.75])
    chosen = examples.choose(data.test, cell.memory.segment + cell.memory.recent)
    return Closeup(
        side=side.name,
        history=side.history,
        sampled=len(timed.user),
        milliseconds=Interval(float(middle), float(low), float(high)),
        bytes_kept=reading_cost.bytes_kept(model, windows, run.metrics["bytes_per_user"], cell.time),
        attended=_attended(model, data, windows, cell),
        examples=examples.examples(model, data, cell, chosen, sides),
        names=examples.names(data, titles),
    )


def _attended(model: Model, data: Prepared, windows: Windows, cell: Recipe) -> Attended | str | None:
    """Of one query each of some users with a memory, or why there is nothing to look at; None without a memory."""
    if cell.history != "compressed" or model.rule.recent is None:
        return None
    reason = why_not(model, cell.memory)
    if reason is not None:
        return reason
    least = model.rule.segment + model.rule.recent
    long = np.flatnonzero(windows.columns >= least)
    _, first = np.unique(windows.user[long], return_index=True)
    chosen = np.random.default_rng(1).permutation(long[first])[:WATCHED]
    if not len(chosen):
        return f"no test query has S + R = {least} events before it, so nobody has a memory"
    order = np.argsort(-windows.columns[chosen], kind="stable")
    return attended(model, collate(data, windows.take(chosen[order]), time=cell.time))
