"""UCI Online Retail as published (Chen et al. 2012): invoice lines of a shop, as parquet or csv.

An event is a line of an invoice: customer, stock code, time of the invoice. Lines without a customer and cancellations
(invoices whose number starts with C) are no purchases of anybody; they are counted and left out.
"""

from pathlib import Path

import polars as pl

from persrec.datasets.files import one_file, scan_parquet, uneven_row
from persrec.datasets.quoting import scan_csv
from persrec.interactions.schema import ITEM, ROW, TIME, USER, Say, check_columns, check_twice, conform, log, reading

NAMES = ("online_retail.parquet", "*.parquet", "*.csv")
COLUMNS = {"CustomerID": USER, "StockCode": ITEM, "InvoiceDate": TIME}
INVOICE = "InvoiceNo"


def files(path: Path) -> list[Path]:
    """The table in a folder, or the file itself."""
    return [one_file(path, patterns=NAMES, what="the invoice lines of Online Retail")]


def read(path: Path, *, bad_rows: str = "refuse", say: Say = log) -> pl.LazyFrame:
    """The log; raises UserError where a column is missing."""
    (file,) = files(path)
    text = file.suffix != ".parquet"

    def why() -> str:
        return uneven_row(file, ",") if text else ""

    with reading(str(file), why):
        lines = scan_csv(file) if text else scan_parquet(file)
        names, required = lines.collect_schema().names(), (INVOICE, *COLUMNS)
        check_columns(names, where=str(file), required=required)
        check_twice({name: name for name in required}, names, where=str(file))
        without = pl.col("CustomerID").is_null() | pl.col("CustomerID").cast(pl.String).eq("NaN").fill_null(False)
        cancelled = pl.col(INVOICE).cast(pl.String).str.starts_with("C").fill_null(False)
        left_out = lines.select(without.sum().alias("without"), (cancelled & ~without).sum().alias("cancelled"))
        counts = left_out.collect().row(0, named=True)
    say(
        f"{file}: Online Retail; left out are {counts['without']:,} lines without a customer and "
        f"{counts['cancelled']:,} of cancellations."
    )
    columns = [pl.col(theirs).alias(ours) for theirs, ours in COLUMNS.items()]
    bought = lines.with_row_index(ROW).filter(~without & ~cancelled).select(ROW, *columns)
    return conform(bought, where=str(file), first_row=1 + text, bad_rows=bad_rows, why=why, say=say)
