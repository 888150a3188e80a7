import json
import pickle
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from persrec import prepared
from persrec.errors import UserError
from persrec.interactions.prepare import prepare
from persrec.prepared import open_prepared


@pytest.fixture
def folder(tmp_path):
    frame = pl.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [5, 6, 7, 5], "timestamp": [1, 2, 3, 4]})
    return prepare({}, "small", tmp_path, frame=frame)


def change_facts(folder, **changes):
    path = folder / "prepared.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_arrays_are_views_of_the_mapped_file(folder):
    log = open_prepared(folder)
    for array in (log.items, log.times, log.offsets, log.train_end):
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert (log.items.dtype, log.times.dtype, log.offsets.dtype) == (np.int32, np.int64, np.int64)
    assert (log.users, log.items_count, log.ratings) == (2, 3, None)


def test_pickle_reopens_by_path(folder, monkeypatch, tmp_path):
    contents = pickle.dumps(open_prepared(folder))
    assert len(contents) < 1000
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(contents)
    assert again.items.tolist() == [1, 2, 3, 1]
    assert again.split == "leave-one-out"


def test_relative_folders_survive_a_change_of_directory(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    contents = pickle.dumps(open_prepared(folder.name))
    monkeypatch.chdir("/")
    assert pickle.loads(contents).users == 2


def test_reader_needs_no_polars():
    code = "import sys, persrec.prepared; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_not_a_prepared_folder(tmp_path):
    with pytest.raises(UserError, match=r"not a prepared folder \(no prepared.json\); run `persrec prepare RECIPE`"):
        open_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["sequences.arrow", "users.arrow", "items.arrow", "split-leave-one-out.arrow"])
def test_incomplete(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"incomplete, {name} is missing; delete the folder and run"):
        open_prepared(folder)


def test_shortened(folder):
    path = folder / "sequences.arrow"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"sequences.arrow: altered since it was written \(.* bytes instead of"):
        open_prepared(folder)


def test_altered_in_place(folder):
    path = folder / "items.arrow"
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match=r"items.arrow: altered since it was written \(other contents\)"):
        open_prepared(folder)


def test_another_version(folder):
    change_facts(folder, format=99)
    with pytest.raises(UserError, match=r"format version 99, expected 2; .*Delete the folder and run"):
        open_prepared(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2, "files": [], "hash": "x"}'])
def test_damaged_facts(folder, text):
    (folder / "prepared.json").write_text(text)
    with pytest.raises(UserError, match=r"prepared.json: damaged; delete the folder"):
        open_prepared(folder)


def test_split_that_is_not_there(folder):
    with pytest.raises(UserError, match=r"no split 'time'; got leave-one-out. Run `persrec prepare`"):
        open_prepared(folder, "time")


@pytest.mark.parametrize("together", [1, 2, 100])
def test_training_events_are_counted_some_users_at_a_time(tmp_path, monkeypatch, together):
    monkeypatch.setattr(prepared, "TOGETHER", together)
    frame = pl.DataFrame({"user_id": [1, 1, 1, 2, 3, 3, 3, 3], "item_id": [5, 6, 7, 5, 6, 5, 5, 7]})
    log = open_prepared(prepare({"deduplicate": False}, "small", tmp_path, frame=frame))
    assert log.train_end.tolist() == [1, 1, 2]
    assert log.training_events_per_item.tolist() == [0, 3, 1, 0]
