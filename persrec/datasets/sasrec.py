"""The text form of the SASRec benchmark files: one `user item` per line, in order of time, no times."""

from pathlib import Path

import polars as pl

from persrec.datasets.files import first_line, one_file, scan_text, uneven
from persrec.interactions.schema import ITEM, USER, Say, conform, log


def files(path: Path) -> list[Path]:
    """The text in a folder, or the file itself."""
    return [one_file(path, patterns=("*sasrec*.txt", "*.txt"), what="a text file with `user item` per line")]


def read(path: Path, *, bad_rows: str = "refuse", say: Say = log) -> pl.LazyFrame:
    """The log in file order; lines are split at a space or a tab."""
    (file,) = files(path)
    separator = "\t" if "\t" in first_line(file) else " "
    frame = scan_text(file, [USER, ITEM], separator=separator)
    return conform(frame, where=str(file), bad_rows=bad_rows, why=uneven(file, separator), say=say)
