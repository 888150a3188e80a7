"""Damaged items tables and lists of items: what is read is text, or one sentence names the file."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persrec.errors import UserError
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
    "literals": Form("", "meta.json", "", ("{'asin': '1', 'title': 'Alien', 'related': {'also': ['2']}}",) * 2, ","),
}
LISTS = {
    "txt": Form("", "ids.txt", "", ("1", "x y"), ","),
    "csv": Form("", "ids.csv", "item_id,note\n", ("1,a", "x,b"), ","),
    "tsv": Form("", "ids.tsv", "note\titem_id\n", ("1\ta", "x\tb"), "\t"),
    "jsonl": Form("", "ids.jsonl", "", ('{"item_id": 7, "note": [1]}', '{"item_id": "x"}'), ","),
}


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


@pytest.mark.parametrize("name", LISTS)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_lists_end_in_ids_or_one_sentence(name: str, data: st.DataObject) -> None:
    form = LISTS[name]
    found = answer(form, data.draw(damaged(form)), lists.read)
    assert found is None or all(isinstance(one, str) for one in found)


def test_a_message_that_quotes_the_file_stays_on_one_line() -> None:
    assert answer(LISTS["tsv"], b'note\titem_id\n1\t"\ta\nx\tb\n', lists.read) is None
