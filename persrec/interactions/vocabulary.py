"""Numbers for ids: users 0..U-1, items 1..V (0 is `PAD`), each in the order of its sorted ids."""

import numpy as np
import numpy.typing as npt
import polars as pl

INDEX = "index"

Ints = npt.NDArray[np.int32]


class Numbering:
    """Numbers for the ids of a column as they are met, part by part; `ordered` says what they are in the end."""

    def __init__(self, column: str) -> None:
        self.column = column
        self._known: pl.DataFrame | None = None

    def numbers(self, part: pl.DataFrame) -> pl.Series:
        """For each row of a part the number of its id, Int32."""
        ids = part.select(self.column)
        if self._known is None:
            self._known = _numbered(ids.unique().sort(self.column), 0)
        else:
            new = ids.unique().join(self._known, on=self.column, how="anti")
            self._known = pl.concat([self._known, _numbered(new, self._known.height)])
        return ids.join(self._known, on=self.column, how="left", maintain_order="left")[INDEX]

    def ordered(self) -> tuple[pl.Series, Ints]:
        """The ids, sorted; and for each number the place of its id among them."""
        assert self._known is not None
        known = self._known.sort(self.column)
        place = np.empty(known.height, dtype=np.int32)
        place[known[INDEX].to_numpy()] = np.arange(known.height, dtype=np.int32)
        return known[self.column], place


def compact(counts: npt.NDArray[np.int64], *, first: int) -> Ints:
    """Numbers without gaps, from `first` on, for those that occur.

    counts [3 0 1] from 1 on -> [1 0 2]; what stands where nothing occurs means nothing
    """
    return (np.cumsum(counts > 0) + (first - 1)).clip(0).astype(np.int32)


def _numbered(ids: pl.DataFrame, first: int) -> pl.DataFrame:
    return ids.with_columns(pl.int_range(first, first + pl.len(), dtype=pl.Int32).alias(INDEX))
