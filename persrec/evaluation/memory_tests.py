"""What the memory of a compressed model is worth: the same model and targets, with its memories taken away, exchanged,
and with the boundary between memory and clear events elsewhere.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from persrec.evaluation import intervals
from persrec.evaluation.evaluate import Evaluation, EvaluationSettings, ranks
from persrec.models import memory as memories
from persrec.models.model import Model
from persrec.prepared import Prepared


def memory_tests(
    model: Model,
    data: Prepared,
    settings: EvaluationSettings,
    found: Evaluation,
    metric: str,
    *,
    on_queries: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:
    """Rows with the metric of each test, and its ratio to what the model `found` with its memories as they are.

    An open block of R to R+S-1 events is what serving sees; a model that was trained with moving boundaries should
    not mind where it stands.
    """
    segment, recent = model.rule
    assert recent is not None
    tests: dict[str, dict[str, Any]] = {
        "emptied": {"recall": lambda memory, users: memories.emptied(memory)},
        "of another user": {"recall": memories.of_others},
    }
    for clear in sorted({recent, recent + segment // 2, recent + segment - 1}):
        tests[f"{clear} clear events"] = {"open_block": clear}
    rows = []
    for name, changes in tests.items():
        rank = ranks(model, data, settings, found.targets, on_queries=on_queries, **changes)
        values = replace(found, rank=rank).values(metric)
        rows.append(
            {
                "memory": name,
                metric: intervals.mean(values, found.user)._asdict(),
                "ratio": intervals.ratio([values], [found.values(metric)], found.user)._asdict(),
            }
        )
    return rows
