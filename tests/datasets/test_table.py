import gzip
import json

import pandas as pd
import polars as pl
import pytest

from persrec import datasets
from persrec.datasets import table
from persrec.errors import UserError
from tests.datasets.real import real

LOG = pl.DataFrame(
    {"user_id": [1, 1, 2], "item_id": [7, 3, 7], "timestamp": [1_500_000_000, 1_500_000_060, 1_500_000_000]}
)
ROWS = [(1, 7, 1_500_000_000_000), (1, 3, 1_500_000_060_000), (2, 7, 1_500_000_000_000)]


def write(path):
    if path.suffix == ".parquet":
        LOG.write_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in LOG.to_dicts()))
    else:
        LOG.write_csv(path, separator="," if path.suffix == ".csv" else "\t")


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.parquet", "log.jsonl"])
def test_endings(tmp_path, name):
    write(tmp_path / name)
    assert datasets.read("table", tmp_path).collect().rows() == ROWS


def test_separator_and_columns(tmp_path):
    (tmp_path / "log.data").write_text("who|what|when\r\n1|7|1500000000\r\n")
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    said = []
    frame = datasets.read("table", tmp_path / "log.data", columns=columns, separator="|", say=said.append)
    assert frame.collect().rows() == ROWS[:1]
    assert "who is user_id, what is item_id, when is timestamp" in said[0]


def test_ratings_of_movielens_are_recognised(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbfuserId,movieId,rating,timestamp\r\n1,7,5.0,1500000000\r\n")
    with pytest.raises(
        UserError, match=r"ratings.csv: the columns are those of MovieLens .*--set data.source=movielens,"
    ):
        datasets.read("table", path)
    assert datasets.read("movielens", path).collect().rows() == [(1, 7, 1_500_000_000_000, 5.0)]
    columns = {"user_id": "userId", "item_id": "movieId"}
    assert datasets.read("table", path, columns=columns).collect().rows() == [(1, 7, 1_500_000_000_000, 5.0)]


def test_recbole_header(tmp_path):
    (tmp_path / "a.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t4\t1500000000.0\n"
    )
    assert datasets.read("table", tmp_path).collect().rows() == [(1, 7, 1_500_000_000_000, 4.0)]


def test_recbole_values_have_no_quotes(tmp_path):
    (tmp_path / "a.inter").write_text('user_id:token\titem_id:token\nu"1\t"x\n')
    assert datasets.read("table", tmp_path).collect().rows() == [('u"1', '"x')]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_packed_text(tmp_path, ending):
    write(tmp_path / f"log.{ending}")
    packed = gzip.compress((tmp_path / f"log.{ending}").read_bytes())
    (tmp_path / f"log.{ending}").unlink()
    (tmp_path / f"log.{ending}.gz").write_bytes(packed)
    assert datasets.read("table", tmp_path).collect().rows() == ROWS


def test_packed_text_cut_short(tmp_path):
    rows = b"user_id,item_id\n" + b"".join(b"%d,%d\n" % (row, row * 7919) for row in range(20_000))
    packed = gzip.compress(rows)
    (tmp_path / "log.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"log.csv.gz: cannot be (read|unpacked): .*may be truncated"):
        datasets.read("table", tmp_path)


def test_a_header_that_names_a_column_twice(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,user_id\n1,2,3\n")
    with pytest.raises(
        UserError, match=r"log.csv: the header has user_id more than once \(columns 1 and 3\); rename or remove"
    ):
        datasets.read("table", tmp_path)


@pytest.mark.parametrize(
    ("name", "header", "columns", "message"),
    [
        ("log.tsv", ["user_id:token", "item_id", "user_id"], {}, "user_id:token, user_id all mean user_id; "),
        ("log.inter", ["user_id:token", "item_id:token", "item_id:float"], {}, "item_id:token, item_id:float all mean"),
        ("log.tsv", ["user_id", "item_id", "timestamp", "datetime"], {}, "timestamp, datetime all mean timestamp"),
        ("log.tsv", ["user_id", " user_id", "item_id"], {}, "columns user_id,  user_id all mean user_id"),
        ("log.tsv", ["who", "item_id", "who"], {"user_id": "who"}, r"has who more than once \(columns 1 and 3\)"),
        ("log.inter", ["user_id", "item_id_list", "item_id_list:token_seq"], {}, "all mean item_id_list; "),
        ("log.jsonl", ["user_id", "item_id", "timestamp", "datetime"], {}, "timestamp, datetime all mean timestamp"),
    ],
)  # fmt: skip
def test_columns_that_mean_the_same(tmp_path, name, header, columns, message):
    row = (
        json.dumps(dict.fromkeys(header, 1)) if name.endswith("jsonl") else "\t".join(header) + "\n" + "\t".join("123")
    )
    (tmp_path / name).write_text(row + "\n")
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        datasets.read("table", tmp_path, columns=columns)


def test_a_column_that_is_named_counts_beside_others(tmp_path):
    (tmp_path / "log.csv").write_text("user_id:token,user_id,item_id,timestamp,datetime,note,note\n1,2,3,4,5,6,7\n")
    columns = {"user_id": "user_id", "timestamp": "datetime"}
    assert datasets.read("table", tmp_path, columns=columns, unit="ms").collect().rows() == [(2, 3, 5)]


def test_types_of_events_by_mapping(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,kind\n1,2,view\n")
    frame = datasets.read("table", tmp_path, columns={"event": "kind"}, events=True)
    assert frame.collect().rows() == [(1, 2, "view")]


def test_json_lines_whose_keys_differ(tmp_path):
    lines = ['{"who": "a", "what": 7, "extra": {"x": 1}}', "", '{"what": 8.0, "who": "b", "more": [1]}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    frame = datasets.read("table", tmp_path, columns={"user_id": "who", "item_id": "what"})
    assert frame.collect().rows() == [("a", 7), ("b", 8)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"user_id": 1, "item_id": 2}', '{"user_id": 1, "it'], r"row 2 is not JSON \('{\"user_id\": 1, \"it'"),
        (['{"user_id": 1, "item_id": 2}', "[1, 2]"], r"row 2 is not a JSON object \('\[1, 2\]'\)"),
        (['{"user_id": 1, "item_id": NaN}'], r"row 1 is not JSON .*NaN is no JSON number"),
        (['{"user_id": 1, "item_id": {"a": 2}}'], r"item_id has 1 null \(empty\) value: row 1"),
        (['{"user_id": 1, "item_id": 2}'] * 1500 + ["{}}"], r"row 1501 is not JSON"),
    ],
)
def test_json_lines_that_are_none(tmp_path, lines, message):
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=rf"log.jsonl: .*{message}"):
        datasets.read("table", tmp_path)


def test_rectools_frame():
    frame = pd.DataFrame(
        {"user_id": [1], "item_id": [7], "weight": [1.0], "datetime": pd.to_datetime(["2017-07-14 02:40"])}
    )
    assert table.read_frame(frame).collect().rows() == ROWS[:1]


@pytest.mark.parametrize("form", [lambda frame: frame, pl.DataFrame.lazy, pl.DataFrame.to_pandas])
def test_frames(form):
    assert table.read_frame(form(LOG)).collect().rows() == ROWS


def test_pandas_with_missing_ids():
    with pytest.raises(UserError, match=r"frame: column user_id has 1 null \(empty\) value: row 2"):
        table.read_frame(pd.DataFrame({"user_id": [1.0, None], "item_id": [7, 8]}))


def test_other_objects_are_refused():
    with pytest.raises(UserError, match=r"frame: got list, expected a pandas or Polars frame"):
        table.read_frame([1, 2])


def test_pandas_of_mixed_objects():
    with pytest.raises(UserError, match=r"frame: cannot be taken over from pandas"):
        table.read_frame(pd.DataFrame({"user_id": [1, "a"], "item_id": [7, 8]}))


def test_missing_columns_are_listed_with_near_ones():
    message = r"missing columns user_id, item_id; got userId, movie\..*data.columns={user_id: userId, item_id: THEIRS, "
    with pytest.raises(UserError, match=message):
        table.read_frame(pl.DataFrame({"userId": [1], "movie": [2]}))


def test_what_is_missing_is_asked_for_beside_what_was_said_in_the_names_of_the_file():
    message = (
        r"missing column item_id; got who, datetime, title\. .*"
        r"'data.columns={user_id: who, item_id: THEIRS}'\."
    )
    with pytest.raises(UserError, match=message):
        table.read_frame(pl.DataFrame({"who": [1], "datetime": [2], "title": [3]}), columns={"user_id": "who"})


def test_a_folder_of_several_tables_is_refused(tmp_path):
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"has several candidates \(a.csv, b.jsonl\); name one of them"):
        table.files(tmp_path)


def test_a_near_time_column_is_pointed_out():
    said = []
    table.read_frame(pl.DataFrame({"user_id": [1], "item_id": [2], "click_timestamp": [3]}), say=said.append)
    assert "not read are click_timestamp. If one of them holds the time" in said[0]
    assert "set data.columns: {timestamp: click_timestamp}" in said[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": "usr"}, r"data.columns.user_id: no column 'usr' \(did you mean user_id\?\); got user_id"),
        ({"user": "user_id"}, r"data.columns: unknown column 'user', expected .*did you mean user_id\?"),
        ({"user_id": "item_id", "item_id": "item_id"}, r"data.columns uses item_id for more than one"),
    ],
)
def test_wrong_mapping(columns, message):
    with pytest.raises(UserError, match=message):
        table.read_frame(LOG, columns=columns)


def test_mapped_columns_without_use_are_said():
    said = []
    frame = table.read_frame(LOG.with_columns(pl.lit("buy").alias("kind")), columns={"event": "kind"}, say=said.append)
    assert frame.collect().columns == ["user_id", "item_id", "timestamp"]
    assert said[0] == "frame: event: not used."


def test_unknown_ending(tmp_path):
    (tmp_path / "log.xlsx").write_text("x")
    with pytest.raises(UserError, match=r"unknown ending '.xlsx' \(known: .csv, .*set data.separator"):
        datasets.read("table", tmp_path / "log.xlsx")


@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.jsonl"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"{name}: (the file is empty|cannot be read)"):
        datasets.read("table", tmp_path)


def test_header_only(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n")
    with pytest.raises(UserError, match=r"log.csv: no events; got a header or an empty table"):
        datasets.read("table", tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_parquet(tmp_path, share):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user_id": range(10_000), "item_id": range(10_000)}).write_parquet(path)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(UserError, match=r"log.parquet: cannot be read: .*may be truncated"):
        datasets.read("table", path)


def test_csv_that_is_not_utf_8(tmp_path):
    (tmp_path / "log.csv").write_bytes("user_id,item_id\nAndré,1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"log.csv: cannot be read: .*not UTF-8"):
        datasets.read("table", tmp_path)


def test_a_row_with_too_many_fields_is_named(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n1,2,3\n")
    with pytest.raises(UserError, match=r"log.csv: cannot be read: row 3 has 3 fields, expected 2"):
        datasets.read("table", tmp_path)


def test_byte_order_mark(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbfuser_id,item_id\n1,2\n")
    assert datasets.read("table", tmp_path).collect().rows() == [(1, 2)]


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("amazon-beauty", 198_502),
        ("amazon-games", 440_264),
        ("amazon-sports", 296_337),
        ("ml-1m/interactions.parquet", 999_611),
    ],
)
def test_real(name, events):
    assert datasets.read("table", real(name)).collect().height == events
