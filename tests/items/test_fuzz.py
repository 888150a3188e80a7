"""Damaged items tables, ids, pairs and recommendations: what is read is sound, or one sentence names the file."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.evaluation import recommendations
from persrec.items import table
from persrec.recipe.sections import Items
from persrec.serving import lists
from tests.datasets.test_fuzz import Form, damaged

OBJECT = '{"asin": 7, "title": ["Alien", 2], "price": 3.5, "more": {"a": [1]}}'
TABLES = {
    "csv": Form("", "items.csv", "item_id,title\n", ("1,Alien", "2,Stalker"), ","),
    "csv.gz": Form("", "items.csv.gz", "item_id,title\n", ("1,Alien", "2,Stalker"), ","),
    "RecBole": Form("", "a.item", "item_id:token\ttitle:token_seq\n", ("1\tAlien", "2\tStalker"), "\t"),
    "movies.dat": Form("", "movies.dat", "", ("1::Alien::x", "2::Stalker::y"), "::"),
    "u.item": Form("", "u.item", "", ("1|Alien|d|0", "2|Stalker|d|1"), "|"),
    "jsonl": Form("", "items.jsonl", "", (OBJECT, OBJECT.replace('["Alien", 2]', '"Alien"')), ","),
    "object": Form("", "plots.json", "{\n", ('"1": "Alien",', '"2": "Stalker"\n}'), ","),
    "literals": Form("", "meta.json", "", ("{'asin': '1', 'title': 'Alien', 'related': {'also': ['2']}}",) * 2, ","),
}
LISTS = {
    "txt": Form("", "ids.txt", "", ("1", "x y"), ","),
    "csv": Form("", "ids.csv", "item_id,note\n", ("1,a", "x,b"), ","),
    "tsv": Form("", "ids.tsv", "note\titem_id\n", ("1\ta", "x\tb"), "\t"),
    "jsonl": Form("", "ids.jsonl", "", ('{"item_id": 7, "note": [1]}', '{"item_id": "x"}'), ","),
}
PAIRS = {
    "csv": Form("", "pairs.csv", "user_id,item_id,note\n", ("u,1,a", "v,2,b"), ","),
    "tsv": Form("", "pairs.tsv", "user_id\titem_id\n", ("u\t1", "v\t2"), "\t"),
    "jsonl": Form("", "pairs.jsonl", "", ('{"user_id": 1, "item_id": "x"}',) * 2, ","),
}
RECOMMENDATIONS = {
    "csv": Form("", "best.csv", "user_id,item_id,rank,score\n", ("u,1,1,.5", "u,2,2,.5", "v,1,1,.5"), ","),
    "tsv": Form("", "best.tsv", "user_id\titem_id\trank\n", ("u\t1\t1", "u\t2\t2"), "\t"),
    "jsonl": Form("", "best.jsonl", "", ('{"user_id": 1, "item_id": "x", "rank": 1, "note": [1]}',), ","),
}
IDS = [[1, 2], [1.0, 2.0], ["a", "b"], [[1], [2]], [{"a": 1}] * 2, [b"a", b"b"], [True, False], [None, 1], [None, None]]


def answer(form: Form, contents: bytes, read: Callable[[Path], Any]) -> Any:
    """What is read, or the message."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / form.name
        path.write_bytes(contents)
        try:
            return read(path)
        except UserError as error:
            message = str(error).replace(f"{folder}/", "FOLDER/")
    assert f"FOLDER/{form.name}" in message
    assert message.isprintable()
    return None


def candidates(path: Path) -> list[str]:
    """The ids of a table of pairs."""
    return [one for pair in lists.read_pairs(path).rows() for one in pair]


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_tables_end_in_text_or_one_sentence(name: str, data: st.DataObject) -> None:
    form = TABLES[name]
    found = answer(form, data.draw(damaged(form)), lambda path: table.read(Items(path=str(path))))
    if found is not None:
        assert found.columns[0] == "item_id"
        assert set(found.dtypes) == {pl.String}
        assert found.height > 0


@pytest.mark.parametrize(
    ("form", "read"),
    [*((form, lists.read) for form in LISTS.values()), *((form, candidates) for form in PAIRS.values())],
    ids=[*LISTS, *(f"pairs, {name}" for name in PAIRS)],
)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_lists_end_in_ids_or_one_sentence(
    form: Form, read: Callable[[Path], list[str]], data: st.DataObject
) -> None:
    found = answer(form, data.draw(damaged(form)), read)
    assert found is None or all(isinstance(one, str) for one in found)


@pytest.mark.parametrize("name", RECOMMENDATIONS)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_recommendations_end_in_ranks_or_one_sentence(name: str, data: st.DataObject) -> None:
    form = RECOMMENDATIONS[name]
    found = answer(form, data.draw(damaged(form)), recommendations.read)
    if found is not None:
        assert found["rank"].dtype == pl.Int64
        assert not found.select("user_id", "item_id", "rank").null_count().sum_horizontal().item()


@given(user=st.sampled_from(IDS), item=st.sampled_from(IDS), rank=st.sampled_from(IDS))
def test_columns_of_any_type_end_in_ids_and_ranks_or_one_sentence(user: Any, item: Any, rank: Any) -> None:
    frame = pl.DataFrame({"user_id": user, "item_id": item, "rank": rank})
    with tempfile.TemporaryDirectory() as folder:
        frame.write_parquet(file := Path(folder) / "best.parquet")
        contents = file.read_bytes()
    form = Form("", "best.parquet", "", (), ",")
    found = answer(form, contents, recommendations.read)
    if found is not None:
        assert {found[name].dtype for name in ("user_id", "item_id")} <= {pl.Int64, pl.String}
        assert rank in ([1, 2], [1.0, 2.0])
    pairs = answer(form, contents, candidates)
    assert pairs is None or {"1", "2", "a", "b"}.issuperset(pairs)


def test_a_message_that_quotes_the_file_stays_on_one_line() -> None:
    assert answer(LISTS["tsv"], b'note\titem_id\n1\t"\ta\nx\tb\n', lists.read) is None
