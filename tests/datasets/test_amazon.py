import gzip
import json

import pytest

from persrec import datasets
from persrec.errors import UserError

ROWS_2014 = "A39HTATAQ9V7YF,0205616461,5.0,1369699200\nA3JM6GV9MNOF9X,B0000530HU,3.0,1355443200\n"
ROWS_2018 = "0205616461,A39HTATAQ9V7YF,5.0,1369699200\nB0000530HU,A3JM6GV9MNOF9X,3.0,1355443200\n"


@pytest.mark.parametrize(("text", "year"), [(ROWS_2014, "2014"), (ROWS_2018, "2018")])
def test_order_of_user_and_item_is_seen_and_said(tmp_path, text, year):
    (tmp_path / "Beauty.csv").write_text(text)
    said = []
    frame = datasets.read("amazon", tmp_path, say=said.append).collect()
    assert frame.rows()[0] == ("A39HTATAQ9V7YF", "0205616461", 1_369_699_200_000, 5.0)
    assert f"form of {year}" in said[0]


def test_columns_decide(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,5.0,1369699200\n")
    frame = datasets.read("amazon", tmp_path / "a.csv", columns={"user_id": "2", "item_id": "1"}).collect()
    assert frame.rows() == [(2, 1, 1_369_699_200_000, 5.0)]


def test_undecided(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,5.0,1369699200\n")
    with pytest.raises(UserError, match=r"cannot tell users from items: 0% of field 1 and 0% .*Set data.columns"):
        datasets.read("amazon", tmp_path / "a.csv")


def test_wrong_columns(tmp_path):
    (tmp_path / "a.csv").write_text(ROWS_2014)
    with pytest.raises(UserError, match=r"data.columns: got .*'reviewer'.*expected .*2014.*2018"):
        datasets.read("amazon", tmp_path / "a.csv", columns={"user_id": "reviewer"})


def test_json_that_has_no_event_per_line(tmp_path):
    (tmp_path / "log.json").write_text('[{"user_id": 1, "item_id": 2}, {"user_id": 1, "item_id": 3}]')
    with pytest.raises(UserError, match=r"is JSON, but not of one event per line.*Write one object per line and call"):
        datasets.read("amazon", tmp_path / "log.json")


def test_header(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id,rating,timestamp\n" + ROWS_2014)
    with pytest.raises(UserError, match=r"the first line is 'user_id,.*no header. Use source: table"):
        datasets.read("amazon", tmp_path / "a.csv")


def test_a_row_with_too_many_fields_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(ROWS_2014 + "A1,B,3.0,1355443200,9\n")
    with pytest.raises(UserError, match=r"row 3 has 5 fields, expected 4"):
        datasets.read("amazon", tmp_path / "a.csv")


REVIEWS = {
    "2014": {"reviewerID": "A2", "asin": "0000013714", "helpful": [2, 3], "overall": 5.0, "unixReviewTime": 1369699200},
    "2018": {"overall": 5.0, "style": {"Size:": " XL"}, "reviewerID": "A2", "asin": "0000013714",
             "reviewText": "good \"quotes\"", "unixReviewTime": 1369699200},
    "2023": {"rating": 5.0, "text": "x", "images": [{"small": "u"}], "asin": "0000013714-blue",
             "parent_asin": "0000013714", "user_id": "A2", "timestamp": 1369699200000, "verified_purchase": True},
}  # fmt: skip


@pytest.mark.parametrize("year", REVIEWS)
@pytest.mark.parametrize("packed", [True, False])
def test_reviews(tmp_path, year, packed):
    """A second review lacks what is optional; metadata beside the reviews does not matter."""
    short = {key: value for key, value in REVIEWS[year].items() if key not in ("style", "helpful", "images", "text")}
    text = "".join(json.dumps(row) + "\n" for row in (REVIEWS[year], short)).encode()
    path = tmp_path / f"Beauty.json{'.gz' * packed}"
    path.write_bytes(gzip.compress(text) if packed else text)
    (tmp_path / f"meta_{path.name}").write_bytes(b"{")
    said = []
    frame = datasets.read("amazon", tmp_path, say=said.append).collect()
    assert frame.rows() == [("A2", "0000013714", 1_369_699_200_000, 5.0)] * 2
    assert f"form of {'2023' if year == '2023' else '2014 and 2018'}" in said[0]


@pytest.mark.parametrize("more", ["", ",history"])
@pytest.mark.parametrize("packed", [True, False])
def test_ratings_of_2023(tmp_path, more, packed):
    text = f"user_id,parent_asin,rating,timestamp{more}\nAGK,B081TJ8YS3,4.0,1588615855070{more}\n".encode()
    path = tmp_path / f"All_Beauty.csv{'.gz' * packed}"
    path.write_bytes(gzip.compress(text) if packed else text)
    assert datasets.read("amazon", tmp_path).collect().rows() == [("AGK", "B081TJ8YS3", 1_588_615_855_070, 4.0)]


def test_a_header_of_2023_that_names_a_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,parent_asin,rating,timestamp,rating\nA,B,1,1588615855070,5\n")
    with pytest.raises(UserError, match=r"a.csv: the header has rating more than once \(columns 3 and 5\); rename"):
        datasets.read("amazon", tmp_path)


def test_metadata_are_no_reviews(tmp_path):
    (tmp_path / "meta_Beauty.jsonl").write_text('{"parent_asin": "B081TJ8YS3", "title": "Soap"}\n')
    with pytest.raises(UserError, match=r"missing columns user_id, rating, timestamp; got parent_asin, title"):
        datasets.read("amazon", tmp_path / "meta_Beauty.jsonl")


def test_a_review_that_is_cut_off_is_named(tmp_path):
    line = json.dumps(REVIEWS["2023"])
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line[:40]}")
    with pytest.raises(UserError, match=r"a.jsonl: cannot be read: row 2 is not JSON"):
        datasets.read("amazon", tmp_path)
