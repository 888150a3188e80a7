import json

import polars as pl
import pytest

from persrec import datasets
from persrec.datasets import table
from persrec.errors import UserError
from tests.datasets.real import real


def recbole(folder, text):
    (folder / "a.inter").write_text(text)
    return datasets.read("table", folder).collect()


def test_recbole_lists_with_the_event_after_them(tmp_path):
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    assert recbole(tmp_path, header + "a\t7 8\t9\nb\t\t7\n").rows() == [("a", 7), ("a", 8), ("a", 9), ("b", 7)]


def test_recbole_lists_of_times_and_ratings(tmp_path):
    header = "user_id:token\titem_id_list:token_seq\ttimestamp_list:float_seq\trating_list:float_seq\n"
    frame = recbole(tmp_path, header + "1\t7 8\t1500000000 1500000060\t4 5\n")
    assert frame.rows() == [(1, 7, 1_500_000_000_000, 4.0), (1, 8, 1_500_000_060_000, 5.0)]


def test_lists_in_a_frame():
    frame = pl.DataFrame({"user_id": [3, 1], "item_id": [["a", "b"], ["c"]], "timestamp": [[1, 2], [3]]})
    assert table.read_frame(frame).collect().rows() == [(3, "a", 1000), (3, "b", 2000), (1, "c", 3000)]


def test_recbole_lists_in_parquet(tmp_path):
    """Lists of parquet, text, and lists of a fixed length; a history may be empty but for its last item."""
    last = {"user_id:token": ["a", "b"], "item_id:token": [9, 4]}
    found = []
    for lists in ([[7, 8], None], ["7 8", None], [[7, 8], [5, 6]]):
        kind = pl.Array(pl.Int64, 2) if None not in lists else None
        pl.DataFrame(last | {"item_id_list:token_seq": pl.Series(lists, dtype=kind)}).write_parquet(
            tmp_path / "a.parquet"
        )
        found.append(datasets.read("table", tmp_path).collect().rows())
    assert found[0] == found[1] == [("a", 7), ("a", 8), ("a", 9), ("b", 4)]
    assert found[2] == [("a", 7), ("a", 8), ("a", 9), ("b", 5), ("b", 6), ("b", 4)]


def test_recbole_lists_without_users(tmp_path):
    with pytest.raises(UserError, match=r"missing column user_id; got item_id, item_id_list\. Rename them"):
        recbole(tmp_path, "item_id_list:token_seq\titem_id:token\n7 8\t9\n")


def test_lists_of_a_fixed_length():
    lists = pl.Series([[7, 8], [7, 9]], dtype=pl.Array(pl.Int64, 2))
    assert table.read_frame(pl.DataFrame({"user_id": [1, 2], "item_id": lists})).collect().rows() == [
        (1, 7), (1, 8), (2, 7), (2, 9)
    ]  # fmt: skip


def test_lists_in_json_lines(tmp_path):
    rows = [{"user": "a", "items": [7, 8]}, {"user": "b", "items": []}, {"user": "c", "items": [9]}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = []
    frame = datasets.read("table", tmp_path, columns={"user_id": "user", "item_id": "items"}, say=said.append)
    assert frame.collect().rows() == [("a", 7), ("a", 8), ("c", 9)]
    assert any("1 rows without any event are left out" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": [[1], [2]], "timestamp": [5, 6]}, r"item_id holds lists and column timestamp single values"),
        ({"item_id": [1, 2], "timestamp": [[5], [6]]}, r"timestamp holds lists and column item_id single values"),
        (
            {"item_id": [[1], [2, 3]], "timestamp": [[5], [6]]},
            r"row 2 has 2 entries of item_id and 1 of timestamp \(1 such rows\); expected lists of the same length",
        ),
        (
            {"item_id": [[1], [2]], "rating": [5.0, 4.0]},
            r"column item_id holds lists and column rating single values; expected both as lists",
        ),
        ({"item_id": [[1], [2]], "user_id": [[1], [2]]}, r"column user_id holds lists; expected one user per row"),
        ({"item_id": [[1], [2, None]]}, r"item_id has 1 null \(empty\) value: row 2"),
        ({"item_id": [[[1]], [[2]]]}, r"column item_id is List\(Int64\); ids are whole numbers or text"),
    ],
)
def test_lists_that_do_not_fit(columns, message):
    with pytest.raises(UserError, match=message):
        table.read_frame(pl.DataFrame({"user_id": [1, 2], **columns}))


def test_parts_of_a_history_as_training_examples_are_no_log(tmp_path):
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    with pytest.raises(
        UserError, match=r"row 4 has a user who had a row before \(1 such rows\).*cannot be read as logs"
    ):
        recbole(tmp_path, header + "a\t7\t8\nb\t1\t2\na\t7 8\t9\n")


def test_several_rows_of_a_user_are_ordered_by_time():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [["b"], ["a"]], "timestamp": [[9], [3]]})
    assert table.read_frame(frame).collect().height == 2


def test_real_amazon_games():
    """Each row of the file is a user: the history and the item after it."""
    path = real("amazon-games/Games.inter")
    frame = datasets.read("table", path).collect()
    assert (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (440_264, 50_546, 16_859)
    user, before, after = path.read_text().splitlines()[1].split("\t")
    assert frame.filter(pl.col("user_id") == int(user))["item_id"].to_list() == [*map(int, before.split()), int(after)]
