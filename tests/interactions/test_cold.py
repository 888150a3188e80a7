import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.interactions.cold import Part, cold
from persrec.interactions.split import split
from persrec.recipe.sections import Split

SCHEMA = {"user": pl.Int64, "end": pl.Int64, "size": pl.Int64}


def log(histories):
    rows = [(user, item) for user, items in enumerate(histories) for item in items]
    return pl.LazyFrame(rows, schema={"user_id": pl.Int32, "item_id": pl.Int32}, orient="row")


def test_by_hand():
    """Training has items 1, 2 and 3; user 1 has none of it; 4 and 5 are asked for, 4 twice."""
    histories = [[1, 2, 4, 3], [4, 1], [3, 3, 5]]
    bounds = pl.DataFrame({"train_end": [2, 0, 2]})
    queries = pl.DataFrame([(0, 2, 2), (1, 0, 1), (1, 1, 1), (2, 2, 1)], schema=SCHEMA, orient="row")
    found = cold([Part(log(histories).collect(), bounds, queries)], items=5)
    assert found.as_dict() == {
        "queries": 4,
        "users": 3,
        "cold_users": 1,
        "targets": 5,
        "cold_targets": 3,
        "cold_items": 2,
    }
    assert str(found) == (
        "4 test queries; 1 of the 3 users asked are cold (no event in training); 3 of 5 targets are of cold items "
        "(2 items)"
    )


def test_nothing_asked():
    found = cold(
        [Part(log([[1, 2]]).collect(), pl.DataFrame({"train_end": [2]}), pl.DataFrame(schema=SCHEMA))], items=2
    )
    assert set(found.as_dict().values()) == {0}


@given(st.integers(0, 10_000), st.sampled_from(["leave-one-out", "next-basket", "global-time"]))
@settings(max_examples=40)
def test_as_one_would_count_by_hand(seed, kind):
    random = np.random.default_rng(seed)
    histories = [random.integers(1, 9, random.integers(1, 12)).tolist() for _ in range(6)]
    times = np.concatenate([np.sort(random.integers(0, 10**9, len(items))) for items in histories])
    events = log(histories).with_columns(pl.Series("timestamp", times, dtype=pl.Int64))
    bounds, _, test = (part.collect() for part in split(events, Split(kind=kind).model_dump(exclude_none=True)))
    ends = bounds["train_end"].to_list()
    known = {item for items, end in zip(histories, ends, strict=True) for item in items[:end]}
    targets = [item for user, end, size in test.rows() for item in histories[user][end : end + size]]
    found = cold([Part(events.collect(), bounds, test)], items=8)
    assert found.targets == len(targets)
    assert found.cold_targets == sum(item not in known for item in targets)
    assert found.cold_items == len(set(targets) - known)
    assert found.cold_users == len({user for user in test["user"] if ends[user] == 0})
