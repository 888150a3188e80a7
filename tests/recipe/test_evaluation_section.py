"""How seen items are treated: excluded, allowed, or at some of their odds."""

from typing import Any

import pytest

from persrec.errors import UserError
from persrec.recipe.recipe import Recipe, parse


def test_three_policies() -> None:
    assert Recipe().evaluation.exclude_seen
    allowed = parse({"evaluation": {"exclude_seen": False}}, "of a test").evaluation
    assert (allowed.exclude_seen, allowed.seen_odds) == (False, None)
    discounted = parse({"evaluation": {"exclude_seen": False, "seen_odds": 0.5}}, "of a test")
    assert discounted.evaluation.seen_odds == 0.5
    assert parse(discounted.dump(), "of a test") == discounted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"evaluation": {"seen_odds": 0.5}}, r"seen_odds 0\.5 with exclude_seen true.*set exclude_seen to false"),
        ({"evaluation": {"exclude_seen": False, "seen_odds": 1.5}}, r"evaluation\.seen_odds: .*less than 1"),
        ({"evaluation": {"exclude_seen": False, "seen_odds": 0}}, r"evaluation\.seen_odds: .*greater than 0"),
        (
            {"evaluation": {"exclude_seen": False, "seen_odds": 0.5}, "baselines": ["popular"]},
            r"evaluation\.seen_odds: got 0\.5 with baselines, whose scores are no odds; remove one",
        ),
        (
            {"split": "next-basket"},
            r"evaluation\.exclude_seen: got true with split next-basket: .* metrics exceed 1; expected false",
        ),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(values, "of a test")
