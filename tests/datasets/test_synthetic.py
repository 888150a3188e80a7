import numpy as np
import polars as pl
import pytest

from persrec import datasets
from persrec.datasets import synthetic as module
from persrec.datasets.synthetic import CONTEXTS, ITEMS, OPTIONS, item_names, synthetic
from persrec.errors import UserError


def answers(log):
    """One row per answer: user, context, option, choice; the answer follows its entry."""
    ordered = log.sort("user_id", "timestamp").with_columns(pl.col("item_id").shift().over("user_id").alias("entry"))
    return ordered.filter(pl.col("item_id").str.starts_with("answer")).with_columns(
        pl.col("item_id").str.split("-").list.to_struct(fields=["_", "context", "option", "choice"]).struct.unnest()
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


def test_entries_are_followed_by_answers_of_their_context():
    found = answers(synthetic(users=100, events=60).collect())
    assert found.select((pl.col("entry") == "entry-" + pl.col("context")).all()).item()


def test_shares_of_events():
    kinds = (
        synthetic(users=300, events=200).collect()["item_id"].str.split("-").list.first().value_counts(normalize=True)
    )
    shares = dict(kinds.iter_rows())
    assert shares == pytest.approx({"browse": 3 / 7, "entry": 2 / 7, "answer": 2 / 7}, abs=0.01)


@pytest.mark.parametrize(("old_signal", "expected"), [(1.0, 1.0), (0.5, 0.5 + 0.5 / OPTIONS), (0.0, 1 / OPTIONS)])
def test_the_dial_is_the_share_of_own_options(old_signal, expected):
    """At 1 every answer shows the user's own option; logs of one seed have the same own options."""
    own = answers(synthetic(users=50, events=500).collect()).select("user_id", "context", own="option").unique()
    assert own.height <= 50 * CONTEXTS
    found = answers(synthetic(users=50, events=500, old_signal=old_signal).collect())
    share = found.join(own, on=["user_id", "context"]).select((pl.col("option") == pl.col("own")).mean()).item()
    assert share == pytest.approx(expected, abs=0.02)


def test_logs_of_two_dials_differ_only_in_answers():
    with_signal, without = (synthetic(users=50, events=50, old_signal=dial).collect() for dial in (1.0, 0.0))
    changed = with_signal.filter(with_signal["item_id"] != without["item_id"])["item_id"]
    assert changed.len() > 0
    assert changed.str.starts_with("answer").all()


def test_choices_within_an_option():
    shares = answers(synthetic(users=300, events=200).collect())["choice"].value_counts(normalize=True).sort("choice")
    np.testing.assert_allclose(shares["proportion"], module.CHOICE_SHARES, atol=0.01)


def test_browsing_follows_four_successors():
    log = synthetic(users=300, events=300).collect().filter(pl.col("item_id").str.starts_with("browse"))
    moves = log.sort("user_id", "timestamp").with_columns(pl.col("item_id").shift(-1).over("user_id").alias("next"))
    assert moves.drop_nulls().group_by("item_id").agg(pl.col("next").n_unique())["next"].max() == 4


def test_every_context_occurs():
    assert answers(synthetic(users=20, events=100).collect())["context"].n_unique() == CONTEXTS


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
