"""The two oracles of the log of causes beside models, and its targets by cause and age; used by evidence.py.

Shapes: T targets, each the set of a query of its own.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from persrec.datasets.causes import Events, draw
from persrec.datasets.causes.oracles import Oracle
from persrec.datasets.causes.world import CAUSES
from persrec.evaluation import comparison, intervals
from persrec.evaluation.comparison import Side
from persrec.recipe.recipe import Recipe

FAR = 200  # events ago
EVERYTHING, CLEAR = "oracle", "oracle of the clear events"
Part = npt.NDArray[np.bool_]


def oracles(side: Side) -> list[Side]:
    """What is best with full knowledge, and with knowledge of the last R events, on the targets of a side."""
    table, memory = next(iter(side.tables.values())), side.recipe["memory"]
    user, end = (table.column(name).to_numpy() for name in ("user", "end"))
    oracle = Oracle(_events(side))
    found = []
    for name, recent in ((EVERYTHING, None), (CLEAR, memory["recent"])):
        ranked = table.set_column(table.column_names.index("rank"), "rank", pa.array(oracle.ranks(user, end, recent)))
        found.append(replace(side, name=name, history=name, tables={0: ranked}))
    return found


def settings(chosen: Recipe) -> dict[str, Any]:
    """What rows say of the log; `only` is the one cause that there is, where there is one."""
    own = chosen.data.causes
    return {"data_seed": own.seed, "dial": own.dial, "series": own.series, "only": own.only}


def parts(side: Side) -> list[tuple[str, Part]]:
    """Targets by cause, and by how many events ago the evidence for them was: <= R, more, more than `FAR`, none."""
    events, table = _events(side), next(iter(side.tables.values()))
    place = events.offsets[table.column("user").to_numpy()] + table.column("end").to_numpy()
    cause, age = events.cause[place], events.age[place]
    recent = side.recipe["memory"]["recent"]
    ages: list[tuple[str, Part]] = [
        ("", np.ones(len(age), dtype=bool)),
        (f", {recent} events ago or fewer", (age > 0) & (age <= recent)),
        (f", more than {recent} ago", age > recent),
        (f", more than {FAR} ago", age > FAR),
        (", never", age == 0),
    ]
    found = [
        (f"cause: {name}{when}", (cause == number) & part) for number, name in enumerate(CAUSES) for when, part in ages
    ]
    return [(name, part) for name, part in found if part.any()]


def closed(side: Side, known: list[Side], metric: str, part: Part | None) -> dict[str, Any]:
    """Share of the oracles' gap that a side closes: (side - recent oracle) / (full oracle - recent oracle)."""
    users, values = comparison.values([side, *known], sorted(side.tables), metric, part)
    (own, owns), (best, bests), (clear, clears) = intervals.paired(values, users)
    share = intervals.quotient(own - clear, owns - clears, best - clear, bests - clears)
    return {"oracle": round(best, 6), "oracle_recent": round(clear, 6), "gap_closed": round(share.mean, 4)} | {
        f"gap_closed_{bound}": round(getattr(share, bound), 4) for bound in ("low", "high")
    }


def _events(side: Side) -> Events:
    return draw(side.recipe["data"]["causes"])
