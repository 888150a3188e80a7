import polars as pl
import pytest

from persrec import datasets
from persrec.errors import UserError
from tests.datasets.real import real

CLICKS = pl.DataFrame(
    {"user_id": [5], "session_id": [1], "click_article_id": [77], "click_timestamp": [1_506_826_800_026]}
)


@pytest.mark.parametrize("name", ["clicks.parquet", "clicks.csv"])
def test_clicks(tmp_path, name):
    path = tmp_path / name
    CLICKS.write_parquet(path) if path.suffix == ".parquet" else CLICKS.write_csv(path)
    assert datasets.read("globo-news", tmp_path).collect().rows() == [(5, 77, 1_506_826_800_026)]


def test_other_columns(tmp_path):
    CLICKS.drop("click_article_id").write_parquet(tmp_path / "clicks.parquet")
    with pytest.raises(
        UserError, match=r"missing column click_article_id; got user_id, session_id.*publisher's columns"
    ):
        datasets.read("globo-news", tmp_path)


def test_real():
    frame = datasets.read("globo-news", real("globo-news")).collect()
    assert (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (2_988_181, 322_897, 46_033)
