"""Clicks on globo.com, October and November 2017 (de Souza Pereira Moreira et al. 2018), as one table."""

from pathlib import Path

import polars as pl

from persrec.datasets import table
from persrec.datasets.files import one_file, scan_parquet
from persrec.interactions.schema import ITEM, TIME, USER, Say, check_columns, log, reading

COLUMNS = {ITEM: "click_article_id", TIME: "click_timestamp"}


def files(path: Path) -> list[Path]:
    """The clicks in a folder, or the file itself."""
    return [one_file(path, patterns=("clicks.parquet", "*.parquet", "*.csv"), what="the clicks of globo.com")]


def read(path: Path, *, bad_rows: str = "refuse", say: Say = log) -> pl.LazyFrame:
    """The log: user, article, time of the click in milliseconds."""
    (file,) = files(path)
    with reading(str(file)):
        clicks = scan_parquet(file) if file.suffix == ".parquet" else pl.scan_csv(file, infer_schema=False)
        check_columns(clicks.collect_schema().names(), where=str(file), required=(USER, *COLUMNS.values()))
    return table.read(file, columns=COLUMNS, unit="ms", bad_rows=bad_rows, say=say)
