import pytest

from persrec import datasets
from persrec.errors import UserError
from tests.datasets.real import real


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_order_only(tmp_path, separator):
    (tmp_path / "log.txt").write_text(f"1{separator}7\n1{separator}3\n2{separator}7\n")
    said = []
    frame = datasets.read("sasrec", tmp_path, say=said.append).collect()
    assert frame.columns == ["user_id", "item_id"]
    assert frame.rows() == [(1, 7), (1, 3), (2, 7)]
    assert "no timestamp column; events keep the order of the file" in said[0]


def test_three_columns(tmp_path):
    (tmp_path / "log.txt").write_text("1 7 9\n")
    with pytest.raises(UserError, match=r"the first line has 3 columns \('1 7 9'\), expected 2 split by ' '"):
        datasets.read("sasrec", tmp_path)


def test_two_candidates(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").touch()
    with pytest.raises(UserError, match=r"has several candidates \(a.txt, b.txt\); name one"):
        datasets.read("sasrec", tmp_path)


def test_empty(tmp_path):
    (tmp_path / "log.txt").write_text("\n")
    with pytest.raises(UserError, match=r"log.txt: the file is empty"):
        datasets.read("sasrec", tmp_path)


def test_missing_item(tmp_path):
    (tmp_path / "log.txt").write_text("1 7\n1\n")
    with pytest.raises(UserError, match=r"column item_id has 1 null \(empty\) value: row 2"):
        datasets.read("sasrec", tmp_path)


def test_real():
    frame = datasets.read("sasrec", real("ml-1m/ml-1m_sasrec.txt")).collect()
    assert (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (999_611, 6_040, 3_416)
