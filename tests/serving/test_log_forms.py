"""Logs of a run's later events: read in the form of the one that it was fitted on, or as plain tables."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from persrec import Recommender, api
from persrec.errors import UserError

TINY = [
    "history=compressed", "time=none", "model.width=8", "memory.segment=4", "memory.recent=4", "memory.tokens=2",
    "training.epochs=1", "training.warmup_steps=2", "training.threads=1", "evaluation.k=[5]", "primary=ndcg@5",
]  # fmt: skip
START = 1_500_000_000
EVENTS = [(user, 7 * (user + 2 * step) % 53 + 10, START + 60 * step) for user in range(1, 9) for step in range(12)]


def movielens(folder: Path) -> Path:
    rows = "".join(f"{user},{item},4.0,{time}\n" for user, item, time in EVENTS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    return folder / "ratings.csv"


def amazon(folder: Path) -> Path:
    keys = "reviewerID", "asin", "overall", "unixReviewTime"
    lines = [dict(zip(keys, (f"A{user}", str(item), 4.0, time), strict=True)) for user, item, time in EVENTS]
    (folder / "reviews.json").write_text("\n".join(map(json.dumps, lines)))
    return folder / "reviews.json"


FORMS = {"movielens": movielens, "amazon": amazon}


@pytest.fixture(params=FORMS)
def fitted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recommender, Path]:
    """A run on a log in one of the forms, and the log."""
    monkeypatch.chdir(tmp_path)
    log = FORMS[request.param](tmp_path)
    api.fit(log, [f"data.source={request.param}", *TINY], out="run", progress=False)
    return Recommender.load("run"), log


def test_later_events_may_have_the_form_of_the_log_or_be_a_plain_table(
    fitted: tuple[Recommender, Path], tmp_path: Path
) -> None:
    recommender, log = fitted
    by_form = recommender.recommend(histories=log, k=3)
    known = recommender.prepared()
    ids = pl.Series(known.user_ids()).gather(np.repeat(np.arange(known.users), np.diff(known.offsets)))
    items = pl.Series(known.item_ids()).gather(known.items - 1)
    pl.DataFrame({"user_id": ids, "item_id": items}).write_csv(tmp_path / "plain.csv")
    as_table = recommender.recommend(histories=tmp_path / "plain.csv", k=3)
    assert by_form.height == 3 * 8
    key = ["user_id", "rank"]
    assert by_form.sort(key)["item_id"].to_list() == as_table.cast(by_form.schema).sort(key)["item_id"].to_list()


def test_what_is_of_no_form_says_what_was_tried(fitted: tuple[Recommender, Path], tmp_path: Path) -> None:
    recommender = fitted[0]
    (tmp_path / "other.csv").write_text("visitor,sku\n1,2\n")
    own = recommender.recipe.data.source
    with pytest.raises(
        UserError, match=rf"(?s)other\.csv.*\(so read as {own}, as the run's log was; as table: .*user_id"
    ):
        recommender.recommend(histories=tmp_path / "other.csv", k=3)


def test_a_folder_and_a_json_file_are_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    movielens(tmp_path / "films")
    table = api.fit("films", ["data.source=movielens", *TINY], progress=False)
    assert len(table.rows) == 1
    assert (tmp_path / "runs/films/run.json").is_file()
    with pytest.raises(UserError, match=r"films: is the folder of a run, .*; runs/films/recipe\.yaml is its recipe"):
        api.fit("runs/films", TINY, progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no \*\.parquet or .*, expected a table; got nothing"):
        api.fit("empty", TINY, progress=False)


@pytest.mark.parametrize("time", ["none", "next"])
@pytest.mark.parametrize(
    ("column", "values", "settings"),
    [
        ("rating", (3.0, 5.0), []),
        ("event", ("view", "buy"), ["data.events=[view, buy]"]),
        ("weight", (1.0, 2.0), ["data.keep=[weight]"]),
    ],
)
def test_events_alike_but_for_what_no_model_reads_are_two_on_every_way_to_an_answer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    values: tuple[object, object],
    settings: list[str],
    time: str,
) -> None:
    """Every third event comes twice, with another value, and once more as it was, which is an exact duplicate."""
    monkeypatch.chdir(tmp_path)
    rows = [
        (*event, value)
        for number, event in enumerate(EVENTS)
        for value in ((values[0], values[1], values[0]) if number % 3 == 0 else values[:1])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", column], orient="row")
    log.write_csv("log.csv")
    api.fit("log.csv", [*TINY, f"time={time}", *settings], out="run", progress=False)
    model = Recommender.load("run")
    assert len(model.prepared().items) == len(EVENTS) * 4 // 3
    items = model.item_ids.to_list()
    expected = model.score(None, items)
    answers = {"histories": model.score(None, items, histories=Path("log.csv"))}
    half = pl.col("timestamp") < START + 360
    for name, first, then in (("log", Path("log.csv"), None), ("update", log.filter(half), log.filter(~half))):
        with Recommender.load("run", store=name) as kept:
            kept.compress(first)
            if then is not None:
                then.write_csv("then.csv")
                found = kept.update("then.csv", rows=3)
                assert (found.applied, found.duplicates) == (len(EVENTS) * 2 // 3, len(EVENTS) // 6)
                assert kept.update(then.reverse()).applied == 0
            answers[name] = kept.score(None, items)
    for found in answers.values():
        both = expected.join(found, on=["user_id", "item_id"])
        assert both.height == expected.height
        assert np.allclose(both["score"], both["score_right"], atol=1e-5)
