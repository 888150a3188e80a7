import polars as pl
import pytest

from persrec import datasets
from persrec.datasets.synthetic import BROWSE_SHARES, ITEMS, ORDERS, PLACES, VISIT, item_names, synthetic
from persrec.errors import UserError


def orders(log):
    """One row per order: user, turn, place, order, and the event before it."""
    ordered = log.sort("user_id", "timestamp").with_columns(pl.col("item_id").shift().over("user_id").alias("before"))
    return ordered.filter(~pl.col("item_id").str.contains("browse|entry")).with_columns(
        pl.col("item_id").str.split("-").list.to_struct(fields=["turn", "place", "order"]).struct.unnest()
    )


def test_same_seed_same_log():
    first, second, other = (synthetic(users=20, events=20, seed=seed).collect() for seed in (3, 3, 4))
    assert first.equals(second)
    assert not first.equals(other)


def test_shape_of_the_log():
    log = synthetic(users=200, events=100, seed=1).collect()
    lengths = log.group_by("user_id").len()["len"]
    assert log["user_id"].n_unique() == 200
    assert (lengths.min() >= 25, lengths.max() <= 400) == (True, True)
    assert 80 < lengths.median() < 125
    assert len(item_names()) == len(set(item_names())) == ITEMS
    assert log["timestamp"].is_sorted()
    assert log.sort("user_id", "timestamp").select(pl.col("timestamp").diff().over("user_id").min()).item() >= 1


def test_a_visit_is_an_entry_and_two_orders_at_its_place():
    found = orders(synthetic(users=100, events=60).collect()).drop_nulls("before")
    first, second = (found.filter(pl.col("turn") == turn) for turn in ("first", "second"))
    assert first.select((pl.col("before") == "entry-" + pl.col("place")).all()).item()
    assert second.select(pl.col("before").str.starts_with("first-" + pl.col("place")).all()).item()


def test_every_log_ends_with_a_visit():
    log = synthetic(users=100, events=60).collect().sort("user_id", "timestamp")
    last = log.group_by("user_id").agg(pl.col("item_id").str.split("-").list.first().tail(VISIT).alias("kinds"))
    assert last["kinds"].unique().to_list() == [["entry", "first", "second"]]


def test_visits_are_frequent_in_the_first_third_and_rare_after_it():
    log = synthetic(users=300, events=400).collect().sort("user_id", "timestamp")
    age = pl.int_range(pl.len()).over("user_id") / pl.len().over("user_id")
    kinds = log.with_columns(pl.col("item_id").str.split("-").list.first().alias("kind"), (age < 1 / 3).alias("early"))
    for early, browsing in zip((True, False), BROWSE_SHARES, strict=True):
        share = (kinds.filter(pl.col("early") == early)["kind"] == "browse").mean()
        assert share == pytest.approx(browsing / (browsing + VISIT * (1 - browsing)), abs=0.02)


@pytest.mark.parametrize(("old_signal", "expected"), [(1.0, 1.0), (0.5, 0.5 + 0.5 / ORDERS), (0.0, 1 / ORDERS)])
def test_the_dial_is_the_share_of_habits(old_signal, expected):
    """At 1 every order is the user's habit; logs of one seed have the same habits."""
    keys = ["user_id", "turn", "place"]
    own = orders(synthetic(users=100, events=800).collect()).select(*keys, own="order").unique()
    assert own.height <= 100 * PLACES * 2
    found = orders(synthetic(users=100, events=800, old_signal=old_signal).collect())
    share = found.join(own, on=keys).select((pl.col("order") == pl.col("own")).mean()).item()
    assert share == pytest.approx(expected, abs=0.02)


def test_logs_of_two_dials_differ_only_in_orders():
    with_signal, without = (synthetic(users=50, events=100, old_signal=dial).collect() for dial in (1.0, 0.0))
    changed = with_signal.filter(with_signal["item_id"] != without["item_id"])["item_id"]
    assert changed.len() > 0
    assert not changed.str.contains("browse|entry").any()


def test_browsing_follows_four_successors():
    log = synthetic(users=300, events=300).collect().filter(pl.col("item_id").str.starts_with("browse"))
    moves = log.sort("user_id", "timestamp").with_columns(pl.col("item_id").shift(-1).over("user_id").alias("next"))
    assert moves.drop_nulls().group_by("item_id").agg(pl.col("next").n_unique())["next"].max() == 4


def test_every_place_occurs():
    assert orders(synthetic(users=20, events=300).collect())["place"].n_unique() == PLACES


def test_read_gives_the_schema():
    frame = datasets.read("synthetic", users=5, events=10)
    assert frame.collect_schema() == {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 0}, "data.synthetic.users: got 0, expected at least 1"),
        ({"events": 3}, "data.synthetic.events: got 3, expected at least 4"),
        ({"old_signal": 1.5}, "data.synthetic.old_signal: got 1.5, expected a share"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        synthetic(**options)
