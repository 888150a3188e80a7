"""Anybody's lists: read from every form, scored as persrec scores its own, and refused by name where they are wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from persrec import api, metrics
from persrec.errors import UserError
from persrec.evaluation.evaluate import seen_share
from persrec.evaluation.recommendations import Scored, read, score
from persrec.prepared import Prepared, Queries
from persrec.retrieval.search import BruteForce, rank_targets, top_k
from persrec.retrieval.seen import Seen
from persrec.targets import Targets, targets_of
from tests.small import events, prepared_of

INF = np.inf


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Users a, b, c with these histories; items are i1 to i6, and i6 alone is nobody's in the lists below."""
    histories = {"a": "i1 i2 i3 i4", "b": "i2 i2 i5 i1", "c": "i6 i1 i3"}
    rows = [(user, item) for user, items in histories.items() for item in items.split()]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_row_index("timestamp", offset=1000)
    return prepared_of(tmp_path_factory.mktemp("log"), frame)[1]


def lists_of(**lists: str) -> pl.DataFrame:
    """Lists such as a="i1 i2" as rows, ranks from 1."""
    rows = [(user, item, rank) for user, items in lists.items() for rank, item in enumerate(items.split(), start=1)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "rank"], orient="row")


def queries_of(*rows: tuple[int, int, int]) -> Queries:
    return Queries(*np.array(rows, np.int64).T)


LAST = queries_of((0, 3, 1), (1, 3, 1), (2, 2, 1))  # the last event of each user: i4, i1, i3


def scored(
    data: Prepared, frame: pl.DataFrame, queries: Queries = LAST, *, k: int = 3, exclude: bool = False
) -> Scored:
    return score(read(frame), data, targets_of(data, queries), k=k, exclude_seen=exclude)


def test_ranks_by_hand(data: Prepared) -> None:
    got = scored(data, lists_of(a="i6 i4 i5", b="i1", c="i5 i6 i1"))
    assert got.rank.tolist() == [2, 1, INF]
    assert got.lists.tolist() == [[6, 4, 5], [1, 0, 0], [5, 6, 1]]
    assert got.counts == {
        "queries without a list": 0,
        "lists not asked for": 0,
        "unknown items": 0,
        "seen items": 2,
        "lists shorter than k": 1,
    }


def test_seen_items_take_no_rank_where_they_are_excluded(data: Prepared) -> None:
    """User c had i6 and i1. User a is asked for i4 and has had i2: without it, i4 is second."""
    got = scored(data, lists_of(a="i2 i6 i4 i5", b="i2 i1", c="i6 i3"), exclude=True)
    assert got.rank.tolist() == [2, 1, 1]
    assert got.lists.tolist() == [[6, 4, 5], [1, 0, 0], [3, 0, 0]]
    assert got.counts["seen items"] == 3


def test_a_target_that_was_seen_keeps_its_rank(data: Prepared) -> None:
    """User b is asked for its second i2, which its list has after i1 and the seen i2 is not hidden from itself."""
    queries = queries_of((1, 1, 1))
    assert scored(data, lists_of(b="i1 i2"), queries, exclude=True).rank.tolist() == [2]
    assert scored(data, lists_of(b="i1 i2"), queries, exclude=True).lists.tolist() == [[1, 0, 0]]


def test_a_set_of_targets_and_one_list_for_several_queries(data: Prepared) -> None:
    """User a is asked for {i2, i3} after one event, then for i4 after three."""
    queries = queries_of((0, 1, 2), (0, 3, 1))
    got = scored(data, lists_of(a="i3 i5 i2 i4"), queries)
    assert got.rank.tolist() == [3, 1, 4]
    values = metrics.per_user(got.rank, targets_of(data, queries).counts, (3,))
    assert values["recall@3"].tolist() == [1, 0]
    assert values["map@3"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 0])


def test_what_is_missing_or_unknown_is_counted_and_missed(data: Prepared) -> None:
    """Unknown items take their rank; users whom nobody asks and queries without a list are counted."""
    got = scored(data, lists_of(a="x1 i4 x2", b="i1 i2 i3", stranger="i1"), queries_of((0, 3, 1), (2, 2, 1)))
    assert got.rank.tolist() == [2, INF]
    assert got.lists.tolist() == [[0, 4, 0], [0, 0, 0]]
    assert got.counts == {
        "queries without a list": 1,
        "lists not asked for": 2,
        "unknown items": 2,
        "seen items": 0,
        "lists shorter than k": 0,
    }


def test_the_share_of_seen_items_by_hand(data: Prepared) -> None:
    """User a after i1, then after i1 i2 i3; user b after i2 i2 i5. A place without an item counts for nothing."""
    asked = replace(data, test=queries_of((0, 1, 1), (0, 3, 1), (1, 3, 1)))
    assert seen_share(asked, np.array([[2, 1, 0], [2, 1, 4], [3, 4, 6]])) == (1 + 2 + 0) / (2 + 3 + 3)
    assert seen_share(asked, np.zeros((3, 3), np.int64)) == 0


def test_the_file_of_metrics_says_how_much_of_the_top_10_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a's list i1 and i2 were seen, of b's the target i5, which it had before, and the eleventh; of c's nothing."""
    monkeypatch.chdir(tmp_path)
    histories = {"a": "i1 i2 i3 i1 i4", "b": "i5 i6 i5", "c": "i7 i8 i9 i10 i11 i12"}
    rows = [(user, item) for user, items in histories.items() for item in items.split()]
    log = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_row_index("timestamp", offset=1000)
    given = lists_of(a="i1 i4 i5 i2", b="i5 i1 i2 i3 i4 i7 i8 i9 i10 i11 i6", c="i12 i1")
    api.score_lists(given, "quickstart", ["evaluation={exclude_seen: false, k: [10, 20]}"], frame=log, out="run")
    found = json.loads(Path("run/metrics.json").read_text())
    assert found["protocol"]["seen_in_top_10"] == (2 + 1 + 0) / (4 + 10 + 2)


def test_rows_may_stand_in_any_order(data: Prepared) -> None:
    frame = lists_of(a="i6 i4 i5", b="i1 i3", c="i5 i3 i1")
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    assert shuffled["rank"].to_list() != frame["rank"].to_list()
    assert scored(data, shuffled).rank.tolist() == scored(data, frame).rank.tolist()


def test_lists_are_looked_at_as_far_as_k(data: Prepared) -> None:
    got = scored(data, lists_of(a="i1 i2 i3 i4", b="i1", c="i1"), k=2)
    assert got.lists.tolist() == [[1, 2], [1, 0], [1, 0]]
    assert got.rank.tolist() == [4, 1, INF]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_every_form_of_file(data: Prepared, tmp_path: Path, ending: str) -> None:
    frame = lists_of(a="i6 i4", b="i1", c="i3").with_columns(score=pl.Series([0.5, 0.25, 1.0, 1.0]))
    path = tmp_path / f"lists.{ending}"
    write: dict[str, Any] = {
        "csv": frame.write_csv,
        "tsv": lambda file: frame.write_csv(file, separator="\t"),
        "parquet": frame.write_parquet,
        "jsonl": frame.write_ndjson,
    }
    write[ending](path)
    assert score(read(path), data, targets_of(data, LAST), k=2, exclude_seen=False).rank.tolist() == [2, 1, 1]


def test_ids_of_pandas_that_are_whole_numbers(tmp_path: Path) -> None:
    """A log of whole numbers, and lists in which pandas or a csv made floats or text of them."""
    log = pl.DataFrame(
        {"user_id": [7, 7, 7, 10, 10, 10], "item_id": [1, 2, 3, 3, 2, 1], "timestamp": range(1000, 1006)}
    )
    data = prepared_of(tmp_path, log)[1]
    queries = queries_of((0, 2, 1), (1, 2, 1))
    for user in ([7.0, 10.0], ["7", "10"], [7, 10]):
        frame = pd.DataFrame({"user_id": user, "item_id": [3, 2], "rank": [1.0, 1.0]})
        got = score(read(frame), data, targets_of(data, queries), k=1, exclude_seen=False)
        assert got.rank.tolist() == [1, INF]
    other = pd.DataFrame({"user_id": ["7", "07"], "item_id": ["3", "1"], "rank": [1, 1]})
    got = score(read(other), data, targets_of(data, queries), k=1, exclude_seen=False)
    assert got.rank.tolist() == [1, INF]
    assert got.counts["lists not asked for"] == 1, "07 is not 7"


def test_lists_of_persrec_have_the_ranks_that_persrec_gives(tmp_path: Path) -> None:
    """The lists of an index, written down and read again, against the ranks of the same index."""
    data = prepared_of(tmp_path, events())[1]
    random = np.random.default_rng(0)
    index = BruteForce(random.normal(size=(data.items_count + 1, 8)).astype(np.float32))
    queries = random.normal(size=(len(data.test.user), 8)).astype(np.float32)
    targets: Targets = targets_of(data, data.test)
    first = data.offsets[data.test.user]
    seen = Seen.from_ranges(data.items, first, first + data.test.end)
    users, names = data.user_ids().to_pylist(), data.item_ids().to_pylist()
    for exclude in (True, False):
        lists, values = top_k(index, queries, seen, data.items_count, exclude_seen=exclude)
        row, place = np.nonzero(lists)
        frame = pl.DataFrame(
            {
                "user_id": [users[user] for user in data.test.user[row]],
                "item_id": [names[item - 1] for item in lists[row, place]],
                "rank": place + 1,
                "score": values[row, place],
            }
        )
        got = score(read(frame), data, targets, k=5, exclude_seen=exclude)
        expected = rank_targets(index, queries, targets.item, seen, data.items_count, exclude_seen=exclude)
        again = np.array([item in row for item, row in zip(targets.item, lists, strict=True)])
        assert got.rank[again].tolist() == expected[again].tolist()
        assert again.all() == (not exclude), "a target that was seen stands in no list without seen items"
        np.testing.assert_array_equal(got.lists, lists[:, :5])


def faulty(tmp_path: Path, text: str) -> str:
    path = tmp_path / "lists.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


HEAD = "user_id,item_id,rank"
FAULTS = {
    "user_id,item_id\na,i1\n": "missing column rank; got user_id, item_id; expected user_id, item_id, rank and",
    "user,item,rank\na,i1,1\n": "missing columns user_id, item_id; got user, item, rank",
    f"{HEAD}\n": "no rows; expected one per recommended item",
    "": "the file is empty; expected one row per recommended item",
    f"{HEAD}\na,i1,1\n,i2,2\n": "row 3: user_id is empty (1 such rows); expected an id",
    f"{HEAD}\na,i1,1\na,,2\n": "row 3: item_id is empty",
    f"{HEAD}\na,i1,first\n": "row 2: rank is 'first' (1 such rows); expected a whole number from 1 on",
    f"{HEAD}\na,i1,1\na,i2,1.5\na,i3,0\n": "row 3: rank is '1.5' (2 such rows)",
    f"{HEAD}\nb,i1,1\na,i1,1\na,i2,2\na,i1,3\n": "user 'a' has item 'i1' twice, in rows 3 and 5 (2 rows are of such",
    f"{HEAD}\na,i1,1\na,i2,2\na,i3,4\n": "user 'a' has the ranks 1, 2, 4 (1 users have such); expected 1, 2, 3 and",
    f"{HEAD}\na,i1,1\na,i2,1\n": "user 'a' has the ranks 1, 1",
    f"{HEAD}\na,i1,0\n": "row 2: rank is '0'",
    f"{HEAD}\na,i1,2\na,i2,3\n": "user 'a' has the ranks 2, 3",
    f"{HEAD},score\na,i1,1,0.5\nb,i1,1,nan\n": "row 3: a score of user 'b' is not a number (1 such rows of 1 users)",
    f"{HEAD},score\na,i1,1,\n": "row 2: a score of user 'a' is not a number",
    f"{HEAD},score\na,i1,1,0.1\na,i2,2,0.3\n": "row 3: the item at rank 2 of user 'a' has a higher score than the",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_named(tmp_path: Path, text: str) -> None:
    assert faulty(tmp_path, text).startswith(FAULTS[text])


def test_equal_scores_and_falling_ones_are_fine() -> None:
    frame = lists_of(a="i1 i2 i3").with_columns(score=pl.Series([0.5, 0.5, -1.0]))
    assert read(frame)["item_id"].to_list() == ["i1", "i2", "i3"]


def test_a_fractional_id_is_refused() -> None:
    frame = pd.DataFrame({"user_id": [1.0, 2.5], "item_id": [1, 1], "rank": [1, 1]})
    with pytest.raises(UserError, match=r"recommendations: row 2: user_id is 2.5 .*expected an id: text or a whole"):
        read(frame)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there.csv: no such file; expected recommendations as csv"):
        read(tmp_path / "there.csv")
    (tmp_path / "lists.xlsx").write_text("x")
    with pytest.raises(UserError, match=r"unknown ending '.xlsx'; expected one of .csv"):
        read(str(tmp_path / "lists.xlsx"))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"lists.parquet: cannot be read: "):
        read(path)


def test_k_of_0_is_refused(data: Prepared) -> None:
    with pytest.raises(UserError, match="k: got 0, expected at least 1"):
        scored(data, lists_of(a="i1"), k=0)


def test_lists_of_another_log_are_refused(data: Prepared) -> None:
    with pytest.raises(
        UserError, match=r"no user_id is in the log: got such as 'x', expected such as 'a'; give the ids"
    ):
        scored(data, lists_of(x="i1"))
    with pytest.raises(UserError, match=r"no item_id is in the log: got such as 'j1', expected such as 'i1'"):
        scored(data, lists_of(a="j1"))
