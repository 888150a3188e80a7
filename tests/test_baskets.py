"""Targets drawn from baskets, on a log by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from persrec.baskets import drawn
from persrec.batches import Budget, Plan, Windows, collate
from persrec.interactions.prepare import prepare
from persrec.prepared import Prepared, open_prepared

HOUR = 3_600_000
HOURS = {1: [0, 0, 20, 20, 20, 60, 61, 90, 120], 2: [5, 5, 6, 30, 30, 31]}


@pytest.fixture
def log(tmp_path: Path) -> Prepared:
    """Items 1 to 9 of user 1 in order, 10 to 15 of user 2; the last two events of each are not trained on."""
    rows = [(user, hour) for user, hours in HOURS.items() for hour in hours]
    frame = pl.DataFrame(
        {
            "user_id": [user for user, _ in rows],
            "item_id": list(range(1, len(rows) + 1)),
            "timestamp": [1_600_000_000_000 + hour * HOUR for _, hour in rows],
        }
    )
    return open_prepared(prepare({"source": "table", "path": "frame", "unit": "ms"}, "log", tmp_path, frame=frame))


def test_the_first_item_after_a_break_is_any_of_its_basket(log: Prepared) -> None:
    """User 1's baskets: 1 2 | 3 4 5 | 6 7 | 8 | 9; user 2's: 10 11 12 | 13 14 15, of which 13 is trained on."""
    windows = Windows(np.array([0, 1]), np.array([0, 0]), np.array([6, 3]), np.array([2, 0]))
    batch = collate(log, windows, time="next")
    random = np.random.default_rng(0)
    found = torch.stack([drawn(log, 12 * HOUR, windows, batch.history.target, random) for _ in range(200)])
    options = [[set(found[:, user, column].tolist()) for column in range(8)] for user in range(2)]
    assert options[0] == [{0}, {0}, {2}, {3, 4, 5}, {4}, {5}, {6, 7}, {7}]
    assert options[1] == [{11}, {12}, {13}, {0}, {0}, {0}, {0}, {0}]


def test_where_nothing_is_asked_for_nothing_is_drawn(log: Prepared) -> None:
    """As in the batch of a device that has none left: the last event of a user."""
    windows = Windows(np.array([0]), np.array([8]), np.array([9]), np.array([0]))
    target = collate(log, windows, time="next").history.target
    assert drawn(log, 12 * HOUR, windows, target, np.random.default_rng(0)).tolist() == [[0]]


def test_a_plan_draws_anew_in_every_epoch_and_the_same_in_the_same(log: Prepared) -> None:
    def targets(seed: int) -> list[list[int]]:
        plan = Plan(
            log,
            seed=seed,
            length=None,
            budget=Budget(4, None, None, 10),
            random_first_segment=False,
            time="next",
            draw_after_ms=12 * HOUR,
        )
        found = []
        for epoch in range(20):
            plan.at(epoch)
            (windows,) = list(plan)
            batch = plan[windows]
            found.append(batch.history.target[batch.user == 0].flatten().tolist())
        return found

    first = targets(0)
    assert first == targets(0)
    assert first != targets(1)
    assert {row[1] for row in first} == {3, 4, 5}
    assert {tuple(row[2:4]) for row in first} == {(4, 5)}
