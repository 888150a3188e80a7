"""Users who are kept in a store get what their whole histories would get, however the events came in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from persrec.errors import UserError
from persrec.serving.disk import StoreError
from persrec.serving.entries import key_of
from persrec.serving.recommender import Recommender
from persrec.serving.store import Store
from persrec.serving.updates import Update
from tests.small import START, events, run_of

LOG = events()
LATER = LOG.height // 2
HEAD = {"repeat": "head", "loss": {"kind": "full"}, "evaluation": {"k": [1, 5, 10], "exclude_seen": False}}
SIZES = {"segment": 6, "recent": 5, "tokens": 2}
FORMS: dict[str, dict[str, Any]] = {
    "layered": {},
    "layered, three layers": {"model": {"layers": 3, "width": 8, "heads": 2}},
    "layered, capped": {"memory": {**SIZES, "cap": 2}},
    "layered, merged": {"memory": {**SIZES, "merge": True}},
    "layered, means": {"memory": {**SIZES, "begin": "means"}},
    "layered, means, merged, int8": {"memory": {**SIZES, "begin": "means", "merge": True, "encoding": "int8"}},
    "recurrent": {"memory": {**SIZES, "kind": "recurrent"}},
    "recurrent, gated": {"memory": {**SIZES, "kind": "recurrent", "write": "gated"}},
    "segment means": {"memory": {"segment": 6, "recent": 5, "kind": "segment_mean"}},
    "decayed means": {"memory": {**SIZES, "kind": "decayed_mean"}},
    "merged neighbours": {"memory": {**SIZES, "kind": "merged_neighbours"}},
    "prototypes": {"memory": {**SIZES, "kind": "prototypes"}},
    "full": {"history": "full"},
    "recent": {"history": "recent"},
    "a length": {"length": 20},
    "time next": {"time": "next"},
    "no time": {"time": "none"},
    "seen at half their odds": {"evaluation": {"k": [1, 5, 10], "exclude_seen": False, "seen_odds": 0.5}},
    "repeat head": HEAD,
    "repeat head, recent": {**HEAD, "history": "recent"},
    "repeat head, full": {**HEAD, "history": "full"},
    "repeat head, recurrent, no time": {**HEAD, "time": "none", "memory": {**SIZES, "kind": "recurrent"}},
    "repeat head, time next": {**HEAD, "time": "next"},
    **{code: {"memory": {**SIZES, "encoding": code}} for code in ("float16", "int8", "int4")},
    **{
        f"recurrent, {code}": {"memory": {**SIZES, "kind": "recurrent", "encoding": code}}
        for code in ("float16", "int8", "int4")
    },
}


def by_time(frame: pl.DataFrame) -> pl.DataFrame:
    """A log in which the events of all users are mixed."""
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    times = START + 60_000 * np.arange(len(frame))
    return shuffled.with_columns(pl.Series("timestamp", times))


MIXED = by_time(LOG)


def store_of(tmp_path: Path, run: Path, log: pl.DataFrame, **options: Any) -> Recommender:
    made = Recommender.load(run, tmp_path / "store")
    made.compress(log, **options)
    return made


def same(one: pl.DataFrame, other: pl.DataFrame, tolerance: float = 1e-5) -> None:
    both = one.join(other, on=["user_id", "item_id"], how="full", suffix="_other")
    assert not both["score"].is_null().any()
    assert not both["score_other"].is_null().any()
    assert np.allclose(both["score"].to_numpy(), both["score_other"].to_numpy(), atol=tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_a_store_that_grew_answers_as_whole_histories_do(form: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, MIXED, **FORMS[form])
    with store_of(tmp_path, run, MIXED.head(LATER)) as kept:
        found = kept.update(MIXED.tail(-LATER), rows=70)
        assert found.applied == len(MIXED) - LATER
        users = kept.recommend(None, 1)["user_id"].to_list()
        assert sorted(users) == sorted(MIXED["user_id"].unique())
        moment = START + 10**9
        at = moment if FORMS[form].get("time") == "next" else None
        whole = Recommender.load(run).recommend(users, 30, at=at)
        same(kept.recommend(users, 30, at=at), whole)


@pytest.mark.parametrize("form", ["layered", "a length", "repeat head", "recurrent"])
def test_raw_events_are_folded_at_each_read(form: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, MIXED, **FORMS[form])
    with store_of(tmp_path, run, MIXED.head(LATER), raw=True) as kept:
        kept.update(MIXED.tail(-LATER))
        whole = Recommender.load(run).recommend(None, 30)
        same(kept.recommend(whole["user_id"].unique().to_list(), 30), whole)
        assert kept.stats()["memory_bytes"] <= kept.stats()["users"], "at most a length of zero"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("kept"), MIXED)


@pytest.fixture
def kept(tmp_path: Path, run: Path) -> Iterator[Recommender]:
    with store_of(tmp_path, run, MIXED) as made:
        yield made


def bytes_of(kept: Recommender) -> dict[bytes, bytes]:
    """Everything in a store, which only one can have open in a process."""
    kept.close()
    with Store.open(str(kept.store)) as opened:
        return dict(opened.records())


def test_a_single_user_and_a_store_of_everybody(kept: Recommender, run: Path) -> None:
    assert len(kept.recommend("ü-3", 2)) == 2
    assert kept.recommend(None, 30)["user_id"].n_unique() == MIXED["user_id"].n_unique()
    assert kept.recommend([], 3).is_empty()
    same(kept.recommend(histories=MIXED, k=30), Recommender.load(run).recommend(None, 30))


@pytest.mark.parametrize(
    "form", ["layered", "repeat head", "repeat head, time next", "repeat head, recurrent, no time"]
)
def test_nobody_gets_nothing(form: str, tmp_path: Path) -> None:
    """With a store or without one, in the columns that somebody gets."""
    run = run_of(tmp_path, MIXED, **FORMS[form])
    strange = pl.DataFrame({"user_id": ["a"], "item_id": ["?"], "timestamp": [START]})
    with store_of(tmp_path, run, MIXED) as kept:
        for some in (kept, Recommender.load(run)):
            found = some.recommend(["ü-0"], 2)
            nothing = some.recommend([], 2), some.score([], ["чай 1"])
            assert all(frame.is_empty() for frame in nothing)
            assert [frame.schema for frame in nothing] == [found.schema, some.score(["ü-0"], ["чай 1"]).schema]
            for asked in ({"users": ["a"]}, {"histories": strange}):
                popular = some.recommend(k=2, unknown="popular", **asked)
                assert popular["user_id"].to_list() == ["a", "a"]
                assert popular.schema == found.schema
        assert kept.memory([]).is_empty()
        assert kept.memory([]).schema == kept.memory(["ü-0"]).schema


def test_users_come_in_parts(kept: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = MIXED.head(3).with_columns(user_id=pl.lit("zz a guest"))
    kept.update(guest)
    expected = kept.recommend(None, 5), kept.memory(), kept.score(None, {"ü-0": ["чай 1"], "ü-3": ["чай 2"]})
    monkeypatch.setattr("persrec.serving.users.CHUNK", 1)
    found = kept.recommend(None, 5), kept.memory(), kept.score(None, {"ü-0": ["чай 1"], "ü-3": ["чай 2"]})
    same(found[0], expected[0])
    same(found[2], expected[2])
    assert found[1].drop("query", "rows").equals(expected[1].drop("query", "rows"))


def test_late_and_doubled_events_are_what_they_would_have_been(tmp_path: Path, run: Path) -> None:
    """Two events come after the next ten and one comes twice; none of them is older than what is folded."""
    own = MIXED.filter(pl.col("user_id") == "ü-0")
    late = [len(own) - 3, len(own) - 2]
    early = own.with_row_index().filter(~pl.col("index").is_in(late)).drop("index")
    with store_of(tmp_path, run, early) as kept:
        found = kept.update(pl.concat([own[late], own.tail(1)]))
        assert (found.applied, found.late_inserted, found.duplicates) == (2, 2, 1)
        same(kept.recommend(["ü-0"], 30), Recommender.load(run).recommend(["ü-0"], 30))


def test_events_before_the_memory_are_counted_and_change_nothing(kept: Recommender) -> None:
    before = bytes_of(kept)
    old = MIXED.filter(pl.col("user_id") == "ü-0").head(2).with_columns(pl.col("timestamp") + 1)
    found = kept.update(old)
    assert (found.applied, found.late_skipped) == (0, 2)
    assert bytes_of(kept) == before


def test_unknown_items_are_counted_and_new_users_welcome(kept: Recommender) -> None:
    said: list[str] = []
    frame = pl.DataFrame(
        {"user_id": ["new", "new", "none"], "item_id": ["чай 1", "?", "?"], "timestamp": [START, START + 1, START + 2]}
    )
    found = kept.update(frame, say=said.append)
    assert (found.applied, found.unknown_items, found.new_users) == (1, 2, 1)
    assert "2 of 3 events are of items that the run does not know; they are left out" in said
    same(kept.recommend(["new"], 30), kept.recommend(histories=frame.head(1), k=30))
    with pytest.raises(UserError, match="1 of 1 users are not in it: 'none'"):
        kept.recommend(["none"])


def test_scores_are_those_of_the_recommendations(tmp_path: Path) -> None:
    run = run_of(tmp_path, MIXED, **HEAD)
    with store_of(tmp_path, run, MIXED) as kept:
        users = ["ü-3", "ü-0", "ü-13"]
        best = kept.recommend(users, 30)
        scored = kept.score(users, kept.item_ids.to_list())
        assert scored.columns == ["user_id", "item_id", "score"]
        assert scored["user_id"].unique(maintain_order=True).to_list() == users
        same(scored, best)
        same(Recommender.load(run).score(users, kept.item_ids.to_list()), best)
        by_user = kept.score(None, {"ü-0": ["чай 3"], "ü-3": ["чай 4", "чай 3"]})
        assert by_user["item_id"].to_list() == ["чай 3", "чай 4", "чай 3"]
        same(by_user, scored.join(by_user, on=["user_id", "item_id"], how="semi"))


def test_candidates_by_user_of_histories_are_scored_in_the_order_of_the_candidates(kept: Recommender) -> None:
    given = MIXED.filter(pl.col("user_id").is_in(["ü-0", "ü-3", "ü-4"]))
    by_user = {"ü-3": ["чай 4", "чай 3"], "ü-0": "чай 3"}
    found = kept.score(None, by_user, histories=given)
    assert found.select("user_id", "item_id").rows() == [("ü-3", "чай 4"), ("ü-3", "чай 3"), ("ü-0", "чай 3")]
    same(found, kept.score(None, by_user))
    assert kept.score(None, {}, histories=given).is_empty()
    strange = pl.DataFrame({"user_id": ["a"], "item_id": ["?"], "timestamp": [START]})
    with pytest.raises(
        UserError,
        match=r"2 of 3 users are not in the histories: 'a', 'b'; .* items that the run knows, or leave them out",
    ):
        kept.score(None, {"a": ["чай 1"], "ü-0": ["чай 1"], "b": []}, histories=pl.concat([given, strange]))


@pytest.mark.parametrize("given", [None, MIXED])
def test_pairs_are_scored_in_their_order(kept: Recommender, given: pl.DataFrame | None, tmp_path: Path) -> None:
    rows = [("ü-3", "чай 4"), ("ü-0", "чай 3"), ("ü-3", "чай 3"), ("ü-0", "чай 3"), ("ü-3", "чай 4")]
    pairs = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    pairs.write_csv(tmp_path / "pairs.csv")
    for form in (pairs, tmp_path / "pairs.csv"):
        found = kept.score(None, form, histories=given)
        assert found.select("user_id", "item_id").rows() == rows
        scores = found["score"].to_list()
        assert (scores[0], scores[1]) == (scores[4], scores[3])
        same(found.unique(), kept.score(None, {"ü-3": ["чай 4", "чай 3"], "ü-0": ["чай 3"]}))


def test_unknown_candidates_are_named(kept: Recommender) -> None:
    with pytest.raises(UserError, match="score: got both users and candidates by user, expected None for the users"):
        kept.score(["ü-0"], {"ü-0": ["чай 1"]})
    with pytest.raises(
        UserError, match=r"1 of 2 candidates are not in the run's catalogue: 'kvass'; .* leave them out"
    ):
        kept.score(["ü-0"], ["чай 1", "kvass"])


def test_features_are_what_the_memory_holds(kept: Recommender) -> None:
    frame = kept.memory(["ü-0", "ü-13"])
    events = [MIXED.filter(pl.col("user_id") == user).height for user in ("ü-0", "ü-13")]
    assert frame["events"].to_list() == events
    assert frame["folded"].to_list() == [(events[0] - 5) // 6 * 6, 0]
    assert frame["rows"].list.len().to_list() == [2 * ((events[0] - 5) // 6), 0]
    assert frame["query"].to_numpy().shape == (2, 8)
    vectors = kept.model.vectors().detach().numpy()
    scores = vectors[1:] @ frame["query"].to_numpy()[0]
    assert np.allclose(kept.score(["ü-0"], kept.item_ids.to_list())["score"].to_numpy(), scores, atol=1e-5)
    last = MIXED.filter(pl.col("user_id") == "ü-0")["timestamp"].max()
    assert frame["last"][0] == last


def test_features_of_a_model_without_memory(tmp_path: Path) -> None:
    with store_of(tmp_path, run_of(tmp_path, MIXED, history="recent"), MIXED) as kept:
        frame = kept.memory()
        assert frame["rows"].list.len().sum() == 0
        assert frame["folded"].sum() > 0
        assert frame["user_id"].n_unique() == 40


def test_a_forgotten_user_is_gone(kept: Recommender) -> None:
    others = bytes_of(kept)
    kept.forget("ü-0")
    with pytest.raises(UserError, match="'ü-0'"):
        kept.recommend(["ü-0"])
    assert bytes_of(kept) == {key: value for key, value in others.items() if key != key_of("ü-0")}
    with pytest.raises(UserError, match="'ü-0'"):
        kept.forget("ü-0")


@pytest.mark.parametrize("form", ["layered", "repeat head", "recurrent", "full", "no time"])
def test_a_forgotten_event_is_as_if_it_had_never_been(form: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, MIXED, **FORMS[form])
    own = MIXED.filter(pl.col("user_id") == "ü-0")
    without = own.with_row_index().filter(pl.col("index") != 20).drop("index")
    never = Recommender.load(run).recommend(histories=without, k=30)
    with store_of(tmp_path, run, MIXED) as kept:
        kept.forget_event("ü-0", own["item_id"][20], own["timestamp"][20])
        same(kept.recommend(["ü-0"], 30), never)
        kept.rebuild(["ü-0"])
        same(kept.recommend(["ü-0"], 30), Recommender.load(run).recommend(["ü-0"], 30))


def test_a_record_is_not_made_anew_of_a_log_that_lacks_events(kept: Recommender) -> None:
    own = MIXED.filter(pl.col("user_id") == "ü-0")
    kept.update(own.tail(1).with_columns(pl.col("timestamp") + 1))
    before = bytes_of(kept)
    with pytest.raises(
        UserError, match=r"rebuild: the log has 60 events of user 'ü-0', but the store has taken in 61; give a log of"
    ):
        kept.rebuild(["ü-3", "ü-0"])
    assert bytes_of(kept) == before
    kept.forget("ü-0")
    kept.rebuild(["ü-3", "ü-0"])
    same(kept.recommend(["ü-0"], 30), Recommender.load(str(kept_run(kept))).recommend(["ü-0"], 30))


def test_a_text_is_one_user_whose_record_is_made_anew(tmp_path: Path) -> None:
    numbers = MIXED.with_columns(pl.col("user_id").str.extract(r"(\d+)").cast(pl.Int64))
    with store_of(tmp_path, run_of(tmp_path, numbers), numbers) as kept:
        whole = bytes_of(kept)
        kept.update(numbers.filter(pl.col("user_id") == 1).tail(1).with_columns(pl.col("timestamp") + 1))
        kept.forget(12)
        changed = bytes_of(kept)
        kept.rebuild("12")
        assert bytes_of(kept) == changed | {key_of(12): whole[key_of(12)]}, "1 is as it was, and so is 2"


def test_the_only_event_is_forgotten_with_its_user(kept: Recommender) -> None:
    own = MIXED.filter(pl.col("user_id") == "ü-13")
    assert len(own) == 1
    kept.forget_event("ü-13", own["item_id"][0], own["timestamp"][0])
    with pytest.raises(UserError, match="'ü-13'"):
        kept.recommend(["ü-13"])


def test_events_that_cannot_be_forgotten(kept: Recommender) -> None:
    own = MIXED.filter(pl.col("user_id") == "ü-0")
    with pytest.raises(UserError, match=rf"no such event of user 'ü-0': got timestamp 5, .* as {own['timestamp'][0]}"):
        kept.forget_event("ü-0", own["item_id"][0], 5)
    kept.update(own.tail(1).with_columns(pl.col("timestamp") + 1))
    with pytest.raises(UserError, match=r"the log has 60 events of user 'ü-0', but the store has taken in 61"):
        kept.forget_event("ü-0", own["item_id"][0], own["timestamp"][0])
    more = pl.concat([MIXED, own.tail(1).with_columns(pl.col("timestamp") + 1)])
    kept.forget_event("ü-0", own["item_id"][-1], own["timestamp"][-1] + 1, log=more)
    same(kept.recommend(["ü-0"], 30), Recommender.load(str(kept_run(kept))).recommend(["ü-0"], 30))


def kept_run(kept: Recommender) -> Path:
    """The run folder beside the prepared log of a recommender."""
    return Path(kept.data["folder"]).parent.parent / "run"


def test_at_before_the_last_event_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, MIXED, time="next")
    last = MIXED.filter(pl.col("user_id") == "ü-3")["timestamp"].max()
    with (
        store_of(tmp_path, run, MIXED) as kept,
        pytest.raises(UserError, match=rf"at: got 5, but user 'ü-3' has an event at {last} ms"),
    ):
        kept.recommend(["ü-3"], at=5)
    with Recommender.load(run, tmp_path / "store") as kept, pytest.raises(UserError, match="at: got 5, but user 'ü-3'"):
        kept.memory(["ü-3"], at=5)


def test_compress_goes_on_where_it_was_interrupted(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > 20:
            raise Stop

    with store_of(tmp_path / "whole", run, None) as whole:
        expected = bytes_of(whole)
    monkeypatch.setattr("persrec.serving.writing.CHUNK", 7)
    with Recommender.load(run, tmp_path / "store") as kept:
        with pytest.raises(Stop):
            kept.compress(done=stop)
        with pytest.raises(
            UserError, match=r"is not complete \(21 users are in it\), as `compress` was interrupted: run"
        ):
            kept.update(MIXED.tail(1))
        found = kept.compress()
        assert (found.new_users, found.already > 0) == (19, True)
        assert set(bytes_of(kept)) == set(expected)
        assert kept.compress().new_users == 0, "it is complete"
        same(kept.recommend(None, 30), Recommender.load(run).recommend(None, 30))
        with pytest.raises(
            UserError, match=r"was made without raw=True, seen_rate=None; leave these out to go on with it"
        ):
            kept.compress(raw=True)
        with pytest.raises(UserError, match="was made of another log; choose another folder, or `update`"):
            kept.compress(MIXED.head(50))


@pytest.mark.parametrize("kind", ["recurrent", "segment_mean", "decayed_mean"])
def test_a_single_layer_has_a_memory_that_is_not_layered(tmp_path: Path, kind: str) -> None:
    sizes = {"segment": 6, "recent": 5, **({"tokens": 2} if kind == "recurrent" else {})}
    model = {"layers": 1, "width": 8, "heads": 2, "dropout": 0.0}
    run = run_of(tmp_path, MIXED, model=model, memory={"kind": kind, **sizes})
    with store_of(tmp_path, run, MIXED.head(LATER)) as kept:
        kept.update(MIXED.tail(-LATER))
        same(kept.recommend(None, 30), Recommender.load(run).recommend(None, 30))


def test_folders_are_told_apart_by_what_is_in_them(tmp_path: Path, run: Path) -> None:
    later = MIXED.tail(-LATER)
    for name, part in (("one", later[:20]), ("two", later[20:])):
        (tmp_path / name).mkdir()
        part.write_csv(tmp_path / name / "log.csv")
    with store_of(tmp_path, run, MIXED.head(LATER)) as kept:
        assert kept.update(tmp_path / "one").applied == 20
        assert kept.update(tmp_path / "two").applied == len(later) - 20
        assert kept.update(tmp_path / "one").already == 20


def test_a_file_is_applied_once(tmp_path: Path, run: Path) -> None:
    MIXED.tail(-LATER).write_csv(tmp_path / "new.csv")
    with store_of(tmp_path, run, MIXED.head(LATER)) as kept:
        assert kept.update(tmp_path / "new.csv").applied == len(MIXED) - LATER
        before = bytes_of(kept)
        again = kept.update(str(tmp_path / "new.csv"))
        assert (again.applied, again.already) == (0, len(MIXED) - LATER)
        assert bytes_of(kept) == before


@pytest.mark.parametrize("form", ["polars", "lazy", "pandas", "file"])
def test_events_without_rows_are_an_update_of_nothing(kept: Recommender, tmp_path: Path, form: str) -> None:
    before, none = bytes_of(kept), MIXED.clear()
    none.write_csv(tmp_path / "new.csv")
    forms = {"polars": none, "lazy": none.lazy(), "pandas": none.to_pandas(), "file": tmp_path / "new.csv"}
    assert kept.update(forms[form]) == Update()
    assert bytes_of(kept) == before
    with pytest.raises(UserError, match="frame: missing column item_id; got user_id, timestamp"):
        kept.update(none.drop("item_id"))


def test_an_interrupted_file_is_gone_on_with_in_the_parts_it_began_with(tmp_path: Path, run: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    MIXED.tail(-LATER).write_csv(tmp_path / "new.csv")
    with store_of(tmp_path / "whole", run, MIXED.head(LATER)) as whole:
        whole.update(tmp_path / "new.csv", rows=50)
        expected = bytes_of(whole)
    with store_of(tmp_path, run, MIXED.head(LATER)) as kept:
        with pytest.raises(Stop):
            kept.update(tmp_path / "new.csv", rows=50, done=stop)
        found = kept.update(tmp_path / "new.csv", rows=7)
        assert (found.already, found.applied) == (50, len(MIXED) - LATER - 50)
        assert bytes_of(kept) == expected


def test_ids_are_the_users_own(tmp_path: Path) -> None:
    numbers = MIXED.with_columns(pl.col("user_id").str.extract(r"(\d+)").cast(pl.Int64) + 2**62)
    run = run_of(tmp_path, numbers)
    with store_of(tmp_path, run, numbers) as kept:
        found = kept.recommend([2**62 + 3, str(2**62), float(2**62)], 3)
        assert found["user_id"].unique(maintain_order=True).to_list() == [2**62 + 3, 2**62]
        for wrong in ("ü", "07", "-1", str(2**64)):
            with pytest.raises(UserError, match=rf"1 of 1 users are not in it: '{wrong}'; `update` with their events"):
                kept.recommend([wrong])
        guest = numbers.head(3).with_columns(user_id=pl.lit("a guest"))
        assert kept.update(guest).new_users == 1
        found = kept.recommend(["a guest", 2**62], 30)
        assert found["user_id"].unique(maintain_order=True).to_list() == ["a guest", str(2**62)]
        same(found.head(20), kept.recommend(histories=guest, k=30).head(20))


def test_numbers_and_text_are_different_users(tmp_path: Path) -> None:
    text = MIXED.with_columns(pl.col("user_id").str.replace("ü-13", "13"))
    with store_of(tmp_path, run_of(tmp_path, text), text) as kept:
        assert kept.recommend([13], 2)["user_id"].to_list() == ["13", "13"]
    assert key_of(13) != key_of("13")


def test_a_recommender_without_a_store_says_what_is_needed(run: Path) -> None:
    with pytest.raises(
        UserError, match=r"this needs a store: Recommender\.load\(RUN, store=FOLDER\), or --store FOLDER"
    ):
        Recommender.load(run).update(MIXED)


@pytest.mark.parametrize("changes", [{"memory": {**SIZES, "segment": 7}}, {"time": "none"}, {"history": "recent"}])
def test_a_store_of_another_model_is_refused(kept: Recommender, tmp_path: Path, changes: dict[str, Any]) -> None:
    kept.close()
    (tmp_path / "other").mkdir()
    other = run_of(tmp_path / "other", MIXED, **changes)
    with pytest.raises(
        UserError, match=r"was made by another model or for another catalogue \(maker: got '\w+', expected"
    ):
        Recommender.load(other, kept.store).recommend(["ü-0"])


def test_a_record_that_is_damaged_is_named(kept: Recommender) -> None:
    key = key_of("ü-0")
    (data,) = kept._open(write=True).store.get([key])
    assert data is not None
    kept._open().store.write({key: data[:-1] + bytes([data[-1] ^ 1])})
    with pytest.raises(
        StoreError,
        match=r"'ü-0' is damaged \(the checksum is not that of the bytes\); .* without the updates since the log",
    ):
        kept.recommend(["ü-0"])
    kept.rebuild(["ü-0"])
    assert len(kept.recommend(["ü-0"], 2)) == 2


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (MIXED.drop("timestamp"), "update: no timestamp column, but this model was trained with `time: last`"),
        (MIXED.drop("item_id"), "missing column item_id"),
        (
            MIXED.head(2).with_columns(item_id=pl.lit(None, pl.String)),
            r"column item_id has 2 null \(empty\) values: row 1",
        ),
        ("none.csv", r"update: there is no file none\.csv"),
    ],
)
def test_events_that_are_refused(kept: Recommender, frame: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kept.update(frame)


def test_events_that_the_recipe_leaves_out_stay_out(tmp_path: Path) -> None:
    rated = MIXED.with_columns(rating=pl.Series([float(5 - index % 2) for index in range(len(MIXED))]))
    data = {"source": "table", "path": str(tmp_path / "log.csv"), "min_rating": 4.5}
    with store_of(tmp_path, run_of(tmp_path, rated, data=data), rated.head(LATER)) as kept:
        assert kept.update(rated.tail(-LATER)).applied == (rated.tail(-LATER)["rating"] > 4.5).sum()
        same(kept.recommend(None, 30), Recommender.load(tmp_path / "run").recommend(None, 30))
        before, said = bytes_of(kept), list[str]()
        low = rated.filter(pl.col("rating") < 4.5)
        assert kept.update(low, say=said.append) == Update(filtered=len(low))
        assert bytes_of(kept) == before
        assert f"nothing to do: data.min_rating: 4.5 leaves none of the {len(low)} events (there are 4.0 to" in said[-1]


@pytest.mark.parametrize(
    ("column", "section"),
    [
        ("rating", {"max_rating": 4.5}),
        ("weight", {"min_weight": 4.5, "keep": ["weight"]}),
        ("dwell", {"min_dwell": 4.5, "keep": ["dwell"]}),
    ],
)
def test_filters_by_what_events_carry_hold_for_later_events(tmp_path: Path, column: str, section: Any) -> None:
    carried = MIXED.with_columns(pl.Series(column, [float(5 - index % 2) for index in range(len(MIXED))]))
    data = {"source": "table", "path": str(tmp_path / "log.csv"), **section}
    with store_of(tmp_path, run_of(tmp_path, carried, data=data), carried.head(LATER)) as kept:
        later = carried.tail(-LATER)
        stays = later[column] < 4.5 if "max_rating" in section else later[column] > 4.5
        assert 0 < kept.update(later).applied == stays.sum() < len(later)
        same(kept.recommend(None, 30), Recommender.load(tmp_path / "run").recommend(None, 30))


def test_seen_items_as_a_filter(tmp_path: Path) -> None:
    """A rate so low that nothing is taken for seen gives what ids give; a high one hides items that were never had."""
    run = run_of(tmp_path, MIXED)
    expected = Recommender.load(run).recommend(None, 30)
    for rate, shares in ((1e-6, (1.0, 1.0)), (0.9, (0.2, 0.99))):
        with store_of(tmp_path / str(rate), run, MIXED.head(LATER), seen_rate=rate) as kept:
            kept.update(MIXED.tail(-LATER))
            found = kept.recommend(None, 30)
            had = found.join(MIXED, on=["user_id", "item_id"], how="inner")
            assert had.is_empty()
            assert shares[0] <= len(found) / len(expected) <= shares[1]


@pytest.mark.parametrize(
    ("changes", "rate", "message"),
    [
        (HEAD, 0.01, r"seen_rate: only a run that excludes seen items \(evaluation.exclude_seen\) can filter them"),
        ({}, 1.0, r"seen_rate: got 1.0, expected a share between 0 and 1, as 0.01"),
    ],
)
def test_filters_that_are_refused(tmp_path: Path, changes: dict[str, Any], rate: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        store_of(tmp_path, run_of(tmp_path, MIXED, **changes), MIXED, seen_rate=rate)
    assert not (tmp_path / "store").exists()
