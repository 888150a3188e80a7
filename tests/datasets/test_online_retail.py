from datetime import datetime

import polars as pl
import pytest

from persrec import datasets
from persrec.errors import UserError
from tests.datasets.real import real

DECEMBER = datetime(2010, 12, 1, 8, 26)
LINES = pl.DataFrame(
    {
        "InvoiceNo": ["536365", "536365", "C536379", "536366"],
        "StockCode": ["85123A", "71053", "85123A", "71053"],
        "InvoiceDate": [DECEMBER, DECEMBER, datetime(2010, 12, 1, 9), datetime(2011, 1, 1)],
        "CustomerID": [17850, 17850, 17850, None],
    },
    schema_overrides={"CustomerID": pl.Int32},
)


def test_a_line_without_an_invoice_is_no_cancellation(tmp_path):
    LINES.with_columns(pl.Series("InvoiceNo", [None, "536365", "C536379", "536366"])).write_parquet(
        tmp_path / "a.parquet"
    )
    assert datasets.read("online-retail", tmp_path).collect()["item_id"].to_list() == ["85123A", "71053"]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_purchases_of_customers(tmp_path, ending):
    file = tmp_path / f"online_retail.{ending}"
    LINES.write_parquet(file) if ending == "parquet" else LINES.write_csv(file)
    said = []
    frame = datasets.read("online-retail", tmp_path, say=said.append).collect()
    assert frame.rows() == [(17850, "85123A", 1291191960000), (17850, "71053", 1291191960000)]
    assert "1 lines without a customer and 1 of cancellations" in said[0]


def test_other_columns_are_named(tmp_path):
    LINES.drop("StockCode").write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"missing column StockCode; got InvoiceNo, InvoiceDate, CustomerID"):
        datasets.read("online-retail", tmp_path)


@pytest.mark.parametrize("name", LINES.columns)
def test_a_column_that_stands_there_twice(tmp_path, name):
    (tmp_path / "a.csv").write_text(",".join([*LINES.columns, name]) + "\n1,2,2010-12-01 08:26,3,4\n")
    with pytest.raises(UserError, match=rf"a.csv: the header has {name} more than once \(columns . and 5\)"):
        datasets.read("online-retail", tmp_path)


def test_real():
    frame = datasets.read("online-retail", real("online-retail")).collect()
    assert (len(frame), frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (397_924, 4_339, 3_665)
