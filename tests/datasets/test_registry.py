from typing import get_args

import polars as pl
import pytest

from persrec import datasets
from persrec.errors import UserError
from persrec.recipe.sections import Data


def test_every_source_has_files_and_read():
    for module in datasets.SOURCES.values():
        assert callable(module.files)
        assert callable(module.read)


def test_recipes_know_the_sources():
    assert set(get_args(Data.model_fields["source"].annotation)) == set(datasets.SOURCES)


def test_unknown_source_suggests_a_known_one():
    with pytest.raises(UserError, match=r"data.source: got 'movielense', expected one of .*did you mean movielens\?"):
        datasets.read("movielense", "x")


def test_missing_path():
    with pytest.raises(UserError, match=r"data.path: missing; source table reads a file or folder"):
        datasets.read("table")


def test_absent_file_names_its_neighbour(tmp_path):
    (tmp_path / "clicks.csv").write_text("user_id,item_id\n1,2\n")
    with pytest.raises(UserError, match=r"data.path: .*click.csv does not exist.*There is clicks.csv"):
        datasets.read("table", tmp_path / "click.csv")


def test_synthetic_takes_no_path(tmp_path):
    with pytest.raises(UserError, match=r"data.path: got .*source synthetic reads no file"):
        datasets.read("synthetic", tmp_path)


def test_an_option_of_another_source(tmp_path):
    with pytest.raises(UserError, match=r"data.columns does not apply to source 'movielens'.*use source: table"):
        datasets.read("movielens", tmp_path, columns={"user_id": "u"})


def test_types_of_events_where_a_source_has_none(tmp_path):
    (tmp_path / "a.txt").write_text("1 2\n")
    section = Data(source="sasrec", path=str(tmp_path), events=["buy"]).model_dump()
    with pytest.raises(UserError, match=r"data.events does not apply to source 'sasrec' \(it takes bad_rows\)"):
        datasets.read_section(section)


def test_path_with_variables(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("user_id,item_id\n1,2\n")
    monkeypatch.setenv("LOGS", str(tmp_path))
    assert datasets.read("table", "$LOGS/a.csv").collect().rows() == [(1, 2)]


def test_frame_digest_sees_contents_not_memory():
    whole = pl.DataFrame({"user_id": [1, 2, 3, 4], "item_id": [5, 6, 7, 8], "other": [0, 0, 0, 0]})
    first, second = whole[:2], whole[2:]
    same = pl.DataFrame({"user_id": [1, 2], "item_id": [5, 6]})
    assert datasets.frame_digest(first, {}) == datasets.frame_digest(same, {})
    assert datasets.frame_digest(first, {}) != datasets.frame_digest(second, {})
