from datetime import datetime

import polars as pl
import pytest

from persrec import datasets
from persrec.errors import UserError
from tests.datasets.real import real

MAY = datetime(2023, 5, 1, 12)
EVENTS = pl.DataFrame(
    {
        "user_id": [1, 1, 2],
        "sequence_id": [1, 1, 1],
        "item_id": [901, 902, 903],
        "product_id": [31, 31, 32],
        "event_id": ["item_view", "buy_comp", "item_like"],
        "stime": [MAY, MAY, MAY],
    }
)
TIME = 1_682_942_400_000


@pytest.fixture
def folder(tmp_path):
    """One shard for each of two months."""
    for month, rows in (("20230501", EVENTS[:2]), ("20230601", EVENTS[2:])):
        (tmp_path / month).mkdir()
        rows.write_parquet(tmp_path / month / "000000000000.parquet")
    return tmp_path


def test_all_shards(folder):
    said = []
    frame = datasets.read("merrec", folder, say=said.append).collect()
    assert frame.rows() == [(1, 31, TIME), (1, 31, TIME), (2, 32, TIME)]
    assert "shards: 2; an item is a product_id" in said[0]
    assert len(datasets.files("merrec", folder)) == 2


def test_listings_and_types(folder):
    frame = datasets.read("merrec", folder, columns={"item_id": "item_id"}, events=True).collect()
    assert frame.rows() == [(1, 901, TIME, "item_view"), (1, 902, TIME, "buy_comp"), (2, 903, TIME, "item_like")]


def test_times_as_text(tmp_path):
    rows = EVENTS.with_columns(pl.col("stime").dt.strftime("%Y-%m-%d %H:%M:%S.%3f"))
    rows.write_parquet(tmp_path / "a.parquet")
    assert datasets.read("merrec", tmp_path / "a.parquet").collect()["timestamp"].to_list() == [TIME] * 3


def test_lists(tmp_path):
    rows = EVENTS.group_by("user_id", maintain_order=True).agg("product_id", "stime", "event_id")
    rows.write_parquet(tmp_path / "a.parquet")
    frame = datasets.read("merrec", tmp_path, events=True).collect()
    assert frame.rows() == [(1, 31, TIME, "item_view"), (1, 31, TIME, "buy_comp"), (2, 32, TIME, "item_like")]


def test_other_columns(tmp_path):
    EVENTS.drop("stime").write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"missing column stime; got user_id, sequence_id"):
        datasets.read("merrec", tmp_path)


def test_a_shard_that_differs_is_named(folder):
    path = folder / "20230601" / "000000000000.parquet"
    EVENTS.with_columns(pl.col("product_id").cast(pl.String), pl.lit(1).alias("price")).write_parquet(path)
    message = r"20230601/0+\.parquet: column product_id is String, expected Int64 as in .*20230501/0+\.parquet; write"
    with pytest.raises(UserError, match=message):
        datasets.read("merrec", folder)
    assert datasets.read("merrec", folder, columns={"item_id": "item_id"}).collect().height == 5, "price may differ"
    EVENTS.drop("stime").write_parquet(path)
    with pytest.raises(UserError, match=r"20230601/0+\.parquet: missing column stime"):
        datasets.read("merrec", folder)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"20230601/0+\.parquet: the file is empty"):
        datasets.read("merrec", folder)


def test_columns_that_are_not_ours(folder):
    with pytest.raises(UserError, match=r"data.columns: unknown column 'item', expected user_id, item_id, t"):
        datasets.read("merrec", folder, columns={"item": "item_id"})


def test_no_shards(tmp_path):
    with pytest.raises(UserError, match=r"has no \*.parquet, expected shards of MerRec; got nothing"):
        datasets.read("merrec", tmp_path)


def test_real():
    assert datasets.read("merrec", real("merrec"), events=True).collect().height > 0
