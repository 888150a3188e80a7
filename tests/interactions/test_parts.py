"""A log that is read in many parts is the same log: byte by byte, sentence by sentence."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.interactions import parts
from persrec.interactions.parts import Column, Parts, Spool
from persrec.interactions.prepare import check, prepare
from persrec.interactions.schema import conform
from persrec.recipe.sections import Split

EVENT = st.tuples(
    st.sampled_from(["zoë", "amy", "u-1", "7", "u-22"]),
    st.integers(0, 6),
    st.integers(0, 4),
    st.integers(1, 5),
    st.sampled_from(["buy", "view"]),
)
LIMIT = st.none() | st.integers(2, 9)
SECTION = st.fixed_dictionaries(
    {
        "events": st.none() | st.just(["buy"]) | st.just(["view", "buy"]),
        "min_rating": st.none() | st.just(2.0),
        "since": st.none() | st.just("2017-07-14 02:41:00"),
        "max_user_events": LIMIT,
        "max_item_events": LIMIT,
        "max_history": LIMIT,
        "min_user_events": st.integers(1, 3),
        "min_item_events": st.integers(1, 3),
        "deduplicate": st.booleans(),
        "keep": st.just([]),
    }
)
SPLITS = (
    Split(),
    Split(kind="global-time", validation=0.2, test=0.3, n=2),
    Split(kind="next-basket", gap_hours=0.01, validation=0.3, test=0.4),
)


def whole_folder(section, split, rows, say):
    """All bytes that preparing in parts of so many rows leaves, or its error."""
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ROWS", rows)
        try:
            folder = prepare(section, "log", root, split, say=say)
        except UserError as error:
            assert not list(Path(root).glob(".*"))
            return str(error)
        assert [path.name for path in Path(root).iterdir()] == [folder.name], "nothing beside the folder"
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.lists(EVENT, min_size=1, max_size=60), SECTION, st.sampled_from(SPLITS), st.integers(1, 25))
@settings(max_examples=40)
@example([("amy", 1, 0, 5, "buy")] * 7, {"min_item_events": 7, "deduplicate": False}, SPLITS[0], 2)
@example([("amy", 1, 0, 5, "buy")] * 7 + [("zoë", 2, 1, 5, "view")], {"deduplicate": True}, SPLITS[0], 3)
def test_many_parts_are_the_same_log(rows, section, split, size):
    names = ["user_id", "item_id", "timestamp", "rating", "event"]
    table = pl.DataFrame(rows, schema=names, orient="row").with_columns(1_500_000_000 + pl.col("timestamp") * 60)
    with TemporaryDirectory() as folder:
        table.write_csv(Path(folder) / "log.csv")
        given = {"source": "table", "path": str(Path(folder) / "log.csv"), **section}
        one, many = [], []
        assert whole_folder(given, split, 1000, one.append) == whole_folder(given, split, size, many.append)
    assert one[:-1] == many[:-1], "the last one names the folder"


CELL = st.sampled_from(["7", "10", "", "x", "-1", "1500000000", "1.5e9", "2017-07-14 02:40:00", "\x00", " ", "1e400"])


@given(st.lists(st.tuples(CELL, CELL, CELL, CELL), min_size=1, max_size=12), st.integers(1, 5), st.booleans())
@settings(max_examples=80)
def test_many_parts_are_understood_and_refused_alike(rows, size, skip):
    names = ["user_id", "item_id", "timestamp", "rating"]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row").lazy()

    def outcome(rows):
        said = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts, "ROWS", rows)
            try:
                found = conform(frame, where="log", bad_rows="skip" if skip else "refuse", say=said.append).collect()
            except UserError as error:
                return str(error)
        return found.schema, found.rows(), said

    assert outcome(size) == outcome(1000)


def test_users_all_over_a_file_of_row_groups(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    count = 3000
    table = pl.DataFrame({"user_id": random.integers(0, 40, count), "item_id": random.integers(0, 90, count)})
    table = table.with_columns(timestamp=pl.lit(pl.Series(10**9 + random.integers(0, 10**6, count))))
    table.write_parquet(tmp_path / "log.parquet", row_group_size=170)
    section = {"source": "table", "path": str(tmp_path / "log.parquet"), "min_item_events": 30}
    one, many = whole_folder(section, Split(), 10_000, print), whole_folder(section, Split(), 256, print)
    assert one == many
    monkeypatch.setattr(parts, "ROWS", 256)
    facts = check(section, segment=20, recent=20)
    assert facts.as_dict().items() >= json.loads(one["prepared.json"])["counts"].items()


def test_parts_keep_the_order_and_one_part_is_read_once(monkeypatch):
    frame = pl.DataFrame({"a": range(25)})
    monkeypatch.setattr(parts, "ROWS", 10)
    several = Parts(frame.lazy())
    for _ in range(2):
        assert [part["a"].to_list() for part in several] == [[*range(10)], [*range(10, 20)], [*range(20, 25)]]
    once = Parts(frame.head(10).lazy())
    assert next(iter(once)) is next(iter(once))
    assert [part.height for part in Parts(frame.clear().lazy())] == [0]


def test_a_spool_gives_frames_by_number():
    spool = Spool()
    for number, value in ((2, "c"), (0, "a"), (2, "d"), (1, "b")):
        spool.append(pl.DataFrame({"x": [value]}), number)
    assert [frame["x"].to_list() for frame in spool] == [["a"], ["b"], ["c", "d"]]
    assert [frame["x"].to_list() for frame in spool.each(lambda frame: frame.head(1))] == [["a"], ["b"], ["c"]]
    assert list(spool) == []


def test_a_column_grows():
    column = Column()
    assert not column.filled
    for start in range(3):
        column.append(np.arange(start, 9, 3, dtype=np.int32)[::1])
    assert column.array().tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert column.array().dtype == np.int32


def test_a_full_disk_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    column = Column(tmp_path / "file" / "below")
    column.append(np.zeros(1))
    with pytest.raises(UserError, match=r"temporary files cannot be written: .*60 bytes per event.*Nothing was left"):
        column.append(np.zeros(1))


KILLED = """
import sys, time
from persrec.interactions import parts, prepare as module
parts.ROWS = 100
def wait(*given):
    print("writing", flush=True)
    time.sleep(60)
module._write_split = wait
module.prepare({"source": "table", "path": sys.argv[1]}, "log", sys.argv[2])
"""


def test_a_killed_process_leaves_nothing_that_the_next_does_not_remove(tmp_path):
    table = pl.DataFrame({"user_id": [1, 2, 3] * 200, "item_id": [5, 6] * 300, "timestamp": range(10**9, 10**9 + 600)})
    table.write_csv(tmp_path / "log.csv")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "log.csv"), str(tmp_path / "prepared")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    (left,) = (tmp_path / "prepared").iterdir()
    assert {path.name for path in left.iterdir()} == {"sequences.arrow", "users.arrow", "items.arrow"}, "no temporary"
    folder = prepare({"source": "table", "path": str(tmp_path / "log.csv")}, "log", tmp_path / "prepared")
    assert list((tmp_path / "prepared").iterdir()) == [folder]


def test_a_log_is_read_no_faster_than_its_parts_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many parts few are made before the first one is asked for again, and none after the last that was taken."""
    monkeypatch.setattr(parts, "ROWS", 100)
    made = []

    def noted(frame: pl.DataFrame) -> pl.DataFrame:
        made.append(frame.height)
        return frame

    sources = [
        pl.LazyFrame({"a": range(n * 100, n * 100 + 100)}).map_batches(noted, streamable=True) for n in range(60)
    ]
    taken = parts.taken(pl.concat(sources))
    assert next(taken)["a"].to_list() == list(range(100))
    time.sleep(1)
    early = len(made)
    assert early < 60
    taken.close()
    time.sleep(0.5)
    assert len(made) <= early + 5


def test_what_goes_wrong_while_a_part_is_read_is_told_where_it_is_taken() -> None:
    def broken(frame: pl.DataFrame) -> pl.DataFrame:
        raise ValueError("no")

    with pytest.raises(Exception, match="no"):
        list(parts.taken(pl.LazyFrame({"a": [1]}).map_batches(broken)))
