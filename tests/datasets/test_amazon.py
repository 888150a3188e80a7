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


def test_header(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id,rating,timestamp\n" + ROWS_2014)
    with pytest.raises(UserError, match=r"the first line is 'user_id,.*no header. Use source: table"):
        datasets.read("amazon", tmp_path / "a.csv")


def test_a_row_with_too_many_fields_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(ROWS_2014 + "A1,B,3.0,1355443200,9\n")
    with pytest.raises(UserError, match=r"row 3 has 5 fields, expected 4"):
        datasets.read("amazon", tmp_path / "a.csv")
