"""JSON lines: keys wherever they first occur, byte order marks, lists beside text."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec import datasets
from persrec.datasets import json_lines
from persrec.errors import UserError
from persrec.items import table as items
from persrec.recipe.sections import Items
from persrec.serving import lists

MANY = 1500  # rows before those in which a key first occurs
EVENT = {"user_id": 1, "item_id": 2}


def written(path: Path, rows: list[Any], *, marked: bool = False) -> Path:
    contents = codecs.BOM_UTF8 * marked + "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(contents) if path.suffix == ".gz" else contents)
    return path


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "log.jsonl.gz"])
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("rating", {}),
        ("wann", {"columns": {"timestamp": "wann"}}),
        ("größe", {"columns": {"rating": "größe"}}),
        ("weight", {"keep": ["weight"]}),
        ("dwell", {"keep": ["dwell"]}),
        ("event", {"events": True}),
        ("datetime", {}),
    ],
)
def test_keys_that_first_occur_late_are_not_lost(
    tmp_path: Path, name: str, marked: bool, key: str, options: dict[str, Any]
) -> None:
    rows = [EVENT] * MANY + [EVENT | {key: None}, EVENT | {key: 5}, EVENT]
    path = written(tmp_path / name, rows, marked=marked)
    ours = {"wann": "timestamp", "größe": "rating", "datetime": "timestamp"}.get(key, key)
    with pytest.raises(UserError, match=rf"{name}: column {ours} has 1,502 null .*: row 1, row 2"):
        datasets.read("table", path, **options)
    found = datasets.read("table", path, bad_rows="skip", **options).collect()
    assert found.select("user_id", "item_id").rows() == [(1, 2)]
    assert str(found[ours][0]).removesuffix(".0") in ("5", "5000")


def test_ids_may_be_missing_in_many_rows(tmp_path: Path) -> None:
    rows = [{"item_id": 2}] * MANY + [{"item_id": 2, "note": "user_id"}, EVENT]
    found = datasets.read("table", written(tmp_path / "log.jsonl", rows), bad_rows="skip").collect()
    assert found.rows() == [(1, 2)]


def test_histories_that_are_null_for_long(tmp_path: Path) -> None:
    rows = [{"user_id": user, "item_id": None} for user in range(MANY)] + [{"user_id": MANY, "item_id": ["a", "b"]}]
    found = datasets.read("table", written(tmp_path / "log.jsonl", rows)).collect()
    assert found.rows() == [(MANY, "a"), (MANY, "b")]


def test_reviews_whose_times_come_late(tmp_path: Path) -> None:
    review = {"user_id": "A", "parent_asin": "B", "rating": 5.0}
    path = written(tmp_path / "a.jsonl", [review] * MANY + [review | {"timestamp": 1369699200000}])
    assert datasets.read("amazon", path, bad_rows="skip").collect()["timestamp"].to_list() == [1369699200000]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, name: str) -> None:
    review = {"user_id": "A", "parent_asin": "B", "rating": 5.0, "timestamp": 1369699200000, "images": []}
    path = written(tmp_path / name, [review] * 3, marked=True)
    assert datasets.read("amazon", path).collect().rows() == [("A", "B", 1369699200000, 5.0)] * 3
    (tmp_path / "log.jsonl").write_bytes(codecs.BOM_UTF8 + b'{"user_id": 1, "item_id": 2}\r\n\r\n{"user_id": 1, "it')
    with pytest.raises(UserError, match=r"log.jsonl: cannot be read: row 3 is not JSON"):
        datasets.read("table", tmp_path / "log.jsonl")
    found = items.read(
        Items(path=str(written(tmp_path / "items.jsonl", [{"asin": 1, "title": ["a", "b"]}], marked=True)))
    )
    assert found.select("item_id", "title").rows() == [("1", "a b")]
    assert lists.read(written(tmp_path / "allow.jsonl", [{"item_id": 7}, {"item_id": "x"}], marked=True)) == ["7", "x"]


def test_lists_beside_single_values(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", [EVENT, EVENT | {"item_id": ["a"]}, EVENT | {"item_id": "[REC]"}])
    with pytest.raises(UserError, match=r"log.jsonl: column item_id has 1 null .* value: row 2"):
        datasets.read("table", path)
    path = written(tmp_path / "log.jsonl", [EVENT | {"item_id": [2]}] * MANY + [EVENT])
    with pytest.raises(
        UserError, match=r"log.jsonl: cannot be read: row 1501 has no list as item_id, as the rows before"
    ):
        datasets.read("table", path)


@pytest.mark.parametrize("marked", [False, True])
def test_other_keys_may_be_anything(tmp_path: Path, marked: bool) -> None:
    rows = [EVENT | {"tags": ["a"]}] * MANY + [EVENT | {"tags": "a"}, EVENT | {"tags": {"x": [1]}}]
    assert datasets.read("table", written(tmp_path / "log.jsonl", rows, marked=marked)).collect().height == MANY + 2


def test_lists_in_the_form_of_recbole(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", [{"user_id": 1, "item_id_list": [2, 3], "item_id": 4}])
    assert datasets.read("table", path).collect()["item_id"].to_list() == [2, 3, 4]


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text('aé[{"\\, ]}\n', max_size=5)
    | st.lists(st.text("a,[", max_size=2))
)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "ç"]), VALUES), min_size=1, max_size=5))
@settings(max_examples=60)
def test_a_marked_file_reads_as_one_without(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("json")
    plain, marked = (written(folder / f"{mark}.jsonl", rows, marked=mark) for mark in (False, True))
    first, second = (json_lines.scan(path, ["a", "d"]).collect() for path in (plain, marked))
    assert first.equals(second)
    assert first.columns == list(dict.fromkeys(key for row in rows for key in row))
