"""Targets and their groups on a log by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from persrec import targets
from persrec.interactions.prepare import prepare
from persrec.prepared import Prepared, Queries, open_prepared
from persrec.recipe.sections import Split
from persrec.targets import targets_of

HOUR = 3_600_000
BASKETS = [  # hour, item
    *[(0, "a"), (0, "b"), (0, "a")],
    *[(20, "c"), (20, "a")],
    *[(50, "a"), (50, "d"), (50, "a"), (51, "b")],
]


@pytest.fixture
def log(tmp_path: Path) -> Prepared:
    frame = pl.DataFrame(
        {
            "user_id": [1] * len(BASKETS) + [2],
            "item_id": [item for _, item in BASKETS] + ["b"],
            "timestamp": [1_600_000_000_000 + hour * HOUR for hour, _ in BASKETS] + [1_600_000_000_000],
        }
    )
    section = {"source": "table", "path": "frame", "deduplicate": False, "unit": "ms"}
    split = Split(kind="next-basket", gap_hours=12, validation=0.4, test=0.5)
    return open_prepared(prepare(section, "baskets", tmp_path, split, frame=frame), split.name)


def test_a_set_holds_each_item_once(log: Prepared) -> None:
    """The last basket is a d a b: a was had 1 event ago, b 4 events ago, d never."""
    assert [field.tolist() for field in log.test] == [[0], [5], [4]]
    found = targets_of(log, log.test)
    assert found.query.tolist() == [0, 0, 0]
    assert found.item.tolist() == [1, 4, 2]
    assert found.age.tolist() == [1, 0, 4]
    assert found.counts.tolist() == [3]
    assert found.gap is not None
    assert (found.gap // HOUR).tolist() == [30]
    assert log.train_end.tolist() == [0, 0]
    assert found.item_events.tolist() == [0, 0, 0], "nothing is trained on, so everything is cold"


def test_training_events_are_counted_up_to_the_bound(log: Prepared) -> None:
    assert log.training_events_per_item.sum() == log.train_end.sum()


def test_groups(log: Prepared) -> None:
    groups = targets_of(log, log.test).groups(lengths=(4, 6), recent=3)
    named = {what: [(name, part.tolist()) for name, part in parts] for what, parts in groups.items()}
    assert named["history length"] == [("4-5", [True] * 3)]
    assert named["hours since the last event"] == [("12-167", [True] * 3)]
    assert named["training events of the item"] == [("0 (cold)", [True] * 3)]
    assert named["last consumption of the item"] == [
        ("never had", [False, True, False]),
        ("had <= 3 events ago", [True, False, False]),
        ("had > 3 events ago", [False, False, True]),
    ]


def test_several_queries_of_one_user(log: Prepared) -> None:
    queries = Queries(np.array([0, 0, 0]), np.array([1, 3, 8]), np.array([2, 1, 1]))
    found = targets_of(log, queries)
    assert found.query.tolist() == [0, 0, 1, 2]
    assert found.item.tolist() == [2, 1, 3, 2]
    assert found.age.tolist() == [0, 1, 0, 7]


def test_a_log_without_times_has_no_gaps(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1] * 4, "item_id": list("abca")})
    data = open_prepared(prepare({"source": "table", "path": "frame"}, "order", tmp_path, frame=frame))
    found = targets_of(data, data.test)
    assert found.gap is None
    assert found.age.tolist() == [3]
    assert "hours since the last event" not in found.groups(lengths=(2,), recent=2)


@pytest.mark.parametrize("together", [1, 13, 1000])
def test_ages_however_many_users_are_looked_at_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    random = np.random.default_rng(0)
    frame = pl.DataFrame({"user_id": np.repeat(np.arange(6), 9), "item_id": random.integers(0, 5, 54)})
    log = open_prepared(prepare({"deduplicate": False}, "few", tmp_path, frame=frame))
    monkeypatch.setattr(targets, "TOGETHER", together)
    queries = Queries(np.array([4, 0, 5, 0]), np.array([3, 1, 8, 7]), np.array([2, 1, 1, 2]))
    found, expected = targets_of(log, queries), []
    for user, end, size in zip(*queries, strict=True):
        own = log.items[9 * user : 9 * user + 9].tolist()
        expected += [
            (item, own[:end][::-1].index(item) + 1 if item in own[:end] else 0)
            for item in dict.fromkeys(own[end : end + size])
        ]
    assert list(zip(found.item.tolist(), found.age.tolist(), strict=True)) == expected
