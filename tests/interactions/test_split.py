import polars as pl

from persrec.interactions.split import leave_one_out


def test_leave_one_out():
    bounds = leave_one_out(pl.LazyFrame({"events": [1, 2, 3, 9]})).collect()
    assert bounds.rows() == [(1, 1, 1), (2, 2, 2), (1, 2, 3), (7, 8, 9)]
    assert set(bounds.dtypes) == {pl.Int64}
