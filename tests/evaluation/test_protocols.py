"""Every protocol end to end: the figures of a model are those of its answers to the histories before the targets."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from persrec import Recommender
from persrec.cells import protocol
from persrec.evaluation.evaluate import evaluate
from persrec.recipe.recipe import Recipe
from tests.small import START, prepared_of, run_of

HOUR = 3_600_000
SHARES = {"validation": 0.1, "test": 0.4}
PROTOCOLS: dict[str, tuple[dict[str, Any], bool]] = {  # and whether seen items are left out
    "leave-one-out": ({"kind": "leave-one-out"}, True),
    "last": ({"kind": "last", "n": 4}, True),
    "global-time": ({"kind": "global-time", "n": 3, **SHARES}, True),
    "after-break": ({"kind": "after-break", "gap_hours": 12, **SHARES}, False),
    "next-basket": ({"kind": "next-basket", "gap_hours": 12, **SHARES}, False),
}


def baskets() -> pl.DataFrame:
    """14 users with 3 to 10 baskets of 1 to 5 items, a minute apart, 13 to 60 hours between baskets."""
    random = np.random.default_rng(7)
    rows = []
    for user in range(14):
        now = START + int(random.integers(0, 48)) * HOUR
        for _ in range(random.integers(3, 11)):
            chosen = random.choice(30, random.integers(1, 6), replace=False)
            rows += [(f"u{user}", f"i{item}", now + 60_000 * place) for place, item in enumerate(chosen)]
            now += int(random.integers(13, 61)) * HOUR
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def by_answers(run: Path, log: pl.DataFrame, queries: list[tuple[str, int, int]]) -> list[tuple[float, float]]:
    """NDCG@10 and Recall@10 of lists for users after so many events, who have so many targets then."""
    asked, found = Recommender.load(run), []
    for user, end, size in queries:
        own = log.filter(pl.col("user_id") == user)
        at = own["timestamp"][end]
        listed = asked.recommend(k=10, histories=own.head(end), at=at)["item_id"].to_list()
        wanted = set(own["item_id"][end : end + size])
        gains = 1 / np.log2(np.arange(2, 12))
        hits = np.array([item in wanted for item in listed] + [False] * (10 - len(listed)))
        found.append((float(gains[hits].sum() / gains[: len(wanted)].sum()), hits.sum() / len(wanted)))
    return found


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_figures_are_those_of_answers_before_the_targets(tmp_path: Path, kind: str) -> None:
    split, without_seen = PROTOCOLS[kind]
    evaluation = {"k": [10], "exclude_seen": without_seen, "length_buckets": [5, 20]}
    changes: dict[str, Any] = {"split": split, "time": "next", "evaluation": evaluation}
    log = baskets()
    if without_seen:  # a target that was had before would be ranked, and is in no list
        log = log.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    run = run_of(tmp_path, log, **changes)
    recipe: Recipe
    recipe, data = prepared_of(tmp_path, log, **changes)
    got = evaluate(Recommender.load(run).model, data, protocol(recipe))
    names = pl.Series(data.user_ids()).to_list()
    queries = [
        (names[user], end, size) for user, end, size in zip(*(field.tolist() for field in data.test), strict=True)
    ]
    assert len(queries) >= 10
    assert any(size > 1 for _, _, size in queries) == (kind == "next-basket")
    if kind in ("after-break", "next-basket"):
        assert all(got.targets.gap >= 12 * HOUR)
    expected = np.array(by_answers(run, log, queries))
    assert 0 < expected[:, 0].mean() < 1
    assert got.values("ndcg@10") == pytest.approx(expected[:, 0])
    assert got.values("recall@10") == pytest.approx(expected[:, 1])
    told = got.summary()["protocol"]
    assert told["split"].startswith(kind)
    assert (told["exclude_seen"], told["time"]) == (without_seen, "next")
