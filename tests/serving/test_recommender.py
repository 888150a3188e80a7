"""Recommendations of a saved model: whose, which, in whose ids, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from persrec.batches import collate, evaluation_windows
from persrec.errors import UserError
from persrec.interactions.prepare import prepare
from persrec.serving.recommender import Recommender
from tests.small import START, events, run_of

LOG = events()
SOME = ["ü-3", "ü-0", "ü-13", "ü-20"]  # one with 30 events, 60, 1 and 12
LAST = START + 60_000 * LOG.height


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("known"), LOG)


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return Recommender.load(run)


@pytest.fixture(scope="module")
def next_time(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(run_of(tmp_path_factory.mktemp("next"), LOG, time="next"))


def history(user: str) -> pl.DataFrame:
    return LOG.filter(pl.col("user_id") == user)


def close(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    same = one.drop("score").equals(other.drop("score"))
    return same and np.allclose(one["score"].to_numpy(), other["score"].to_numpy(), atol=1e-5)


def test_scores_and_order_are_those_of_the_model(recommender: Recommender) -> None:
    data, found = recommender.prepared(), recommender.recommend(SOME, 4)
    ids = data.item_ids().to_pylist()
    vectors = recommender.model.vectors().detach().numpy()
    for user in SOME:
        row = data.user_ids().to_pylist().index(user)
        windows = evaluation_windows(np.array([row]), np.diff(data.offsets)[[row]], length=None)
        batch = collate(data, windows, time="last")
        scores = vectors[1:] @ recommender.model.queries(batch).numpy()[0]
        seen = set(history(user)["item_id"])
        best = [place for place in np.argsort(-scores) if ids[place] not in seen][:4]
        own = found.filter(pl.col("user_id") == user)
        assert own["item_id"].to_list() == [ids[place] for place in best]
        assert own["score"].to_list() == pytest.approx(scores[best].tolist(), abs=1e-5)
        assert own["rank"].to_list() == [1, 2, 3, 4][: len(best)]
    assert found["user_id"].unique(maintain_order=True).to_list() == SOME, "in the order they were asked for"


def test_seen_items_are_left_out_over_the_whole_history(recommender: Recommender) -> None:
    found = recommender.recommend(None, 30)
    pairs = found.join(LOG, on=["user_id", "item_id"], how="inner")
    assert pairs.is_empty()
    for user in SOME:
        unseen = 30 - history(user)["item_id"].n_unique()
        assert found.filter(pl.col("user_id") == user).height == unseen, "whoever has seen nearly all gets fewer"


def test_seen_items_are_recommended_where_the_recipe_says_so(tmp_path: Path) -> None:
    changed = {"k": [1], "exclude_seen": False}
    recommender = Recommender.load(run_of(tmp_path, LOG, evaluation=changed, primary="ndcg@1"))
    found = recommender.recommend(None, 30)
    assert found.height == 30 * LOG["user_id"].n_unique()


def test_nobody_is_changed_by_the_company(recommender: Recommender) -> None:
    everybody = recommender.recommend(None, 5)
    for user in SOME:
        alone = recommender.recommend([user], 5)
        assert close(alone, everybody.filter(pl.col("user_id") == user))
    assert everybody["user_id"].n_unique() == LOG["user_id"].n_unique()
    again = recommender.recommend([SOME[0], SOME[1], SOME[0]], 5)
    assert close(again.head(5), again.tail(5))


def test_a_single_id_is_a_user(recommender: Recommender) -> None:
    assert recommender.recommend("ü-3", 2).equals(recommender.recommend(["ü-3"], 2))


def test_asking_for_nobody_gives_nothing(recommender: Recommender) -> None:
    assert recommender.recommend([], 5).columns == ["user_id", "item_id", "score", "rank"]
    assert recommender.recommend([], 5).is_empty()


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "jsonl", "polars", "pandas"])
def test_histories_of_users_never_seen(recommender: Recommender, form: str, tmp_path: Path) -> None:
    """The same events under another name get the same items as the known user."""
    new = pl.concat([history(user) for user in SOME]).with_columns(pl.col("user_id").str.replace("ü", "new"))
    given: Any = {"polars": new, "pandas": new.to_pandas()}.get(form, tmp_path / f"new.{form}")
    if form in ("csv", "tsv"):
        new.write_csv(given, separator="," if form == "csv" else "\t")
    elif form == "parquet":
        new.write_parquet(given)
    elif form == "jsonl":
        new.write_ndjson(given)
    found = recommender.recommend(histories=given, k=5)
    known = recommender.recommend(SOME, 5).with_columns(pl.col("user_id").str.replace("ü", "new"))
    assert close(found.sort("user_id", "rank"), known.sort("user_id", "rank"))


def test_histories_in_the_form_of_sasrec(tmp_path: Path) -> None:
    numbers = LOG.with_columns(pl.col("user_id", "item_id").str.extract(r"(\d+)")).drop("timestamp")
    recommender = Recommender.load(run_of(tmp_path, numbers, time="none"))
    own = numbers.filter(pl.col("user_id") == "3")
    (tmp_path / "new.txt").write_text("".join(f"3 {item}\n" for item in own["item_id"]))
    assert close(recommender.recommend(histories=tmp_path / "new.txt"), recommender.recommend([3]))


def test_histories_are_put_in_the_order_of_time_and_freed_of_duplicates(recommender: Recommender) -> None:
    new = history("ü-0")
    shuffled = pl.concat([new, new.head(5)]).sample(fraction=1, shuffle=True, seed=0)
    assert close(recommender.recommend(histories=shuffled), recommender.recommend(histories=new))


def test_histories_need_no_prepared_log(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "moved")
    edit_manifest(Path("moved"), folder="/gone/small-0123")
    recommender = Recommender.load("moved")
    assert close(recommender.recommend(histories=LOG, k=3), Recommender.load(run).recommend(histories=LOG, k=3))
    with pytest.raises(
        UserError, match=r"the prepared log of this run is gone \(expected /gone/small-0123 or data/prepared/small-0123"
    ):
        recommender.recommend(["ü-0"])


def edit_manifest(run: Path, **data: str) -> None:
    path = run / "run.json"
    manifest = json.loads(path.read_text())
    manifest["data"] |= data
    path.write_text(json.dumps(manifest))


def test_a_prepared_log_that_moved_along_is_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    then = Recommender.load(run).prepared().folder
    shutil.copytree(run, "moved")
    shutil.copytree(then, Path("data/prepared") / then.name)
    edit_manifest(Path("moved"), folder=f"/gone/{then.name}")
    assert Recommender.load("moved").prepared().folder == (Path("data/prepared") / then.name).absolute()


def test_a_prepared_log_of_other_data_is_refused(run: Path, tmp_path: Path) -> None:
    other = prepare({}, "other", tmp_path, frame=LOG.head(100))
    shutil.copytree(run, tmp_path / "run")
    edit_manifest(tmp_path / "run", folder=str(other))
    with pytest.raises(UserError, match=r"other-\w+: is of other data: got hash \w{12}, expected \w{12}"):
        Recommender.load(tmp_path / "run").recommend(["ü-0"])


def test_the_prepared_log_is_checked_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    monkeypatch.setattr("persrec.prepared.check_files", lambda folder, facts, verify: checked.append(folder))
    recommender = Recommender.load(run)
    recommender.recommend(["ü-0", "nobody"], unknown="popular")
    recommender.score(["ü-0"], ["чай 1"])
    assert checked == [recommender.prepared().folder]


def test_events_of_unknown_items_are_counted_and_left_out(recommender: Recommender) -> None:
    said: list[str] = []
    extra = pl.DataFrame({"user_id": ["ü-0"] * 2, "item_id": ["new 1", "new 2"], "timestamp": [LAST, LAST + 1]})
    found = recommender.recommend(histories=pl.concat([history("ü-0"), extra]), say=said.append)
    assert close(found, recommender.recommend(histories=history("ü-0")))
    assert "2 of 62 events are of items that the run does not know; they are left out" in said


STRANGE = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["new", "new"], "timestamp": [1, 2]})


def test_users_without_a_known_item_are_named_and_left_out_where_others_remain(recommender: Recommender) -> None:
    said: list[str] = []
    found = recommender.recommend(histories=pl.concat([STRANGE, history("ü-0")]), say=said.append)
    assert close(found, recommender.recommend(histories=history("ü-0")))
    assert said[-1] == (
        "histories: 2 of 3 users have no event of an item that this run knows, or none that its filters keep: 'a', "
        "'b'; they are left out, and "
        "--unknown popular answers them by popularity"
    )
    both = pl.concat([STRANGE, history("ü-0")])
    assert recommender.score(None, ["чай 1"], histories=both)["user_id"].to_list() == ["ü-0"]
    with pytest.raises(UserError, match=r"2 of 2 users have no event of an item .*: 'a', 'b'; expected somebody who"):
        recommender.recommend(histories=STRANGE)


@pytest.mark.parametrize("others", [[], ["ü-0", "ü-3"]])
def test_users_without_a_known_item_are_answered_by_popularity_where_that_is_asked_for(
    recommender: Recommender, others: list[str]
) -> None:
    """In the order of the users, whoever they are."""
    said: list[str] = []
    given = pl.concat([STRANGE, *map(history, others)])
    found = recommender.recommend(histories=given, k=3, unknown="popular", say=said.append)
    users = given["user_id"].unique(maintain_order=True).sort().to_list()
    assert found["user_id"].to_list() == [user for user in users for _ in range(3)]
    popular = recommender.recommend(["a", "b"], 3, unknown="popular")
    assert close(found.filter(pl.col("user_id").is_in(["a", "b"])), popular)
    if others:
        known = recommender.recommend(histories=pl.concat([*map(history, others)]), k=3)
        assert close(found.filter(pl.col("user_id").is_in(others)), known)
    assert not any("are left out, and" in sentence for sentence in said)


def test_strangers_stand_at_their_place_whatever_their_ids_are(tmp_path: Path) -> None:
    numbers = LOG.with_columns(pl.col("user_id").str.extract(r"(\d+)").cast(pl.Int64) * 2)
    recommender = Recommender.load(run_of(tmp_path, numbers))
    strange = pl.DataFrame({"user_id": [5, 99], "item_id": ["new", "new"], "timestamp": [1, 2]})
    given = pl.concat([numbers.filter(pl.col("user_id") <= 6), strange])
    found = recommender.recommend(histories=given, k=1, unknown="popular")
    assert found["user_id"].to_list() == [0, 2, 4, 5, 6, 99]
    best = recommender.recommend([5], 1, unknown="popular")["item_id"][0]
    assert found.filter(pl.col("user_id").is_in([5, 99]))["item_id"].to_list() == [best, best]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": ["ü-0", "nobody", "ü"]}, r"2 of 3 users are not in the run's log: 'nobody', 'ü'; .*such as 'ü-0'"),
        ({"users": ["ü-0"], "histories": LOG}, "got both users and histories, expected one of them"),
        ({"users": ["ü-0"], "k": 31}, "k: got 31, expected a whole number from 1 to 30, the number of items"),
        ({"users": ["ü-0"], "k": 0}, "k: got 0, expected a whole number from 1 to 30"),
        ({"histories": "none.csv"}, r"histories: there is no file none\.csv; expected a log of their events"),
        ({"histories": LOG.drop("timestamp")}, "no timestamp column, but this model was trained with `time: last`"),
        ({"histories": LOG.drop("item_id")}, "missing column item_id"),
        ({"histories": LOG.clear()}, "no events"),
        ({"histories": [1, 2]}, "got list, expected a pandas or Polars frame"),
    ],
)
def test_what_is_refused(recommender: Recommender, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recommender.recommend(**arguments)


def test_huge_integers_as_ids(tmp_path: Path) -> None:
    big = 2**62
    numbers = LOG.with_columns(
        pl.col("user_id").str.extract(r"(\d+)").cast(pl.Int64) + big,
        pl.col("item_id").str.extract(r"(\d+)").cast(pl.Int64) * 3 + big,
    )
    recommender = Recommender.load(run_of(tmp_path, numbers))
    found = recommender.recommend([big + 3, big], 3)
    assert found["user_id"].unique(maintain_order=True).to_list() == [big + 3, big]
    assert set(found["item_id"]) <= set(numbers["item_id"])
    assert found.equals(recommender.recommend([str(big + 3), str(big)], 3)), "as a command line has them"
    assert found.equals(recommender.recommend(pd.Series([big + 3, big]), 3))
    for wrong in (str(float(big)), "0" + str(big), " " + str(big)):
        with pytest.raises(UserError, match="1 of 1 users are not in the run's log"):
            recommender.recommend([wrong])


def test_text_that_is_no_number_of_the_log_is_another_id(tmp_path: Path) -> None:
    numbers = LOG.with_columns(pl.col("item_id").str.extract(r"(\d+)").cast(pl.Int64))
    recommender, said = Recommender.load(run_of(tmp_path, numbers)), list[str]()
    known = {"user_id": ["x", "x"], "item_id": ["7", "3"], "timestamp": [START, START + 1]}
    strange = {"user_id": ["x", "x", "x"], "item_id": ["7", "3", "007"], "timestamp": [START, START + 1, START + 1]}
    expected = recommender.recommend(histories=pl.DataFrame(known), k=3)
    assert recommender.recommend(histories=pl.DataFrame(strange), k=3, say=said.append).equals(expected)
    assert any("1 of 3 events are of items that the run does not know" in sentence for sentence in said)


def test_numbers_for_ids_that_are_text(tmp_path: Path) -> None:
    text = LOG.with_columns(pl.col("user_id").str.replace("ü-13", "13"))
    recommender = Recommender.load(run_of(tmp_path, text))
    assert recommender.recommend([13], 2)["user_id"].to_list() == ["13", "13"]


def test_frames_become_pandas_frames(recommender: Recommender) -> None:
    frame = recommender.recommend(SOME, 2).to_pandas()
    assert list(frame.columns) == ["user_id", "item_id", "score", "rank"]
    assert frame["item_id"].str.startswith("чай").all()


def test_at_of_a_model_that_does_not_use_it(recommender: Recommender) -> None:
    said: list[str] = []
    assert recommender.recommend(SOME, at=5, say=said.append).equals(recommender.recommend(SOME))
    assert said == ["this model was trained with `time: last`; `at` changes nothing"]


def test_at_defaults_to_the_last_event_and_says_so(next_time: Recommender) -> None:
    said: list[str] = []
    found = next_time.recommend(["ü-0"], say=said.append)
    last = int(history("ü-0")["timestamp"].max())  # type: ignore[arg-type]
    assert close(found, next_time.recommend(["ü-0"], at=last))
    assert said == ["`at` was not given: every user is asked at the time of their own last event"]


def test_at_is_when_users_are_asked(next_time: Recommender) -> None:
    soon, late = (next_time.recommend(["ü-0", "ü-3"], at=LAST + gap) for gap in (60_000, 10**11))
    assert not np.allclose(soon["score"].to_numpy(), late["score"].to_numpy(), atol=1e-4)
    by_history = next_time.recommend(histories=pl.concat([history("ü-0"), history("ü-3")]), at=LAST + 60_000)
    assert close(by_history, soon)


def test_at_before_a_users_last_event_is_refused(next_time: Recommender) -> None:
    last = int(history("ü-3")["timestamp"].max())  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=rf"at: got {last - 1}, but user 'ü-3' has an event at {last} ms \(1 of 2 users"
    ):
        next_time.recommend(["ü-0", "ü-3"], at=last - 1)


def test_a_length_cuts_what_is_read_but_not_what_is_excluded(tmp_path: Path) -> None:
    recommender = Recommender.load(run_of(tmp_path, LOG, length=4))
    whole, tail = recommender.recommend(["ü-0"], 3), recommender.recommend(histories=history("ü-0").tail(4), k=30)
    both = whole.join(tail, on="item_id", suffix="_tail")
    assert both.height == whole.height
    assert np.allclose(both["score"].to_numpy(), both["score_tail"].to_numpy(), atol=1e-5)
    assert not set(whole["item_id"]) & set(history("ü-0")["item_id"])


def test_the_mapping_of_a_table_holds_for_histories(tmp_path: Path) -> None:
    mapped = LOG.rename({"user_id": "who", "item_id": "what", "timestamp": "when"})
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    data = {"source": "table", "path": str(tmp_path / "log.csv"), "columns": columns}
    recommender = Recommender.load(run_of(tmp_path, mapped, data=data))
    new = mapped.filter(pl.col("who") == "ü-3")
    new.write_csv(tmp_path / "new.csv")
    expected = recommender.recommend(["ü-3"], 3)
    assert close(recommender.recommend(histories=new, k=3), expected)
    assert close(recommender.recommend(histories=tmp_path / "new.csv", k=3), expected)
