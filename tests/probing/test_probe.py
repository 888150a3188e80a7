"""The probe: what it finds on logs whose answer is known, what it advises, and what it leaves behind."""

import json

import numpy as np
import polars as pl
import pytest

from persrec import api
from persrec.errors import UserError
from persrec.interactions import log as logs
from persrec.interactions import prepare as preparing
from persrec.probing import report as probe_report
from persrec.probing import study as probing
from persrec.probing.ridge import Histories
from persrec.probing.study import Advice, advise, ages, probe
from persrec.recipe.sections import Split

HOUR = 3_600_000
GENRES, PER_GENRE, PUBLIC = 10, 3, 200
EVERY = 25  # events from one item of the user's genre to the next


def genres(*, users=150, events=208, seed=0, timed=False):
    """Noise, and every 25 events a sign and then an item of the user's own genre: 20 events never show it, 40 do."""
    random = np.random.default_rng(seed)
    own = random.integers(GENRES, size=(users, 1)) * PER_GENRE + random.integers(PER_GENRE, size=(users, events))
    noise = GENRES * PER_GENRE + 1 + random.integers(PUBLIC, size=(users, events))
    turn = np.arange(events) % EVERY
    items = np.select([turn == EVERY - 1, turn == EVERY - 2], [own, np.full_like(own, GENRES * PER_GENRE)], noise)
    gaps = np.where(np.broadcast_to(turn == EVERY - 1, own.shape), 24 * HOUR, 60_000)  # a break before the genre
    times = np.cumsum(gaps) if timed else None
    return Histories(np.arange(users + 1) * events, items.ravel(), times, GENRES * PER_GENRE + 1 + PUBLIC)


def row(window, **values):
    plain = {"asked": "next event", "group": "all", "R": window, "recent": 0.1, "full": 0.1, "counting_low": None}
    return plain | {"gain": 0.0, "low": -0.01, "high": 0.01} | values


@pytest.fixture(scope="module")
def found():
    return probe(genres(timed=True), name="genres")


def test_ages_by_hand():
    log = Histories(np.array([0, 5, 8]), np.array([1, 2, 1, 1, 2, 1, 1, 2]), None, 3)
    assert ages(log).tolist() == [0, 0, 2, 1, 3, 0, 1, 0]


def test_old_events_that_matter_are_found(found):
    rows = {(row["asked"], row["group"], row["R"]): row for row in found.rows}
    for asked in ("next event", "first event after 12 h"):
        assert rows[asked, "all", 20]["low"] > 0.02
        assert rows[asked, "all", 128]["gain"] < 0.02
    assert rows["first event after 12 h", "all", 20]["targets"] == 3 * 150
    assert rows["first event after 12 h", "all", 20]["frequency_all"] is None  # no count in 20 events has a hit
    assert found.advice.recent in (40, 128)
    assert found.advice.tokens is None


def test_rows_are_flat_and_count(found):
    for line in found.rows:
        assert line["had_recently"] + line["had_earlier"] + line["never_had"] == pytest.approx(1)
        assert line["low"] <= line["gain"] <= line["high"]
        assert line["gain"] == pytest.approx(line["full"] / line["recent"] - 1)
    whole = [line for line in found.rows if line["asked"] == "next event" and line["group"] == "all"]
    assert [line["targets"] for line in whole] == [1500] * 3
    assert [line["had_earlier"] for line in whole] == sorted((line["had_earlier"] for line in whole), reverse=True)
    assert found.facts["seen"] == "ranked"
    assert json.loads(json.dumps(found.as_rows()))[0]["recent"] == found.advice.recent


def test_random_events_need_no_memory():
    random = np.random.default_rng(0)
    items = np.stack([random.permutation(400)[:120] for _ in range(200)])  # nobody has an item twice
    said = []
    found = probe(Histories(np.arange(201) * 120, items.ravel(), None, 400), name="random", say=said.append)
    assert found.facts["seen"] == "excluded"
    assert {line["asked"] for line in found.rows} == {"next event"}
    assert all(line["frequency_all"] is None for line in found.rows)
    assert all(not (line["low"] > 0.02) for line in found.rows)
    assert said == ["next event: 2,000 targets, a linear model on 21,800 events."]


def test_what_nobody_hits_is_left_out_and_said():
    random = np.random.default_rng(0)
    items = np.stack([random.permutation(4000)[:100] for _ in range(30)])
    said = []
    found = probe(Histories(np.arange(31) * 100, items.ravel(), None, 4000), name="rare", say=said.append)
    assert found.rows == []
    assert said[-1] == "next event: nothing of targets with all, > 60 events before: under 20 users have a hit."


def test_too_short_histories():
    with pytest.raises(
        UserError, match=r"probe: the longest of 3 histories has 19 events .*; expected users with 20 or more"
    ):
        probe(Histories(np.arange(4) * 19, np.zeros(57, dtype=np.int64), None, 1), name="short")


def test_a_log_with_nothing_to_find(tmp_path):
    items = np.random.default_rng(0).integers(5000, size=30 * 25)
    found = probe(Histories(np.arange(31) * 25, items, None, 5000), name="noise")
    assert found.rows == []
    assert "a linear model a hit for 20 users" in str(found.advice)
    with pytest.raises(UserError, match=r"--figure .*: there is nothing to draw: in no part"):
        probe_report.figure(found, tmp_path / "noise.png")


def test_users_are_sampled_beyond_the_bounds(monkeypatch):
    monkeypatch.setattr(probing, "EVENTS", 20_800)
    monkeypatch.setattr(probing, "SCORES", 600 * (GENRES * PER_GENRE + 1 + PUBLIC))
    said = []
    found = probe(genres(), name="many", say=said.append)
    assert said[0] == "31,200 events: looking at 100 of the 150 users, drawn at random."
    assert said[1].endswith("asking 60 of 100 users.")
    assert found.facts["users"] == found.facts["users_sampled"] == 100
    assert found.rows[0]["targets"] == 600


@pytest.mark.parametrize(
    ("rows", "long_share", "expected", "words"),
    [
        ([row(20), row(40), row(128)], 0.5, (None, 20, None), "older than the last 20 add nothing certain of 1%"),
        ([row(20, gain=0.009, low=0.001), row(40), row(128)], 0.5, (None, 20, None), "nothing certain"),
        ([row(20, gain=0.1, low=0.04), row(40), row(128)], 0.5, (None, 40, None), "the last 20 add +10.0%"),
        ([row(20), row(40, gain=0.1, low=0.04), row(128)], 0.5, (None, 128, None), "a memory with S = R = 40, K = 4"),
        ([row(20), row(40), row(128, gain=0.1, low=0.01)], 0.5, (None, 20, None), "nothing certain"),
        ([row(20), row(40), row(128, gain=0.1, low=0.04)], 0.5, (40, 40, 4), "older than the last 128 add +10.0%"),
        ([row(20), row(40), row(128, gain=0.1, low=0.04)], 0.05, (None, 40, None), "only 5.0% of the users have 80"),
        ([row(20, frequency_all=0.2, counting_low=-0.1), row(40), row(128)], 0.5, (None, 20, None), "linear model."),
        (
            [row(20, frequency_all=0.2, counting_low=0.5), row(40), row(128)],
            0.5,
            (None, 20, None),
            "let the model count repeats first",
        ),
    ],
)
def test_advice(rows, long_share, expected, words):
    advice = advise(rows, {"long_share": long_share})
    assert (advice.segment, advice.recent, advice.tokens) == expected
    assert words in advice.reason


def test_advice_in_words():
    assert str(Advice(None, 20, None, "so it is.")) == "Recent-only will do, with R = 20: so it is."
    assert str(Advice(40, 40, 4, "so it is.")) == "Try a memory with S = 40, R = 40, K = 4: so it is."


def test_from_a_file_to_json_and_figure(tmp_path):
    log = genres(users=60, timed=True)
    user = np.repeat(np.arange(60), 208)
    frame = pl.DataFrame({"user_id": user, "item_id": log.items, "timestamp": log.times + 10**12})
    frame.write_csv(tmp_path / "log.csv")
    table = api.probe(tmp_path / "log.csv", json_file=tmp_path / "probe.json", figure=tmp_path / "probe.svg")
    assert json.loads((tmp_path / "probe.json").read_text()) == table.rows
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "probe.svg").read_text()
    assert "next event: NDCG@10 by events before it" in str(table)
    assert "older adds" in str(table)


@pytest.mark.parametrize(
    ("split", "left"),
    [
        ({"kind": "leave-one-out"}, [207] * 5),
        ({"kind": "last", "n": 10}, [198] * 5),
        ({"kind": "global-time", "validation": 0.1, "test": 0.25}, [208, 208, 208, 156, 1]),  # they live in turn
        ({"kind": "after-break", "gap_hours": 12, "validation": 0.1, "test": 0.35}, [149] * 5),  # the break after 135
        ({"kind": "next-basket", "gap_hours": 12, "validation": 0.1, "test": 0.35}, [149] * 5),
    ],
)
def test_events_before_the_test(split, left):
    log = genres(users=5, timed=True)
    user = np.repeat(np.arange(5), 208)
    frame = pl.DataFrame({"user_id": user, "item_id": log.items, "timestamp": log.times.ravel() + 10**12})
    loaded = logs.load(preparing.data_section({"source": "table"}), frame=frame)
    assert preparing.before_test(loaded, Split(**split)).tolist() == left


def test_what_the_test_asks_for_is_not_looked_at():
    log = genres(users=60, events=120)
    user = np.repeat(np.arange(60), 120)
    whole = pl.DataFrame({"user_id": user, "item_id": log.items})
    place = pl.int_range(pl.len()).over("user_id")
    other = whole.with_columns(pl.when(place >= 110).then(pl.lit(0)).otherwise("item_id").alias("item_id"))
    found = [api.probe("quickstart", ["split={kind: last, n: 10}"], frame=frame).rows for frame in (whole, other)]
    assert found[0] == found[1]
    assert found[0][0]["events"] == 60 * 110


def test_a_figure_without_repeats(tmp_path, found):
    rows = [line | {"frequency_all": None} for line in found.rows]
    plain = probing.Probe("plain", found.facts, rows, found.ages, found.advice)
    files = probe_report.figure(plain, tmp_path / "plain.png")
    assert [file.name for file in files] == ["plain.png", "plain.svg"]


def test_bad_output_is_refused_before_the_work(tmp_path, found):
    with pytest.raises(UserError, match=r"--figure .*probe\.pdf: got the ending '\.pdf', expected \.png or \.svg"):
        api.probe("absent.csv", figure=tmp_path / "probe.pdf")
    with pytest.raises(UserError, match=r"--json .*: the folder .*nowhere does not exist"):
        api.probe("absent.csv", json_file=tmp_path / "nowhere" / "probe.json")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(UserError, match=r"--figure .*: cannot be written"):
        probe_report.figure(found, tmp_path / "taken.png")
