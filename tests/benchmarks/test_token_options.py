"""What benchmarks/token_options.py asks for itself."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from benchmarks import token_options
from persrec.interactions.schema import conform
from tests.small import events, prepared_of


@pytest.mark.parametrize("timed", [True, False])
def test_the_last_event_is_asked_for_after_the_others_whatever_the_unit_of_the_log(tmp_path: Path, timed: bool) -> None:
    log = events(timed=timed)
    if timed:
        log = log.with_columns(pl.col("timestamp") // 1000)
    read = {"source": "table", "path": str(tmp_path / "log.csv"), "unit": "s" if timed else "auto"}
    _, data = prepared_of(tmp_path, log, data=read, time="none")
    store = SimpleNamespace(prepared=lambda: data, item_ids=pl.Series(data.item_ids()))
    users, histories, targets = token_options.last_events(store)  # type: ignore[arg-type]
    assert len(targets) == len(users) == data.users
    assert len(histories) + len(targets) == len(data.items)
    last = np.zeros(len(data.items), dtype=bool)
    last[data.offsets[1:] - 1] = True
    assert targets["item_id"].to_list() == pl.Series(data.item_ids()).gather(data.items[last] - 1).to_list()
    again = conform(histories.lazy(), where="histories", unit="s").collect()
    assert again["timestamp"].to_list() == (data.times if timed else np.arange(len(last)))[~last].tolist()
