"""What is kept of users as a frame of features."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from persrec.models.encodings import unpack
from persrec.serving.packing import Layout, Record


def features(
    ids: pl.Series, records: Sequence[Record], queries: npt.NDArray[np.float32], layout: Layout
) -> pl.DataFrame:
    """One row per user; see `Recommender.memory`."""
    wide = layout.planes * layout.width
    return pl.DataFrame(
        {
            ids.name: ids,
            "events": pl.Series([record.events for record in records], dtype=pl.Int64),
            "folded": pl.Series([record.count for record in records], dtype=pl.Int64),
            "last": pl.Series([record.last for record in records], dtype=pl.Int64),
            "query": pl.Series(queries.tolist(), dtype=pl.Array(pl.Float32, queries.shape[1])),
            "rows": pl.Series(
                [_rows(record, layout).tolist() for record in records], dtype=pl.List(pl.Array(pl.Float32, wide))
            ),
        }
    )


def _rows(record: Record, layout: Layout) -> npt.NDArray[np.float32]:
    """The memory's rows as numbers: (M, P' * D)."""
    states = record.rows.states
    if not len(states):
        return np.zeros((0, layout.planes * layout.width), np.float32)
    rows = unpack(states.reshape(len(states) * layout.planes, -1), layout.width, layout.encoding)
    return rows.numpy().reshape(len(states), -1)
