"""Each baseline on a few events worked by hand, or against its definition in plain loops."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persrec.baselines import BASELINES
from persrec.baselines.linear import MOST_ITEMS
from persrec.errors import UserError
from persrec.prepared import Prepared
from tests.baselines.worlds import DAY, asked, prepared_of


def scores_of(name: str, data: Prepared, *pairs: tuple[int, int], time: str = "last", **settings: float) -> np.ndarray:
    """Scores of items 1..V for queries (user, end)."""
    baseline = BASELINES[name](**settings)
    baseline.fit(data)
    return baseline.scores(data, asked(*pairs), time=time)[:, 1:]


def test_popular() -> None:
    data = prepared_of([[1, 2, 2, 3], [2, 4]], [3, 2])
    assert scores_of("popular", data, (0, 3), (1, 2)).tolist() == [[1, 3, 0, 1]] * 2


def test_popular_of_late() -> None:
    """A window of two days. User 0 is asked after day 4 (event 2) or, its next event known, on day 9."""
    histories, times = [[1, 1, 2, 1], [2, 3, 4, 4]], [[0, DAY, 4 * DAY, 9 * DAY], [3 * DAY, 3 * DAY, 8 * DAY, 30 * DAY]]
    data = prepared_of(histories, [3, 3], times=times)
    last = scores_of("popular_recent", data, (0, 3), days=2)[0]
    assert last[1] == last[2] == 1, "on day 3; an event on day 4 itself is not before it"
    assert last[2] > last[0] > last[3], "then by popularity: item 1 twice in training, item 4 once"
    asked_later = scores_of("popular_recent", data, (0, 3), days=2, time="next")[0]
    assert asked_later[3] == 1
    assert asked_later.argmax() == 3
    late = scores_of("popular_recent", data, (1, 4), days=2)[0]
    assert late.tolist() == asked_later.tolist(), "training ends on day 8: the last two days of it are asked for"


@settings(max_examples=40)
@given(st.data())
def test_popular_of_late_is_a_count_in_a_window(data: st.DataObject) -> None:
    event = st.tuples(st.integers(1, 4), st.integers(0, 40))
    users = data.draw(st.lists(st.lists(event, min_size=2, max_size=8), min_size=1, max_size=4))
    users = [sorted(user, key=lambda event: event[1]) for user in users]
    log = prepared_of(
        [[item for item, _ in user] for user in users],
        [len(user) - 1 for user in users],
        times=[[hour * DAY // 24 for _, hour in user] for user in users],
        items=4,
    )
    trained = [event for user in users for event in user[:-1]]
    latest = max(hour for _, hour in trained) + 1
    scores = scores_of("popular_recent", log, *((user, len(users[user]) - 1) for user in range(len(users))), days=0.5)
    for row, user in zip(scores, users, strict=True):
        until = min(user[-2][1], latest)
        expected = Counter(item for item, hour in trained if until - 12 <= hour < until)
        assert [max(value, 0) for value in row.tolist()] == [expected[item] for item in range(1, 5)]


def test_personal_frequency() -> None:
    data = prepared_of([[1, 2, 2, 3, 4], [4, 4]], [4, 2], times=[[0, DAY, 2 * DAY, 4 * DAY, 9 * DAY], [0, 0]])
    plain = scores_of("personal_frequency", data, (0, 4))[0]
    np.testing.assert_allclose(plain[:3], [1 + 1 / 6, 2 + 2 / 6, 1 + 1 / 6])  # trained on once, twice, once
    assert plain[3] < 0, "never had: below"
    by_events = scores_of("personal_frequency", data, (0, 4), half_life_events=1)[0]
    assert by_events[:3].tolist() == [1 / 8, 1 / 2 + 1 / 4, 1]
    by_days = scores_of("personal_frequency", data, (0, 4), half_life_days=2)[0]
    np.testing.assert_allclose(by_days[:3], [1 / 4, 1 / 2 + 2**-1.5, 1])
    both = scores_of("personal_frequency", data, (0, 4), half_life_days=2, half_life_events=1)[0]
    np.testing.assert_allclose(both[:3], [1 / 32, 1 / 4 + 2**-3.5, 1])


def test_equal_counts_go_by_popularity_and_others_do_not() -> None:
    """User 0 had 1 three times, 2 and 3 once; in training all have 3 most often, 4 more often than 2."""
    data = prepared_of([[1, 1, 1, 2, 3, 3], [3, 3, 3, 4, 4], [4, 3]], [5, 5, 2])
    order = np.argsort(-scores_of("personal_frequency", data, (0, 5))[0]) + 1
    assert order.tolist() == [1, 3, 2, 4]
    decayed = scores_of("personal_frequency", data, (0, 5), half_life_events=1e9)[0]
    np.testing.assert_allclose(decayed[:3], [3, 1, 1], rtol=1e-6)  # no popularity where old events count less


def test_personal_frequency_after_years_still_knows_the_order() -> None:
    """Half-lives count from the last known event, so that a long absence makes nothing vanish."""
    data = prepared_of([[1, 2, 2, 3]], [3], times=[[0, DAY, DAY, 9000 * DAY]], items=3)
    scores = scores_of("personal_frequency", data, (0, 3), half_life_days=1, time="next")[0]
    assert scores[:2].tolist() == [0.5, 2]


def test_item_knn() -> None:
    """Items 1 2 | 2 1 3: with a window of 1, 1 and 2 meet twice, 1 and 3 once; they occur 2, 2 and 1 times."""
    data = prepared_of([[1, 2], [2, 1, 3], [3, 1]], [2, 3, 0], items=4)
    near = scores_of("item_knn", data, (2, 2), window=1)[0]
    np.testing.assert_allclose(near[[1, 2]], [2 / 2, 1 / np.sqrt(2)])
    assert near[0] < 0, "item 1 has never met itself: by popularity"
    wider = scores_of("item_knn", data, (2, 1), window=2)[0]
    np.testing.assert_allclose(wider[[0, 1]], [1 / np.sqrt(2), 1 / np.sqrt(2)])
    nearest = scores_of("item_knn", data, (2, 2), window=1, neighbours=1)[0]
    assert (nearest > 0).tolist() == [False, True, False, False]


def test_item_knn_counts_an_item_that_comes_again() -> None:
    """1 1 2: item 1 meets itself once, which is twice in either order, and item 2 once."""
    data = prepared_of([[1, 1, 2], [1]], [3, 0])
    np.testing.assert_allclose(scores_of("item_knn", data, (1, 1), window=1)[0], [2 / 2, 1 / np.sqrt(2)])


@pytest.mark.parametrize(("half_life", "alpha", "ridge"), [(2.0, 0.2, 1.0), (1.0, 0.0, 0.3), (4.0, 0.7, 5.0)])
def test_slist_is_the_regression_of_its_definition(half_life: float, alpha: float, ridge: float) -> None:
    random = np.random.default_rng(0)
    histories = [random.integers(1, 7, length).tolist() for length in (9, 2, 1, 6, 10)]
    bounds = [8, 2, 1, 3, 10]
    got = scores_of("slist", prepared_of(histories, bounds), (0, 9), half_life=half_life, alpha=alpha, ridge=ridge)
    keep = 0.5 ** (1 / half_life)
    x, s, t = [], [], []
    for history, bound in zip(histories, bounds, strict=True):
        x.append(np.isin(np.arange(7), history[:bound]).astype(float))
        for place in range(1, bound):
            s.append(weighted(history[:place][::-1], keep))
            t.append(weighted(history[place:bound], keep))
    full, before, after = np.array(x), np.array(s), np.array(t)
    left = alpha * full.T @ full + (1 - alpha) * before.T @ before + ridge * np.eye(7)
    right = alpha * full.T @ full + (1 - alpha) * before.T @ after
    expected = weighted(histories[0][:9][::-1], keep) @ np.linalg.solve(left, right)
    np.testing.assert_allclose(got[0], expected[1:], rtol=1e-4, atol=1e-5)


def weighted(items: list[int], keep: float) -> np.ndarray:
    """A row over items 0..6; the first of `items` weighs 1, each further one `keep` times as much."""
    row = np.zeros(7)
    for place, item in enumerate(items):
        row[item] += keep**place
    return row


def test_slist_learns_what_follows_what() -> None:
    """In circles 1 2 3 4: the next item scores highest, at both ends of the history."""
    data = prepared_of([[(start + step) % 4 + 1 for step in range(12)] for start in range(4)])
    scores = scores_of("slist", data, *((user, 9) for user in range(4)), half_life=1.0, ridge=0.1, alpha=0.0)
    assert (scores.argmax(axis=1) + 1).tolist() == [history[9] for history in data.items.reshape(4, 12)]


def test_slist_refuses_a_large_catalogue() -> None:
    data = prepared_of([[1, 2, MOST_ITEMS + 1]])
    expected = (
        r"baseline slist: got 15,001 items, expected at most 15,000.*raise data.min_item_events, or use.*item_knn"
    )
    with pytest.raises(UserError, match=expected):
        scores_of("slist", data, (0, 3))


BLOCKS = [[1, 2], [2, 1], [3, 4], [4, 3], [3, 4], [3, 1]]  # the last one is not trained on


def test_svd() -> None:
    """Directions (1 1 0 0) and (0 0 1 1), each over the square root of 2: half of an item's weight goes to its twin."""
    data = prepared_of(BLOCKS, [2, 2, 2, 2, 2, 0])
    np.testing.assert_allclose(
        scores_of("svd", data, (5, 1), (5, 2)), [[0, 0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]], atol=1e-6
    )
    assert scores_of("svd", data, (5, 2), width=1)[0].round(5).tolist() == [0, 0, 0.5, 0.5], "the stronger one is kept"


def test_decayed_mean() -> None:
    """Item 3 and then item 1, which weighs twice as much: two thirds to items 1 and 2, one third to 3 and 4."""
    data = prepared_of(BLOCKS, [2, 2, 2, 2, 2, 0])
    scores = scores_of("decayed_mean", data, (5, 2), half_life=1)[0]
    np.testing.assert_allclose(scores, [2 / 3, 2 / 3, 1 / 3, 1 / 3], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "what"),
    [
        ("popular_recent", {}, "popular_recent"),
        ("personal_frequency", {"half_life_days": 3.0}, "personal_frequency with half_life_days"),
    ],
)
def test_time_needs_times(name: str, settings: dict[str, float], what: str) -> None:
    with pytest.raises(UserError, match=f"baseline {what}: got a log without times.*use the baseline popular, or"):
        scores_of(name, prepared_of([[1, 2]]), (0, 1), **settings)
