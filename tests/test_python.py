"""What a program gives the functions of the top level, and what it gets."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import persrec
from persrec.errors import UserError
from persrec.moments import milliseconds

FRAME = pl.DataFrame(
    {
        "user_id": [f"u{user}" for user in range(30) for _ in range(16)],
        "item_id": [f"i{(user + 3 * place) % 23}" for user in range(30) for place in range(16)],
        "timestamp": [datetime(2024, 1, 1 + place, user % 24) for user in range(30) for place in range(16)],
        "event": [["view", "buy"][place % 2] for _ in range(30) for place in range(16)],
    }
)
SMALL = [
    "history=[full,compressed]",
    "baselines=[popular]",
    "time=next",
    "data.events=[view,buy]",
    "model.width=8",
    "memory.segment=4",
    "memory.recent=4",
    "training.epochs=1",
    "training.warmup_steps=2",
    "training.threads=1",
    "evaluation.k=[5]",
    "primary=ndcg@5",
]
LAST = datetime(2024, 2, 1)
Folders = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A grid on the frame, its table, and a recommender of one of its runs."""
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        table = persrec.fit(FRAME, SMALL, out=folder / "grid", progress=False)
        run = folder / "grid" / "compressed-seed0"
        yield {"grid": folder / "grid", "run": run, "table": table, "recommender": persrec.Recommender.load(run)}


def test_all_that_is_exported_is_there() -> None:
    for name in persrec.__all__:
        assert name == "__version__" or callable(getattr(persrec, name)), name
    with pytest.raises(AttributeError, match="module 'persrec' has no attribute 'nothing'"):
        _ = persrec.nothing


def test_the_rows_of_evaluate_stand_as_those_of_fit(made: Folders) -> None:
    again = persrec.evaluate(made["grid"])
    assert [row["history"] for row in made["table"].rows] == [row["history"] for row in again.rows]
    assert repr(again) == str(again)
    (row,) = persrec.evaluate(made["run"], ["evaluation.k=[3]"]).rows
    assert row["primary"] == "ndcg@3"
    assert row["primary"] in row["metrics"]


def test_a_comparison_takes_one_folder_or_several(made: Folders) -> None:
    one = persrec.compare(made["grid"]).rows
    assert one == persrec.compare([made["grid"]]).rows == persrec.compare([str(made["grid"])]).rows
    frame = pl.DataFrame(one)
    assert frame["run"].drop_nulls().to_list() == ["full", "compressed", "popular"]


def test_candidates_come_in_any_form(made: Folders, tmp_path: Path) -> None:
    pairs = pl.DataFrame({"user_id": ["u1", "u1", "u2"], "item_id": ["i3", "i4", "i5"]})
    pairs.write_csv(tmp_path / "pairs.csv")
    expected = persrec.score(made["run"], {"u1": ["i3", "i4"], "u2": ["i5"]})
    assert expected.select("user_id", "item_id").equals(pairs)
    for given in (pairs, pairs.to_pandas(), pairs.lazy(), tmp_path / "pairs.csv", str(tmp_path / "pairs.csv")):
        assert persrec.score(made["run"], given).equals(expected)
        if not isinstance(given, str):
            assert made["recommender"].score(None, given).equals(expected)
    same = persrec.score(made["run"], ["i3", "i4"], ["u1", "u2"])
    assert same.equals(made["recommender"].score(["u1", "u2"], ["i3", "i4"]))
    assert same["user_id"].to_list() == ["u1", "u1", "u2", "u2"]


def test_lists_of_items_are_ids_or_files(made: Folders, tmp_path: Path) -> None:
    (tmp_path / "allowed.txt").write_text("i3\ni4\n")
    (tmp_path / "ids").write_text("i3\n")
    for given in (["i3", "i4"], tmp_path / "allowed.txt", str(tmp_path / "allowed.txt"), pd.Series(["i3", "i4"])):
        found = persrec.recommend(made["run"], ["u1"], k=2, allow=given)
        assert set(found["item_id"]) <= {"i3", "i4"}
    assert set(persrec.recommend(made["run"], ["u1"], k=2, allow="i3")["item_id"]) <= {"i3"}


@pytest.mark.parametrize(
    "at",
    [
        1706788800000,
        np.int64(1706788800000),
        "1706788800000",
        "2024-02-01T12:00",
        "2024-02-01T13:00+01:00",
        datetime(2024, 2, 1, 12),
        datetime(2024, 2, 1, 12, tzinfo=UTC),
        pd.Timestamp("2024-02-01 12:00"),
        np.datetime64("2024-02-01T12:00"),
        np.datetime64("2024-02-01T12:00", "ns"),
    ],
)
def test_a_time_comes_in_any_form(made: Folders, at: Any) -> None:
    assert milliseconds(at) == 1706788800000
    expected = made["recommender"].recommend(["u1"], 3, at=1706788800000)
    assert made["recommender"].recommend(["u1"], 3, at=at).equals(expected)


@pytest.mark.parametrize(
    "at", ["noon", 1.5, True, None, [1, 2], pd.NaT, np.datetime64("NaT"), np.zeros(2), -1, 10**17, "9" * 20]
)
def test_what_is_no_time(at: Any) -> None:
    with pytest.raises(UserError, match=r"when: got .*, expected one point in time from 1970 to 2199: ISO 8601"):
        milliseconds(at, "when")


def test_users_of_whom_the_filters_leave_nothing_are_not_forgotten(made: Folders) -> None:
    """Three of five have nothing but events of a type that the run does not count."""
    users = ["a", "b", "c", "d", "e"]
    events = pl.DataFrame(
        {
            "user_id": users,
            "item_id": ["i1"] * 5,
            "timestamp": [LAST] * 5,
            "event": ["cart", "view", "cart", "buy", "cart"],
        }
    )
    said: list[str] = []
    found = made["recommender"].recommend(histories=events, k=1, say=said.append)
    assert found["user_id"].to_list() == ["b", "d"]
    assert any("3 of 5 users have no event of an item that this run knows, or none that its" in each for each in said)
    answered = made["recommender"].recommend(histories=events, k=1, unknown="popular")
    assert answered["user_id"].to_list() == users


def test_lists_without_seen_items_are_told_what_they_miss(made: Folders, capsys: pytest.CaptureFixture) -> None:
    """Item i0 is the last one of everybody, who also had it first."""
    last = FRAME.group_by("user_id", maintain_order=True).agg(timestamp=pl.lit(LAST), event=pl.lit("buy"))
    first = last.with_columns(timestamp=pl.lit(datetime(2023, 1, 1)))
    log = pl.concat([FRAME, *(each.with_columns(item_id=pl.lit("i0")).select(FRAME.columns) for each in (first, last))])
    unseen = pl.DataFrame({"user_id": ["u1"], "item_id": ["i3"], "rank": [1]})
    assert not FRAME.filter(user_id="u1", item_id="i3").height
    said = "No list has an item that its user had before, but 30 of 30 targets are such"
    missed = persrec.score_lists(unseen, log, SMALL)
    assert said in " ".join(capsys.readouterr().err.split())
    assert "30 targets were seen before " in " ".join(str(missed).split())
    assert "ranked all the same" not in str(missed)
    seen = pl.concat([unseen, pl.DataFrame({"user_id": ["u1"], "item_id": ["i0"], "rank": [2]})])
    found = persrec.score_lists(seen, log, SMALL)
    assert said not in " ".join(capsys.readouterr().err.split())
    assert missed.rows[0]["metrics"]["recall@5"]["mean"] == 0
    assert found.rows[0]["metrics"]["recall@5"]["mean"] == pytest.approx(1 / 30)


def test_a_log_in_which_everybody_has_had_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to recommend: lists are empty, and what describes them is no number."""
    monkeypatch.chdir(tmp_path)
    few = FRAME.with_columns(item_id=pl.col("item_id").replace({f"i{n}": f"i{n % 5}" for n in range(23)}))
    (row,) = persrec.fit(few, [*SMALL, "history=[]"], out="run").rows
    assert [row["lists"][name] for name in ("novelty", "average_popularity", "diversity")] == [None, None, 0.0]
    assert row["lists"]["coverage"] == 0


Call = Callable[[Folders], Any]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: persrec.compare([]), r"runs: got \[\], expected folders of runs, one or more"),
        (lambda m: persrec.compare(None), "runs: got None, expected folders of runs"),
        (lambda m: persrec.compare([m["table"]]), "runs: got a Table, expected the folder of a run"),
        (lambda m: persrec.compare(m["grid"], form="md"), "form: got 'md', expected one of markdown, latex, html"),
        (lambda m: persrec.compare(m["grid"], metric=["ndcg@5"]), r"metric: got \['ndcg@5'\], expected one of"),
        (lambda m: persrec.evaluate([m["run"]]), "evaluate: got .*, expected the folder of a run, or of the runs of"),
        (lambda m: persrec.evaluate(m["run"], "evaluation.k=[5]"), r"overrides: got 'evaluation.k=\[5\]', expected a"),
        (lambda m: persrec.prepare(FRAME, [5]), r"overrides: got \[5\], expected a list of texts as after --set"),
        (lambda m: persrec.prepare(FRAME, None), "overrides: got None, expected a list of texts"),
        (lambda m: persrec.prepare(FRAME, [("seeds", 1)]), "overrides: got .*, expected a list of texts"),
        (lambda m: persrec.prepare(FRAME, frame=FRAME), "frame: got two frames, as the recipe is one already"),
        (lambda m: persrec.prepare(None), "got None, expected a shipped recipe's name, a file of a recipe or log"),
        (lambda m: persrec.fit(m["run"] / "recipe.yaml"), "data.path: got frame, as in the recipe of a run that was"),
        (lambda m: persrec.fit(FRAME, [*SMALL, "seeds=[1,1]"]), "seeds: got the same seed twice, expected each once"),
        (lambda m: persrec.probe(FRAME, gap_hours="12"), "gap_hours: got '12', expected a number of hours above 0"),
        (lambda m: persrec.probe(FRAME, gap_hours=-1), "gap_hours: got -1, expected a number of hours above 0"),
        (lambda m: persrec.recommend(FRAME), "Recommender.load: got DataFrame, expected the folder of a run"),
        (
            lambda m: persrec.recommend(m["run"], FRAME),
            "got a frame with the columns user_id, item_id, .* expected ids",
        ),
        (lambda m: persrec.recommend(m["run"], ["u1"], k=2.0), "k: got 2.0, expected a whole number from 1 to 23"),
        (lambda m: persrec.recommend(m["run"], ["u1"], k="5"), "k: got '5', expected a whole number from 1 to 23"),
        (lambda m: persrec.recommend(m["run"], ["u1"], k=True), "k: got True, expected a whole number from 1 to 23"),
        (lambda m: persrec.recommend(m["run"], ["u1"], k=0), "k: got 0, expected a whole number from 1 to 23"),
        (lambda m: persrec.similar(m["run"], ["i1"], k=2.5), "k: got 2.5, expected a whole number from 1 to 23"),
        (lambda m: persrec.recommend(m["run"], ["u1"], at="noon"), "at: got 'noon', expected one point in time"),
        (
            lambda m: persrec.score(m["run"], FRAME.select("user_id")),
            "candidates: got user_id, expected a frame with a row for each pair of user_id and item_id",
        ),
        (lambda m: persrec.score(m["run"], FRAME.head(0)), "candidates: got no rows, expected a frame"),
        (lambda m: m["recommender"].adopt(5), "adopt: got int, expected the Recommender of the old model"),
    ],
)
def test_what_is_refused(made: Folders, call: Call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(made)


def test_frames_of_pandas_as_they_come(made: Folders) -> None:
    """Ids may stand in the index; a column of several types, or that stands there twice, is named."""
    frame = FRAME.head(32).to_pandas()
    histories = persrec.recommend(made["run"], histories=frame, k=2)
    for moved in (frame.set_index("user_id"), frame.set_index(["user_id", "item_id"])):
        assert persrec.recommend(made["run"], histories=moved, k=2).equals(histories)
    mixed = frame.assign(item_id=[1, *frame["item_id"][1:]])
    twice = pd.concat([frame, frame[["item_id"]]], axis=1)
    for wrong, message in (
        (mixed, r"frame: cannot be taken over from pandas: .* give each column one type: item_id \(int, str\)"),
        (twice, "frame: column item_id stands there twice; rename or drop one of them"),
        (frame["user_id"], "frame: got a Series of pandas, expected a frame with a column for each field"),
    ):
        with pytest.raises(UserError, match=message):
            persrec.prepare(wrong)
