import datetime as dt
import re
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from persrec.errors import UserError
from persrec.interactions.schema import ROW, check_columns, close_matches, conform


def frame(**columns):
    rows = len(next(iter(columns.values())))
    return pl.DataFrame({"user_id": [1] * rows, "item_id": [1] * rows} | columns).lazy()


def times(values, **options):
    return conform(frame(timestamp=values), where="log", **options).collect()["timestamp"].to_list()


def test_other_columns_are_left_out():
    assert conform(frame(colour=["red"]), where="log").collect().columns == ["user_id", "item_id"]


def test_what_was_understood_is_said():
    said = []
    conform(frame(timestamp=[1_500_000_000]), where="log", say=said.append)
    assert said == [
        "timestamp: numbers up to 1500000000 read as s, so the last event is of 2017-07-14.",
        "log: 1 events; user_id Int64, item_id Int64, timestamp Int64.",
    ]


@pytest.mark.parametrize(
    "ids",
    [
        ["Zoë", "日本", "🎬"],
        ["007", "7", "8"],
        ["18446744073709551616", "2", "3"],
        ["1.0", "2.0", "3"],
        [" 1", "2", "3"],
        ["+1", "2", "3"],
        ["-0", "2", "3"],
        ["9223372036854775808", "1", "2"],
    ],
)
def test_text_ids_stay_text(ids):
    assert conform(frame(item_id=ids), where="log").collect()["item_id"].to_list() == ids


@pytest.mark.parametrize("ids", [["10", "9"], [10, 9], [10.0, 9.0], ["9223372036854775807", "0"]])
def test_whole_numbers_become_integers(ids):
    column = conform(frame(item_id=ids), where="log").collect()["item_id"]
    assert column.dtype == pl.Int64
    assert column.to_list() == [int(value) for value in ids]


@pytest.mark.parametrize("word", ["NaN", "nan", "null", "NULL", "None", r"\N"])
@pytest.mark.parametrize("kind", [pl.String, pl.Categorical])
def test_words_for_nothing_are_no_ids(word, kind):
    log = frame(item_id=pl.Series(["10", word, "9", word, None]).cast(kind))
    shown = re.escape(repr(word))
    said = rf"item_id has 2 null \(a word for nothing .*\) values: row 2 \({shown}\), row 4 \({shown}\); .* row 5\."
    with pytest.raises(UserError, match=said):
        conform(log, where="log")
    assert conform(log, where="log", bad_rows="skip").collect()["item_id"].to_list() == [10, 9]


def test_like_words_for_nothing_but_ids():
    ids = ["N/A", "NAN", "Null", "none", "nil", "0", "null "]
    assert conform(frame(item_id=ids), where="log").collect()["item_id"].to_list() == ids


def test_a_byte_order_mark_in_an_id():
    with pytest.raises(UserError, match=r"user_id has 2 unprintable .*: row 1 \('\\ufeffu1'\), row 3 \('u\\ufeff'\)"):
        conform(frame(user_id=["\ufeffu1", "u1", "u\ufeff"]), where="log")


def test_integer_types_are_kept():
    ids = pl.Series([2**64 - 1, 5], dtype=pl.UInt64)
    assert conform(frame(item_id=ids), where="log").collect()["item_id"].to_list() == [2**64 - 1, 5]


@pytest.mark.parametrize("dtype", [pl.Decimal(38, 0), pl.Int128, pl.UInt128])
def test_whole_numbers_of_databases_are_ids(dtype):
    """Small ones as the integers they are, others as text, which Arrow can hold."""
    assert conform(frame(item_id=pl.Series([7, 2**40]).cast(dtype)), where="log").collect()["item_id"].to_list() == [
        7,
        2**40,
    ]
    large = pl.Series(["7", str(2**70)]).cast(dtype)
    assert conform(frame(item_id=large), where="log").collect()["item_id"].to_list() == ["7", str(2**70)]


def test_fractions_are_no_ids():
    with pytest.raises(UserError, match=r"item_id is Decimal\(.*; ids are whole numbers or text"):
        conform(frame(item_id=[Decimal("1.5")]), where="log")


def test_categories_become_text():
    ids = pl.Series(["a", "b"], dtype=pl.Categorical)
    assert conform(frame(item_id=ids), where="log").collect().schema["item_id"] == pl.String


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1_500_000_000], "auto"),
        ([1_500_000_000_000], "auto"),
        ([1_500_000_000_000_000], "auto"),
        ([1_500_000_000_000_000_000], "auto"),
        ([1_500_000_000.0], "auto"),
        (["1500000000"], "auto"),
        (["1.5e9"], "auto"),
        ([1_500_000_000], "s"),
        ([1_500_000_000_000], "ms"),
        ([1_500_000_000_000_000], "us"),
        ([1_500_000_000_000_000_000], "ns"),
        (["2017-07-14 02:40:00"], "auto"),
        (["2017-07-14T02:40:00.000"], "auto"),
        (["2017-07-14 02:40"], "auto"),
        (["2017-07-14T02:40"], "auto"),
        (["2017-07-14T02:40Z"], "auto"),
        (["2017-07-14T04:40+02:00"], "auto"),
        (["2017-07-14 02:40:00 UTC"], "auto"),
        (["2017-07-14 02:40 UTC"], "auto"),
        (["2017-07-14T02:40:00Z"], "auto"),
        (["2017-07-14T04:40:00+02:00"], "auto"),
        ([dt.datetime(2017, 7, 14, 2, 40)], "auto"),
        ([dt.datetime(2017, 7, 14, 2, 40, tzinfo=dt.UTC)], "auto"),
    ],
)
def test_times_become_milliseconds(values, unit):
    assert times(values, unit=unit) == [1_500_000_000_000]


def test_the_unit_of_decimals_is_said_too():
    said = []
    conform(frame(timestamp=[Decimal("1500000000.250")]), where="log", say=said.append)
    assert said[0] == "timestamp: numbers up to 1500000000.25 read as s, so the last event is of 2017-07-14."


def test_dates_that_are_written_as_numbers_are_doubted():
    said = []
    conform(frame(timestamp=[20_240_131, 20_240_201]), where="log", say=said.append)
    assert said[0].endswith(
        "read as s, so the last event is of 1970-08-23. Dates such as 20240131 are to be written as 2024-01-31."
    )


def test_dates_and_fractions():
    assert times([dt.date(2017, 7, 14)]) == times(["2017-07-14"]) == [1_499_990_400_000]
    assert times([1_500_000_000.25]) == [1_500_000_000_250]


def test_order_numbers_are_taken_as_seconds():
    assert times([0, 1, 2]) == [0, 1000, 2000]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a", None, "b"]}, r"^log: column item_id has 1 null \(empty\) value: row 2\. Correct or remove"),
        ({"item_id": [None] * 7}, r"item_id has 7 null \(empty\) values: row 1, row 2, row 3, row 4, row 5, \.\.\."),
        ({"item_id": ["a", "", " \t"]}, r"item_id has 2 null \(empty\) values: row 2, row 3"),
        (
            {"item_id": ["a", "b\nc", "\x00"]},
            r"item_id has 2 unprintable \(line breaks, zero bytes or byte order marks.*row 2 \('b\\nc'\)",
        ),
        ({"user_id": [3, -1]}, r"user_id has 1 negative \(-1 often marks a missing id.*: row 2 \(-1\)"),
        ({"user_id": ["3", "-1"]}, r"user_id has 1 negative .*: row 2 \(-1\)"),
        ({"user_id": [3.0, 1.5]}, r"user_id has 1 fractional value: row 2 \(1.5\)"),
        ({"user_id": [3.0, np.nan]}, r"user_id has 1 null \(empty\) value: row 2"),
        ({"user_id": [True]}, r"column user_id is Boolean; ids are whole numbers or text"),
        ({"timestamp": [5, None]}, r"timestamp has 1 null \(empty\) value: row 2"),
        ({"timestamp": [5, -3]}, r"timestamp has 1 negative \(before 1970\) value: row 2 \(-3\)"),
        ({"timestamp": ["5", "soon"]}, r"timestamp has 1 unparsable .*: row 2 \('soon'\)"),
        ({"timestamp": ["2020-01-01", "2020-13-01"]}, r"timestamp has 1 unparsable .*: row 2 \('2020-13-01'\)"),
        ({"timestamp": [1.0, np.inf]}, r"timestamp has 1 unparsable .*: row 2 \(inf\)"),
        ({"timestamp": [1.0, np.nan]}, r"timestamp has 1 null \(empty\) value: row 2"),
        ({"user_id": [2.0**53 + 2]}, r"user_id has 1 inexact \(its type cannot tell numbers of this size apart; write"),
        (
            {"timestamp": pl.Series([1.5e9], dtype=pl.Float32)},
            r"column timestamp is Float32, too coarse for such times; Float64 holds them",
        ),
        ({"timestamp": [True]}, r"column timestamp is Boolean; times are numbers, dates or text"),
        ({"rating": ["5", "good"]}, r"rating has 1 unparsable value: row 2 \('good'\)"),
        ({"rating": [5.0, np.inf, np.nan]}, r"rating has 2 unparsable values: row 2 \(inf\), row 3 \(nan\)"),
        ({"rating": [5.0, None]}, r"rating has 1 null \(empty\) value: row 2"),
        ({"rating": [True]}, r"column rating is Boolean; ratings are numbers"),
    ],
)
def test_bad_values_are_named_with_count_and_rows(columns, message):
    with pytest.raises(UserError, match=message):
        conform(frame(**columns), where="log")


def test_all_faults_at_once():
    with pytest.raises(UserError, match=r"item_id has .*timestamp has .*rating has"):
        conform(frame(item_id=[None], timestamp=[-1], rating=["x"]), where="log")


def test_bad_rows_are_skipped_counted_and_said():
    said = []
    log = frame(item_id=["a", None, "b", "c"], timestamp=["5", "6", "soon", "7"])
    kept = conform(log, where="log", bad_rows="skip", say=said.append).collect()
    assert kept["item_id"].to_list() == ["a", "c"]
    assert kept["timestamp"].to_list() == [5000, 7000]
    assert said[0] == (
        "log: 2 of 4 rows skipped (data.bad_rows: skip): column item_id has 1 null (empty) value: row 2; column "
        "timestamp has 1 unparsable (understood are numbers and text such as 2024-01-31 12:00:00) value: row 3 "
        "('soon')."
    )


def test_ids_are_numbers_where_those_that_are_left_are():
    """A header in the middle of a file is skipped by its time, and leaves no trace in the type of the ids."""
    log = frame(item_id=["7", "item_id", "-1", "8"], timestamp=["5", "timestamp", "6", "7"])
    said = []
    assert conform(log, where="log", bad_rows="skip", say=said.append).collect()["item_id"].to_list() == [7, 8]
    assert "log: 2 of 4 rows skipped" in said[0]
    assert "item_id has 1 negative (-1 often marks a missing id" in said[0]


def test_a_log_of_bad_rows_only():
    with pytest.raises(UserError, match=r"log: none of the 2 rows can be used: .*item_id has 2 null"):
        conform(frame(item_id=[None, None]), where="log", bad_rows="skip")


def test_a_wrong_column_cannot_be_skipped():
    with pytest.raises(UserError, match=r"column user_id is Boolean; .*Correct these columns, or name others"):
        conform(frame(user_id=[True, False]), where="log", bad_rows="skip")


def test_types_of_events_are_read_where_asked_for():
    log = frame(event=["view", "buy"])
    assert conform(log, where="log").collect().columns == ["user_id", "item_id"]
    assert conform(log, where="log", events=True).collect()["event"].to_list() == ["view", "buy"]
    assert conform(frame(event=[1, 2]), where="log", events=True).collect()["event"].to_list() == ["1", "2"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"kind": ["view"]},
            r"data.events asks .*no column event; got user_id, item_id, kind\. Name it by data.columns",
        ),
        ({"event": ["view", None]}, r"event has 1 null \(empty\) value: row 2"),
        ({"event": [1.5]}, r"column event is Float64; types of events are text or whole numbers"),
    ],
)
def test_types_that_are_not_there(columns, message):
    with pytest.raises(UserError, match=message):
        conform(frame(**columns), where="log", events=True)


def test_rows_of_a_file_that_hold_several_events():
    with pytest.raises(UserError, match=r"item_id has 2 null \(empty\) values: row 2, row 5"):
        conform(frame(item_id=[1, None, None], **{ROW: [0, 0, 3]}), where="log", first_row=2)


def test_rows_are_counted_from_the_first_data_row():
    with pytest.raises(UserError, match="row 2"):
        conform(frame(item_id=[None]), where="log.csv", first_row=2)


def test_unit_that_cannot_be():
    message = (
        r"timestamp has 1 too late \(after the year 2199, read as s; see data.unit\) value: row 1 \(1500000000000\)"
    )
    with pytest.raises(UserError, match=message):
        times([1_500_000_000_000], unit="s")


@pytest.mark.parametrize("wild", [2**62, 1_500_000_000_000_000, 10**11])
def test_a_wild_time_does_not_decide_the_unit(wild):
    """One time in microseconds among seconds is that row's fault; it does not turn the others into January 1970."""
    values = [1_500_000_000, 1_500_000_060, wild]
    with pytest.raises(UserError, match=rf"1 too late \(after the year 2199, read as s; .*: row 3 \({wild}\)"):
        times(values)
    assert times(values, bad_rows="skip") == [1_500_000_000_000, 1_500_000_060_000]


@pytest.mark.parametrize(
    ("dates", "shown"),
    [
        (pl.Series([2**62, -(2**62)]).cast(pl.Datetime("us")), ("4611686018427387", "-4611686018427388")),
        (pl.Series([2**62, -(2**62)]).cast(pl.Datetime("ms")), ("4611686018427387904", "-4611686018427387904")),
        (pl.Series([2**62, -1]).cast(pl.Datetime("us", "UTC")), ("4611686018427387", None)),
        (pl.Series([2**30, -1]).cast(pl.Date), ("92771293593600000", None)),
    ],
)
def test_dates_that_no_calendar_has(dates, shown):
    """They come as such from parquet; some can not even be printed."""
    with pytest.raises(UserError) as error:
        times(dates)
    late, early = (f"{number} ms since 1970" if number else "19" for number in shown)
    assert f"column timestamp has 1 too late (after the year 2199) value: row 1 ({late})" in str(error.value)
    assert f"column timestamp has 1 negative (before 1970) value: row 2 ({early}" in str(error.value)


def test_small_numbers_of_a_short_type_are_not_rounded():
    assert times(pl.Series([1, 16_777_215], dtype=pl.Float32)) == [1000, 16_777_215_000]


def test_dates_that_are_too_late():
    with pytest.raises(UserError, match=r"1 too late \(after the year 2199\) value: row 1 \('2999-01-01'\)"):
        times(["2999-01-01"])


def test_unknown_unit():
    with pytest.raises(UserError, match=r"data.unit: got 'hours', expected one of auto, s, ms, us, ns"):
        times([1], unit="hours")


def test_missing_columns_name_what_was_got():
    with pytest.raises(UserError, match=r"log: missing column item_id; got user_id, itemId.*item_id: itemId"):
        check_columns(["user_id", "itemId"], where="log")


def test_no_columns():
    with pytest.raises(UserError, match="missing columns user_id, item_id; got none"):
        conform(pl.LazyFrame(), where="log")


@pytest.mark.parametrize(
    ("word", "match"), [("user_id", "userId"), ("user_id", "USER-ID"), ("timestamp", "time_stamp")]
)
def test_close_matches(word, match):
    assert close_matches(word, ["price", match]) == [match]
