"""What may be recommended: lists of items, seen items, unknown users; and which items are alike."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from persrec import api, cli
from persrec.errors import UserError
from persrec.serving import lists
from persrec.serving.recommender import Recommender
from tests.small import events, run_of

LOG = events()
SOME = ["ü-3", "ü-0", "ü-13", "ü-20"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("lists"), LOG)


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return Recommender.load(run)


def only(found: pl.DataFrame, items: list[str], k: int) -> pl.DataFrame:
    """Of whole rankings the first k of some items."""
    kept = found.filter(pl.col("item_id").is_in(items))
    return kept.with_columns(rank=pl.int_range(1, pl.len() + 1).over("user_id")).filter(pl.col("rank") <= k)


def close(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    same = one.drop("score", "rank").equals(other.drop("score", "rank"))
    return same and np.allclose(one["score"].to_numpy(), other["score"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize(("allow", "block"), [(9, None), (None, 9), (12, 5), (1, None)])
def test_lists_are_those_of_the_whole_ranking(recommender: Recommender, allow: int | None, block: int | None) -> None:
    ids = recommender.item_ids.to_list()
    allowed = ids if allow is None else ids[3 : 3 + allow]
    blocked = [] if block is None else ids[:block]
    left = [item for item in allowed if item not in blocked]
    given = {"allow": None if allow is None else allowed, "block": None if block is None else blocked}
    found = recommender.recommend(SOME, 6, **given)
    assert close(found, only(recommender.recommend(SOME, 30), left, 6))


def test_users_who_get_nothing_are_said(recommender: Recommender) -> None:
    said: list[str] = []
    ids = recommender.item_ids.to_list()
    had = set(LOG.filter(pl.col("user_id") == SOME[0])["item_id"])
    assert recommender.recommend(SOME[0], 3, allow=[one for one in ids if one in had], say=said.append).is_empty()
    assert recommender.recommend(SOME[0], 3, say=said.append).height == 3
    assert said == ["1 of 1 users get no item: all are seen, blocked or not allowed"]


def test_unknown_ids_of_a_list_are_counted_and_said(recommender: Recommender) -> None:
    said: list[str] = []
    ids = recommender.item_ids.to_list()
    found = recommender.recommend(SOME, 3, allow=[*ids[:9], "x", "x", "y"], block=["z"], say=said.append)
    assert close(found, recommender.recommend(SOME, 3, allow=ids[:9]))
    assert said == [
        "allow: 2 of 11 ids are not in the run's catalogue ('x', 'y'); they are left out",
        "block: 1 of 1 ids are not in the run's catalogue ('z'); they are left out",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"allow": []}, r"allow: got a list without any item of the run's catalogue, expected ids such as 'чай 0'"),
        ({"allow": ["x"]}, "allow: got a list without any item"),
        ({"allow": "чай 1", "block": ["чай 1"]}, "block: got every item that is allowed"),
        ({"unknown": "random"}, "unknown: got 'random', expected 'popular' beside users named by their ids"),
        ({"users": None, "unknown": "popular"}, "expected 'popular' beside users named by their ids"),
        ({"users": None, "histories": LOG, "unknown": "random"}, "unknown: got 'random', expected 'popular' beside"),
        ({"users": ["nobody"]}, "1 of 1 users are not in the run's log: 'nobody'"),
    ],
)
def test_what_is_refused(recommender: Recommender, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recommender.recommend(**({"users": SOME} | given))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ids.txt", "\ufeffa\n\n b \n", ["a", "b"]),
        ("ids.csv", "item_id,title\n007,x\n8,y\n", ["007", "8"]),
        ("ids.tsv", "title\titem_id\nx\ta\n", ["a"]),
        ("ids.jsonl", '{"item_id": 7}\n{"item_id": 8}\n', ["7", "8"]),
    ],
)
def test_files_of_ids(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert lists.read(tmp_path / name) == expected


def test_a_parquet_of_ids(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [5, 6]}).write_parquet(tmp_path / "ids.parquet")
    assert lists.read(tmp_path / "ids.parquet") == ["5", "6"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"none\.txt: no such file; expected ids of items"),
        ("ids.txt", b"\xff\xfe", r"ids\.txt: is not UTF-8"),
        ("ids.xlsx", b"x", r"ids\.xlsx: unknown ending '\.xlsx'; expected one of \.txt, \.csv"),
        ("ids.csv", b"item\n1\n", r"ids\.csv: missing column item_id; got item; name the columns item_id"),
        ("ids.csv", b"item_id,b\n1,2\n,3\n", r"ids\.csv: 1 rows have no item_id, the first is row 3"),
        (
            "ids.csv",
            b"item_id,b,item_id\n1,2,3\n",
            r"ids\.csv: the header has item_id more than once \(columns 1 and 3\)",
        ),
        ("ids.csv", b"", r"ids\.csv: the file is empty"),
        ("ids.parquet", b"no", r"ids\.parquet: cannot be read"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        lists.read(tmp_path / name)


def test_a_file_of_pairs_is_scored_as_by_the_recommender(
    run: Path, recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pairs = [("ü-3", "чай 4"), ("ü-0", "чай 1"), ("ü-3", "чай 1")]
    frame = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row").with_columns(note=pl.lit("x"))
    frame.write_csv(tmp_path / "pairs.csv")
    expected = recommender.score(None, {"ü-3": ["чай 4", "чай 1"], "ü-0": ["чай 1"]})[[0, 2, 1]]
    LOG.write_csv(tmp_path / "log.csv")
    for more in ([], ["--histories", str(tmp_path / "log.csv"), "--out", str(tmp_path / "scores.parquet")]):
        monkeypatch.setattr(sys, "argv", ["persrec", "score", str(run), str(tmp_path / "pairs.csv"), *more])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert done.value.code == 0
    assert pl.read_csv(capsys.readouterr().out.encode())["item_id"].to_list() == ["чай 4", "чай 1", "чай 1"]
    assert close(pl.read_parquet(tmp_path / "scores.parquet").with_columns(rank=0), expected.with_columns(rank=0))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, r"none\.csv: no such file; expected a table with user_id and item_id"),
        ("pairs.txt", "a", r"pairs\.txt: unknown ending '\.txt'; expected one of \.csv"),
        ("pairs.csv", "user_id,item\n1,2\n", r"pairs\.csv: missing column item_id; got user_id, item"),
        (
            "pairs.csv",
            "a\n1\n",
            r"pairs\.csv: missing columns user_id, item_id; got a; name the columns user_id, item_id",
        ),
        ("pairs.csv", "user_id,item_id\n", r"pairs\.csv: no rows; expected one for each pair"),
        ("pairs.csv", "user_id,item_id\n1,2\n,3\n", r"pairs\.csv: 1 rows have no user_id, the first is row 3"),
    ],
)
def test_pairs_that_cannot_be(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        lists.read_pairs(tmp_path / name)


def test_unknown_users_get_what_is_popular_where_asked_for(recommender: Recommender) -> None:
    counts = LOG.group_by("item_id").len().sort("len", "item_id", descending=[True, False])
    found = recommender.recommend(["x", "ü-3", "y", "ü-0"], 3, unknown="popular")
    assert found["user_id"].to_list() == [user for user in ("x", "ü-3", "y", "ü-0") for _ in range(3)]
    assert found["rank"].to_list() == [1, 2, 3] * 4
    assert close(found.filter(pl.col("user_id").is_in(SOME)), recommender.recommend(["ü-3", "ü-0"], 3))
    stranger = found.filter(pl.col("user_id") == "x")
    assert stranger["score"].to_list() == counts["len"].head(3).to_list()
    assert stranger["item_id"].to_list() == counts["item_id"].head(3).to_list()
    assert stranger.equals(recommender.recommend(["x"], 3, unknown="popular"))
    block = stranger["item_id"].to_list()
    assert recommender.recommend("x", 1, unknown="popular", block=block)["item_id"][0] == counts["item_id"][3]


def test_unknown_users_of_a_store_and_numbers_as_ids(tmp_path: Path) -> None:
    numbers = LOG.with_columns(pl.col("user_id").str.extract(r"(\d+)").cast(pl.Int64))
    run = run_of(tmp_path, numbers)
    with Recommender.load(run, tmp_path / "store") as kept:
        kept.compress()
        found = kept.recommend([3, 99, "x"], 2, unknown="popular")
        whole = [one.recommend([3, 99], 1, unknown="popular")["user_id"] for one in (kept, Recommender.load(run))]
    assert found["user_id"].to_list() == ["3", "3", "99", "99", "x", "x"], "text, as one of them is no number"
    assert [(ids.dtype, ids.to_list()) for ids in whole] == [(pl.Int64, [3, 99])] * 2
    assert Recommender.load(run).recommend(["03"], 1, unknown="popular")["user_id"].to_list() == ["03"], "not 3"


def test_seen_items_at_some_of_their_odds(tmp_path: Path) -> None:
    evaluation = {"k": [1], "exclude_seen": False}
    (tmp_path / "plain").mkdir()
    plain = Recommender.load(run_of(tmp_path / "plain", LOG, evaluation=evaluation, primary="ndcg@1"))
    (tmp_path / "less").mkdir()
    run = run_of(tmp_path / "less", LOG, evaluation={**evaluation, "seen_odds": 0.3}, primary="ndcg@1")
    less = Recommender.load(run)
    before, now = plain.recommend(SOME, 30), less.recommend(SOME, 30)
    lower = less.model.temperature * np.log(0.3)
    had = LOG.select("user_id", "item_id").unique().with_columns(lower=pl.lit(float(lower)))
    expected = before.join(had, on=["user_id", "item_id"], how="left").with_columns(
        score=pl.col("score") + pl.col("lower").fill_null(0)
    )
    both = now.join(expected, on=["user_id", "item_id"], suffix="_expected")
    assert both.height == now.height == 30 * len(SOME)
    assert np.allclose(both["score"].to_numpy(), both["score_expected"].to_numpy(), atol=1e-5)
    assert now.equals(now.sort("user_id", "score", descending=[False, True], maintain_order=True)) or all(
        part["score"].is_sorted(descending=True) for part in now.partition_by("user_id")
    )
    scored = less.score(SOME, less.item_ids.to_list()).join(now, on=["user_id", "item_id"], suffix="_now")
    assert np.allclose(scored["score"].to_numpy(), scored["score_now"].to_numpy(), atol=1e-5)
    with Recommender.load(run, tmp_path / "store") as kept:
        kept.compress()
        again = now.join(kept.recommend(SOME, 30), on=["user_id", "item_id"], suffix="_kept")
        assert np.allclose(again["score"].to_numpy(), again["score_kept"].to_numpy(), atol=1e-5)
    with pytest.raises(UserError, match="seen_rate: only a run that excludes seen items"):
        Recommender.load(run, tmp_path / "filter").compress(seen_rate=0.01)


FORMS: dict[str, Callable[[list[int]], Any]] = {
    "numpy": np.array,
    "whole floats": lambda ids: np.array(ids, dtype=np.float32),
    "pandas": pd.Series,
    "polars": pl.Series,
    "an iterator": iter,
}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    numbers = LOG.with_columns(pl.col("user_id", "item_id").str.extract(r"(\d+)").cast(pl.Int64))
    return Recommender.load(run_of(tmp_path_factory.mktemp("numbers"), numbers))


def answers(of: Recommender, ids: Callable[[list[int]], Any]) -> list[pl.DataFrame]:
    """What is answered where ids are given in some form, in each place that takes them."""
    return [
        of.recommend(ids([1, 0]), 3),
        of.recommend(ids([0, 99, 1]), 3, unknown="popular"),
        of.recommend(13, 3, allow=ids([1, 2, 3, 4, 5])),
        of.recommend(13, 3, block=ids([3, 4])),
        of.similar(ids([1, 2]), 3),
        of.score(ids([1, 0]), ids([1, 2])),
        of.score(None, {1: ids([1, 2])}),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_ids_come_in_any_form(numbered: Recommender, form: str) -> None:
    for found, expected in zip(answers(numbered, FORMS[form]), answers(numbered, list), strict=True):
        assert found.equals(expected)


@pytest.mark.parametrize("one", ["12", 12, np.int64(12), np.str_("12"), 12.0])
def test_a_single_id_is_one(numbered: Recommender, one: Any) -> None:
    for found, expected in zip(answers(numbered, lambda ids: one), answers(numbered, lambda ids: [12]), strict=True):
        assert found.equals(expected)


def test_an_id_that_nobody_has_is_named_as_itself(numbered: Recommender) -> None:
    with pytest.raises(UserError, match="1 of 2 users are not in the run's log: 99; expected ids such as 0"):
        numbered.recommend(np.array([0, 99]))


def test_similar_items_by_cosine(recommender: Recommender) -> None:
    vectors = recommender.model.vectors().detach().numpy()[1:]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = recommender.item_ids.to_list()
    found = recommender.similar(["чай 4", "чай 20"], 3)
    assert found.columns == ["item_id", "similar", "score", "rank"]
    assert found["item_id"].to_list() == ["чай 4"] * 3 + ["чай 20"] * 3
    for item, part in ((item, found.filter(pl.col("item_id") == item)) for item in ("чай 4", "чай 20")):
        cosine = unit @ unit[ids.index(item)]
        best = [place for place in np.argsort(-cosine, kind="stable") if ids[place] != item][:3]
        assert part["similar"].to_list() == [ids[place] for place in best]
        assert part["score"].to_list() == pytest.approx(cosine[best].tolist(), abs=1e-6)
    assert recommender.similar("чай 4", 30).height == 29


@pytest.mark.parametrize(
    ("items", "k", "message"),
    [
        (["чай 4", "x"], 3, r"1 of 2 items are not in the run's catalogue: 'x'"),
        ("чай 4", 31, "k: got 31, expected a whole number from 1"),
    ],
)
def test_similar_to_what_is_not_there(recommender: Recommender, items: Any, k: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recommender.similar(items, k)


def test_the_commands(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "allow.txt").write_text("\n".join(["чай 1", "чай 2", "чай 3", "here"]), encoding="utf-8")
    pl.DataFrame({"item_id": ["чай 2"]}).write_csv(tmp_path / "block.csv")

    def called(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["persrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return caught.value.code, said.out, said.err  # type: ignore[return-value]

    given = ["--allow", tmp_path / "allow.txt", "--block", tmp_path / "block.csv", "--unknown", "popular"]
    code, out, said = called("recommend", run, "ü-33", "nobody", *given)
    assert code == 0
    assert set(pl.read_csv(out.encode())["item_id"]) <= {"чай 1", "чай 3"}
    assert "allow: 1 of 4 ids are not in the run's catalogue ('here')" in said
    code, out, _ = called("similar", run, "чай 1", "--k", "2")
    assert (code, out) == (0, api.similar(run, ["чай 1"], k=2).write_csv())
    code, _, said = called("similar", run, "x")
    assert (code, "1 of 1 items are not in the run's catalogue" in said) == (2, True)
    assert called("recommend", run, "ü-33", "--allow", tmp_path / "none.txt")[0] == 2
