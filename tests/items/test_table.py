"""The items table: every form is read to the same rows, and every fault names file, row or key."""

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from persrec.errors import UserError
from persrec.items.table import read
from persrec.recipe.sections import Items
from tests.datasets.real import real

LITERALS = """{'asin': '1', 'title': 'Alien (1979)', 'related': {'also': ['2']}}
{'asin': '2', 'price': 3.5, 'title': "Amélie, the film"}
{'asin': '3', 'title': ''}
"""
LINES = """{"asin": "1", "title": "Alien (1979)"}
{"asin": 2, "title": "Amélie, the film"}
{"asin": 3}
"""
META = """{"parent_asin": 1, "title": ["Alien", "(1979)"]}
{"parent_asin": 2, "title": ["Amélie, the film"]}
{"parent_asin": 3, "title": []}
"""
OBJECT = '\n{\n"1": "Alien (1979)",\n"2": "Am\\u00e9lie, the film",\n"3": null}\n'
QUOTED = '1,Alien (1979)\n2,"Amélie, the film"\n3,\n'
ROWS = [("1", "Alien (1979)"), ("2", "Amélie, the film"), ("3", None)]


def section(path: Path, **keys: Any) -> Items:
    return Items(path=str(path), **keys)


def written(folder: Path, name: str, contents: str | bytes) -> Path:
    path = folder / name
    contents = contents.encode() if isinstance(contents, str) else contents
    path.write_bytes(gzip.compress(contents) if name.endswith(".gz") else contents)
    return path


@pytest.mark.parametrize(
    ("name", "contents", "keys"),
    [
        ("items.csv", 'item_id,title\n1,Alien (1979)\n2,"Amélie, the film"\n3,\n', {}),
        ("items.csv.gz", 'item_id,title\n1,Alien (1979)\n2,"Amélie, the film"\n3,\n', {}),
        ("movies.csv", 'movieId,title,genres\r\n1,Alien (1979),x\r\n2,"Amélie, the film",x\r\n3, ,x\r\n', {}),
        ("items.tsv", "item_id\ttitle\n1\tAlien (1979)\n2\tAmélie, the film\n3\t\n", {}),
        ("Games.item", "item_id:token\ttitle:token_seq\n1\tAlien (1979)\n2\tAmélie, the film\n3\t\n", {}),
        ("items.jsonl", LINES, {}),
        ("meta.jsonl.gz", META, {}),
        ("meta_Games.json.gz", META, {}),
        ("meta_Old.json.gz", LITERALS, {}),
        ("plots.json", OBJECT, {"columns": {"title": "text"}}),
        (
            "old.json",
            '{\n"1": "Alien (1979)",\n"2": "Amélie, the film",\n"3": ""}'.encode("latin-1"),
            {"columns": {"title": "text"}, "charset": "latin-1"},
        ),
        ("movies.dat", "1::Alien (1979)::x\n2::Amélie, the film::x\n3::::x\n".encode("latin-1"), {}),
        ("u.item", "1|Alien (1979)|d|0\n2|Amélie, the film|d|1\n3||d|1\n".encode("latin-1"), {}),
        ("plots.dat", "Alien (1979)::1\nAmélie, the film::2\n::3\n", {"columns": {"item_id": "2", "title": "1"}}),
        ("items.txt", "item_id;title\n1;Alien (1979)\n2;Amélie, the film\n3;\n", {"separator": ";"}),
        ("old.csv", f"item_id,title\n{QUOTED}".encode("latin-1"), {"charset": "latin-1"}),
        ("shop.csv", f"code,what\n{QUOTED}", {"columns": {"item_id": "code", "title": "what"}}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 16 else "",
)  # fmt: skip
def test_every_form_is_the_same_table(tmp_path: Path, name: str, contents: str | bytes, keys: dict[str, Any]) -> None:
    found = read(section(written(tmp_path, name, contents), **keys))
    assert found.columns[0] == "item_id"
    assert found.select("item_id", "title").rows() == ROWS


def test_parquet_with_numbers_lists_and_structs(tmp_path: Path) -> None:
    frame = pl.DataFrame({"item_id": [7, 8], "title": [["a", None, "b"], []], "rank": [{"x": 1}, {"x": 2}]})
    frame.write_parquet(tmp_path / "items.parquet")
    found = read(section(tmp_path / "items.parquet"))
    assert found.rows() == [("7", "a b", None), ("8", None, None)]


def test_unused_columns_of_any_kind_do_not_matter(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "item_id": [7, 8],
            "title": [b"Alien", "Amélie".encode()],
            "words": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)),
            "nested": [[["a"], ["b"]], [["c"]]],
            "image": [b"\xff\xd8", b"\x00"],
            "thumbs": [[b"\xff"], []],
            "objects": [[{"x": 1}], []],
            "length": [timedelta(1), None],
        }
    )
    frame.write_parquet(tmp_path / "items.parquet")
    found = read(section(tmp_path / "items.parquet"))
    assert found.select("item_id", "title", "words").rows() == [("7", "Alien", "1 2"), ("8", "Amélie", "3 4")]
    assert found.select("nested", "image", "thumbs", "objects", "length").null_count().row(0) == (2,) * 5


def test_rows_whose_id_is_empty_or_a_word_for_nothing_have_none(tmp_path: Path) -> None:
    found = read(section(written(tmp_path, "items.csv", "item_id,title\n1,a\n,b\nNaN,c\n \t,null\n")))
    assert found.rows() == [("1", "a"), (None, "b"), (None, "c"), (None, "null")]


@pytest.mark.parametrize("name", ["nested", "image", "objects"])
def test_columns_that_are_used_must_be_text(tmp_path: Path, name: str) -> None:
    columns = {"nested": [[["a"]]], "image": [b"\xff\xd8"], "objects": [{"x": 1}]}
    pl.DataFrame({"item_id": [7], "title": ["a"], **columns}).write_parquet(tmp_path / "items.parquet")
    said = rf"items.parquet: column {name} is [^;]*, which cannot be read as text; .* by items.columns: {{{name}: "
    with pytest.raises(UserError, match=said):
        read(section(tmp_path / "items.parquet", template=f"{{title}} {{{name}}}"))
    with pytest.raises(UserError, match=said.replace(f"{{{{{name}", "{{item_id").replace(f"{{{name}: ", "{item_id: ")):
        read(section(tmp_path / "items.parquet", columns={"item_id": name}))


def test_json_keys_that_are_text_here_and_lists_there(tmp_path: Path) -> None:
    lines = [
        {"asin": 1, "title": "Alien", "brand": None, "rank": "7th", "price": 3.5, "more": ["a"]},
        {
            "asin": 2,
            "title": ["Amélie,", "the", None, 2, True],
            "brand": [],
            "rank": 7,
            "price": {"x": 1},
            "more": None,
        },
        {"asin": 3, "title": [["x"]], "brand": "[REC]", "rank": ["8", "th"], "price": "?", "more": []},
        *[{"asin": number, "title": "x"} for number in range(4, 1200)],
        {"asin": 1200, "late": "new", "brand": ["a", "b"]},
    ]
    path = written(tmp_path, "meta.jsonl", "\n".join(json.dumps(line) for line in lines))
    found = read(section(path))
    assert found.columns == ["item_id", "asin", "title", "brand", "rank", "price", "more", "late"]
    assert found.drop("asin").head(3).rows() == [
        ("1", "Alien", None, "7th", "3.5", "a", None),
        ("2", "Amélie, the 2 true", None, "7", None, None, None),
        ("3", '["x"]', "[REC]", "8 th", "?", None, None),
    ]
    assert found.drop("asin").row(-1) == ("1200", None, "a b", None, None, None, "new")


@pytest.mark.parametrize(
    ("name", "contents", "keys", "message"),
    [
        ("items.csv", b"item_id,title\n1,a\n2,\xff\n", {}, "row 3 is not UTF-8 .*; .* set items.charset: latin-1"),
        ("items.csv", "", {}, "items.csv: the file is empty; expected an items table"),
        ("items.csv", "item_id,title\n", {}, "items.csv: no rows; expected one per item"),
        ("items.csv", "id,title\nnull,a\n,b\n", {"columns": {"item_id": "id"}}, "column id is empty in all 2 rows, "),
        ("items.csv", "item_id,title\n1,a\n2,b,c\n", {}, "items.csv: cannot be read: row 3 has 3 fields, expected 2"),
        ("items.jsonl", '{"asin": 1}\n{"asin": \n', {}, "items.jsonl: cannot be read: row 2 is not JSON"),
        ("items.jsonl", '{"asin": 1}\n' * 2000 + "[]", {}, "items.jsonl: .*: row 2001 is not a JSON object"),
        ("items.jsonl", '{"asin": 1, "price": 1e999}', {}, "row 1 is not JSON .*: 1e999 is too large a number"),
        ("items.jsonl", '{"asin": 1, "\\ud800": 1}', {"columns": {"title": "a"}}, "no column 'a' .*; got asin$"),
        ("meta.json", "{'asin': {[]: 1}}\n", {}, "meta.json: row 1 is no Python literal .*; correct or remove it"),
        ("meta.json", "{'asin': 1}\n{'asin': \n", {}, "meta.json: row 2 is no Python literal .*; correct or remove it"),
        ("meta.json", "{'asin': 1}\n[1]\n", {}, "meta.json: row 2 is list, expected a dict; correct or remove it"),
        ("a.json", '{\n"1": "a",\n"2": [1]}', {}, "a.json: item '2' has list, expected one object of texts by item id"),
        ("a.json", '{\n"1": "a",\n"2": {"b": 1}}', {}, "a.json: item '2' has object, expected one object of texts"),
        ("a.json", '{\n"1": "a",\n', {}, "a.json: cannot be read as JSON .Expecting property name .* line 3 column 1"),
        ("a.json", '{\n"1": "\\ud800"}', {}, "a.json: cannot be read as JSON .*surrogates not allowed"),
        ("movies.dat", "1::a::x\n2::b\n", {}, "movies.dat: row 2 has 2 fields, expected 3; correct or remove it"),
        ("movies.dat", "1;a;x\n", {}, "movies.dat: row 1 has 1 fields, expected 3"),
        ("items.xml", "<a/>", {}, "unknown ending '.xml' .known: .csv, .tsv, .item, .dat, .parquet"),
        ("items.csv", "name,title\n1,a\n", {}, "no column item_id; got name, title; .* {item_id: name}"),
        ("a.csv", "item_id,title,title\n1,a,b\n", {}, "a.csv: the header has title more than once .columns 2"),
        ("a.csv", "item_id:token,item_id,title\n1,2,b\n", {}, "item_id all mean item_id; .* items.columns"),
        ("a.csv", "asin,parent_asin,title\n1,2,b\n", {}, "columns asin, parent_asin all mean item_id; say which"),
        ("a.csv", "name\n1\n", {"columns": {"item_id": "nane"}}, "item_id: no column 'nane' .did you mean name..; got"),
    ],
)  # fmt: skip
def test_faults_say_where(tmp_path: Path, name: str, contents: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(section(written(tmp_path, name, contents), **keys))


def test_one_object_on_one_line(tmp_path: Path) -> None:
    """As json.dump writes it; an object that has an id is an item."""
    texts = {"1": "Alien (1979)", "2": "Amélie, the film", "3": None}
    found = read(section(written(tmp_path, "a.json", json.dumps(texts))))
    assert found.select("item_id", "text").rows() == ROWS
    one = read(section(written(tmp_path, "b.json", '{"asin": "1", "title": "Alien"}')))
    assert one.select("item_id", "title").rows() == [("1", "Alien")]
    own = section(written(tmp_path, "c.json", '{"name": "1", "title": "Alien"}'), columns={"item_id": "name"})
    assert read(own)["item_id"].to_list() == ["1"]
    with pytest.raises(UserError, match="item '2' has list, expected one object of texts by item id, or an object per"):
        read(section(written(tmp_path, "d.json", '{"1": "a", "2": [1]}')))


def test_lists_in_literals_and_objects_of_nothing(tmp_path: Path) -> None:
    old = written(
        tmp_path, "meta.json", "{'asin': 'A', 'categories': [['Video Games', 'PC'], ['Toys']], 'salesRank': {}}\n"
    )
    assert read(section(old))["categories"].to_list() == ["Video Games PC Toys"]
    new = written(
        tmp_path, "a.jsonl", '{"item_id": 1, "title": "x", "details": {}}\n{"item_id": 2, "details": {"a": "b"}}\n'
    )
    assert read(section(new))["details"].to_list() == [None, None]


def test_an_id_that_is_named_counts_beside_others(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "asin,parent_asin,title,note,note\n1,2,b,x,y\n")
    assert read(section(path, columns={"item_id": "asin"}))["item_id"].to_list() == ["1"]


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "items.csv").touch()
    with pytest.raises(UserError, match=r"items.path: .*item.csv is no file .*There is items.csv"):
        read(section(tmp_path / "item.csv"))


@pytest.mark.parametrize(
    ("name", "columns", "rows", "title"),
    [
        ("ml-1m/movies.dat", {}, 3883, "Toy Story (1995)"),
        ("ml-1m/text/movies_extrainfos.dat", {"item_id": "1", "title": "2", "plot": "10"}, 3881, "Toy Story"),
        ("ml-1m/text/dbpedia_abstracts.json", {"title": "text"}, 3301, "Stealing Beauty (French: Beauté volée"),
        ("ml-100k/u.item", {}, 1682, "Toy Story (1995)"),
        ("ml-latest-small/movies.csv", {}, 9742, "Toy Story (1995)"),
        ("amazon-games/Games.item", {}, 16859, "Fire Emblem: The Sacred Stones"),
    ],
)
def test_tables_as_published(name: str, columns: dict[str, str], rows: int, title: str) -> None:
    found = read(section(real(name), columns=columns))
    first = found["title"][0]
    assert first == title if len(first) < 60 else first.startswith(title)
    assert (len(found), found["title"].null_count()) == (rows, 0)


def test_the_synthetic_log_has_titles() -> None:
    found = read(Items(path="synthetic"))
    assert found.columns == ["item_id", "title"]
    assert dict(found.iter_rows())["second-0-4"] == "cheese board at the Harbour Café"
