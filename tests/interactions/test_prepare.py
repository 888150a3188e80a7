import errno
import json
from datetime import date
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest

from persrec.errors import UserError
from persrec.interactions import prepare as module
from persrec.interactions.prepare import check, prepare
from persrec.prepared import open_prepared, split_files
from persrec.recipe.sections import Data, Split
from tests.datasets.real import real

CSV = """user_id,item_id,timestamp,rating
zoë,B,1500000002,5
zoë,A,1500000001,4
amy,C,1500000009,3
zoë,B,1500000002,5
zoë,C,1500000002,1
amy,A,1500000003,2
"""


@pytest.fixture
def data(tmp_path):
    (tmp_path / "log.csv").write_text(CSV, encoding="utf-8")
    return {"source": "table", "path": str(tmp_path / "log.csv")}


def test_the_folder_holds_the_log(data, tmp_path):
    folder = prepare(data, "small", tmp_path / "prepared")
    log = open_prepared(folder)
    assert folder.name == f"small-{log.hash[:12]}"
    assert log.user_ids().to_pylist() == ["amy", "zoë"]
    assert log.item_ids().to_pylist() == ["A", "B", "C"]
    assert log.offsets.tolist() == [0, 2, 5]
    assert log.items.tolist() == [1, 3, 1, 2, 3]
    assert log.times.tolist() == [1500000003000, 1500000009000, 1500000001000, 1500000002000, 1500000002000]
    assert log.ratings.tolist() == [2, 3, 4, 5, 1]
    assert log.train_end.tolist() == [2, 1]
    assert [field.tolist() for field in log.validation] == [[1], [1], [1]]
    assert [field.tolist() for field in log.test] == [[1], [2], [1]]
    assert log.events_per_item.tolist() == [0, 2, 1, 2]
    assert log.training_events_per_item.tolist() == [0, 2, 0, 1]
    assert log.facts["counts"]["duplicates_dropped"] == 1
    assert log.facts["source"]["files"][0]["name"] == "log.csv"
    assert any("read as s" in sentence for sentence in log.facts["understood"])


def test_prepared_once(data, tmp_path):
    said = []
    first = prepare(data, "small", tmp_path, say=said.append)
    written = (first / "sequences.arrow").stat().st_mtime_ns
    again = prepare(data, "small", tmp_path, say=said.append)
    assert first == again
    assert (first / "sequences.arrow").stat().st_mtime_ns == written
    assert said[-1].endswith("prepared already (same files, same data section).")


def test_another_place_of_the_same_file_is_the_same_data(data, tmp_path):
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "log.csv").write_text(CSV, encoding="utf-8")
    moved = data | {"path": str(tmp_path / "moved" / "log.csv")}
    assert prepare(data, "small", tmp_path) == prepare(moved, "small", tmp_path)


@pytest.mark.parametrize("change", [{"min_user_events": 2}, {"deduplicate": False}, {"unit": "s"}])
def test_another_data_section_is_other_data(data, tmp_path, change):
    assert prepare(data, "small", tmp_path) != prepare(data | change, "small", tmp_path)


def test_other_contents_are_other_data(data, tmp_path):
    first = prepare(data, "small", tmp_path)
    (tmp_path / "log.csv").write_text(CSV + "amy,A,1500000033,2\n", encoding="utf-8")
    assert prepare(data, "small", tmp_path) != first


def test_an_altered_folder_is_written_anew(data, tmp_path):
    folder = prepare(data, "small", tmp_path)
    (folder / "users.arrow").write_bytes(b"")
    assert prepare(data, "small", tmp_path) == folder
    assert open_prepared(folder).users == 2


def test_k_core_renumbers(tmp_path):
    (tmp_path / "log.txt").write_text("1 5\n1 9\n2 9\n2 5\n3 4\n3 9\n")
    section = {"source": "sasrec", "path": str(tmp_path), "min_user_events": 2, "min_item_events": 2}
    log = open_prepared(prepare(section, "small", tmp_path / "prepared"))
    assert log.times is None
    assert log.user_ids().to_pylist() == [1, 2]
    assert log.item_ids().to_pylist() == [5, 9]
    assert log.items.tolist() == [1, 2, 2, 1]
    assert log.facts["counts"]["filtered_dropped"] == 2


def test_a_pydantic_section(data, tmp_path):
    section = SimpleNamespace(model_dump=lambda mode: data)
    assert open_prepared(prepare(section, "small", tmp_path)).users == 2


@pytest.mark.parametrize("kind", [pl.DataFrame, pd.DataFrame])
def test_a_frame_in_place_of_a_file(tmp_path, kind):
    columns = {"user_id": [2**63 - 1, 4, 4], "item_id": ["x", "y", "x"], "timestamp": [3, 2, 1]}
    log = open_prepared(prepare({}, "frame", tmp_path, frame=kind(columns)))
    assert log.user_ids().to_pylist() == [4, 2**63 - 1]
    assert log.items.tolist() == [1, 2, 1]


def test_synthetic(tmp_path):
    section = {"source": "synthetic", "synthetic": {"users": 20, "events": 20, "old_signal": 1.0, "seed": 0}}
    log = open_prepared(prepare(section, "small", tmp_path))
    assert log.users == 20
    assert (np.diff(log.offsets) >= 5).all()


def test_nothing_is_left_when_reading_fails(data, tmp_path):
    section = data | {"min_item_events": 50}
    with pytest.raises(UserError, match="leave none of the"):
        prepare(section, "small", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("step", ["write_batch", "prepared.digest"])
def test_a_full_disk_leaves_nothing(data, tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder, _, name = step.rpartition(".")
    section = module.data_section(data)
    log = module.load(section)
    monkeypatch.setattr(module.prepared if folder else module, name, full)
    with pytest.raises(UserError, match=r"cannot be written: No space left on device.*free space.*Nothing was left"):
        module._write(log, tmp_path / "prepared" / "small-0", Split(), {}, print)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_an_interrupt_leaves_nothing(data, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, "small", tmp_path / "prepared")
    assert list((tmp_path / "prepared").iterdir()) == []


def test_root_is_a_file(data, tmp_path):
    with pytest.raises(UserError, match=r"cannot be written"):
        prepare(data, "small", tmp_path / "log.csv")


def test_a_new_split_is_put_beside(data, tmp_path):
    """What a fresh folder with that split holds, and the log is not written again."""
    folder, said = prepare(data, "small", tmp_path / "a"), []
    written = (folder / "sequences.arrow").stat().st_mtime_ns
    basket = Split(kind="next-basket", gap_hours=0.0001, test=0.5, validation=0.4)
    assert prepare(data, "small", tmp_path / "a", basket, say=said.append) == folder
    assert said == [
        f"split {basket.name}: 2 test queries; 2 of the 2 users asked are cold (no event in training); 3 of 3 "
        "targets are of cold items (2 items).",
        f"{folder}: split {basket.name} added.",
    ]
    facts = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    assert {name: counts["cold_users"] for name, counts in facts["cold"].items()} == {
        "leave-one-out": 0,
        basket.name: 2,
    }
    assert (folder / "sequences.arrow").stat().st_mtime_ns == written
    added = open_prepared(folder, basket.name)
    fresh = open_prepared(prepare(data, "small", tmp_path / "b", basket), basket.name)
    assert added.train_end.tolist() == fresh.train_end.tolist()
    assert (
        [field.tolist() for field in added.test] == [field.tolist() for field in fresh.test] == [[0, 1], [1, 1], [1, 2]]
    )
    assert open_prepared(folder).train_end.tolist() == [2, 1]


def test_a_split_that_asks_for_times_the_log_has_not(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,1\n1,2\n", encoding="utf-8")
    section = {"source": "table", "path": str(tmp_path / "log.csv")}
    with pytest.raises(UserError, match="split: got after-break, which asks for times, but the log has none"):
        prepare(section, "small", tmp_path / "prepared", Split(kind="after-break"))
    assert list((tmp_path / "prepared").iterdir()) == []


def test_the_keys_are_those_of_a_recipe():
    assert set(module.SECTION) == set(Data.model_fields)
    defaults = Data().model_dump(mode="json")
    assert {key: defaults[key] for key in module.LATER} == module.LATER


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"since": "last May"}, "got 'last May', expected a date such as 2024-03-01 or 2024-03-01 12:00"),
        ({"events": []}, "at least 1 item"),
        ({"max_history": 0}, "greater than or equal to 1"),
        ({"bad_rows": "ignore"}, "'refuse' or 'skip'"),
    ],
)
def test_filters_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        Data(**values)


def test_filters_as_people_write_them():
    data = Data(since=date(2024, 3, 1), until="2024-04-01T12:00", events="buy")
    assert (data.since, data.until, data.events) == ("2024-03-01 00:00:00", "2024-04-01 12:00:00", ("buy",))


FILTERS = {"max_history": 1, "events": ["buy"], "min_rating": 2.0, "since": "2017-07-15", "bad_rows": "skip"}


@pytest.mark.parametrize("key", FILTERS)
def test_a_filter_is_other_data_and_its_default_is_not(tmp_path, key):
    """The hash is that of a section that does not know the key, so folders of earlier recipes are found again."""
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,rating,timestamp,event\n1,1,5,1600000000,buy\n1,2,1,1500000000,view\n")
    data = {"source": "table", "path": str(path)}
    identity = module.hash_of(module._origin(module.data_section(data), None))
    unset = module._origin(module.data_section(data | {key: module.SECTION[key]}), None)
    assert unset["section"] == {
        "source": "table",
        "columns": {},
        "separator": None,
        "unit": "auto",
        "deduplicate": True,
        "min_user_events": 1,
        "min_item_events": 1,
    }
    assert module.hash_of(unset) == identity
    assert prepare(data | {key: FILTERS[key]}, "small", tmp_path) != prepare(data, "small", tmp_path)


def test_filters_by_value_then_duplicates_then_counts_then_k_core(tmp_path):
    """Item 7 goes: the newest two events of user 1 are of item 9. With it goes user 2, and item 6."""
    rows = [
        "1,7,100,buy", "1,7,100,buy", "1,8,200,view", "1,9,300,buy", "1,9,400,buy",
        "2,7,100,buy", "2,9,900,buy",
        "3,9,100,buy", "3,6,200,buy",
    ]  # fmt: skip
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp,event", *rows]) + "\n")
    said = []
    section = {"source": "table", "path": str(path), "events": ["buy"], "until": "1970-01-01 00:10:00"}
    section |= {"max_history": 2, "min_user_events": 1, "min_item_events": 2}
    log = module.load(module.data_section(section), say=said.append)
    assert log.users["user_id"].to_list() == [1, 3]
    assert log.items["item_id"].to_list() == [9]
    assert [sentence for sentence in said if sentence.startswith("data.")] == [
        "data.events: [buy] leaves 8 of 9 events; 0 users and 1 items have none.",
        "data.until: 1970-01-01 00:10:00 leaves 7 of 8 events; 0 users and 0 items have none.",
        "data.max_history: 2 leaves 5 of 6 events; 0 users and 0 items have none.",
    ]
    assert (log.facts.duplicates_dropped, log.facts.filtered_dropped) == (1, 2)


def test_bad_rows_are_skipped_where_the_recipe_allows(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,1,5\n1,,6\n1,2,x\n1,3,7\n")
    section = {"source": "table", "path": str(tmp_path / "log.csv")}
    with pytest.raises(UserError, match=r"item_id has 1 null .*row 3; .*row 4 \('x'\).*data.bad_rows: skip"):
        prepare(section, "small", tmp_path)
    log = open_prepared(prepare(section | {"bad_rows": "skip"}, "small", tmp_path))
    assert log.item_ids().to_pylist() == [1, 3]
    assert any("2 of 4 rows skipped" in sentence for sentence in log.facts["understood"])


def test_a_frame_with_types_of_events(tmp_path):
    frame = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [5, 6, 7], "kind": ["buy", "view", "buy"]})
    section = {"columns": {"event": "kind"}, "events": ["buy"]}
    log = open_prepared(prepare(section, "frame", tmp_path, frame=frame))
    assert log.item_ids().to_pylist() == [5, 7]
    other = prepare(section, "frame", tmp_path, frame=frame.with_columns(kind=pl.lit("buy")))
    assert open_prepared(other).item_ids().to_pylist() == [5, 6, 7]


def test_unknown_key(tmp_path):
    with pytest.raises(UserError, match=r"data: unknown key sauce; known are source, path"):
        prepare({"sauce": "table"}, "small", tmp_path)


def test_not_a_section(tmp_path):
    with pytest.raises(UserError, match=r"data: got list, expected the data section"):
        prepare([], "small", tmp_path)


def test_check_writes_nothing(data, tmp_path):
    facts = check(data, segment=1, recent=2)
    assert (facts.users, facts.events, facts.ties, facts.users_with_memory) == (2, 5, 2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_facts_are_json(data, tmp_path):
    facts = json.loads((prepare(data, "small", tmp_path) / "prepared.json").read_text(encoding="utf-8"))
    assert facts["counts"]["ties"] == 2
    assert set(facts["files"]) == {"sequences.arrow", "users.arrow", "items.arrow", *split_files("leave-one-out")}


def test_real_ml_1m(tmp_path):
    """The benchmark file comes out as it went in: its ids are 1..U and 1..V already, in order of time."""
    path = real("ml-1m/ml-1m_sasrec.txt")
    log = open_prepared(prepare({"source": "sasrec", "path": str(path)}, "ml-1m", tmp_path))
    pairs = np.loadtxt(path, dtype=np.int64)
    np.testing.assert_array_equal(log.items, pairs[:, 1])
    np.testing.assert_array_equal(np.repeat(np.arange(log.users) + 1, np.diff(log.offsets)), pairs[:, 0])
    assert np.median(np.diff(log.offsets)) == 96


def test_real_ml_100k_ties_keep_file_order(tmp_path):
    path = real("ml-100k/u.data")
    log = open_prepared(prepare({"source": "movielens", "path": str(path)}, "ml-100k", tmp_path))
    rows = [tuple(map(int, line.split("\t"))) for line in path.read_text().splitlines()]
    expected = [item for user, item, _, time in sorted(rows, key=lambda row: (row[0], row[3]))]
    ids = log.item_ids().to_numpy()
    assert ids[log.items - 1].tolist() == expected
    assert log.facts["counts"]["ties"] == pytest.approx(76_000, abs=1_000)
