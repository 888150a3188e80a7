from datetime import datetime

import polars as pl
import pytest

from persrec import datasets
from persrec.errors import UserError
from tests.datasets.real import real


def day(number, second=0):
    return datetime(2023, 5, number, 12, 0, second)


def ms(number, second=0):
    return 1_682_942_400_000 + (number - 1) * 86_400_000 + second * 1000


def history(rows):
    columns = {"user_id": pl.UInt32, "impression_time_fixed": pl.List(pl.Datetime("us"))}
    columns |= {"article_id_fixed": pl.List(pl.Int32), "read_time_fixed": pl.List(pl.Float32)}
    return pl.DataFrame([(*row, [1.0] * len(row[1])) for row in rows], schema=columns, orient="row")


def behaviors(rows):
    columns = {"user_id": pl.UInt32, "impression_time": pl.Datetime("us"), "article_ids_clicked": pl.List(pl.Int32)}
    return pl.DataFrame(rows, schema=columns, orient="row")


@pytest.fixture
def folder(tmp_path):
    """Training week: day 8; validation week: day 15. User 2 is in the training part only, user 3 in behaviours only."""
    for part in ("train", "validation"):
        (tmp_path / part).mkdir()
    early = [(1, [day(1), day(2)], [10, 11]), (2, [day(3)], [12])]
    history(early).write_parquet(tmp_path / "train" / "history.parquet")
    shown = [(1, day(8), [13]), (2, day(8), [14, 15]), (2, day(9), [])]
    behaviors(shown).write_parquet(tmp_path / "train" / "behaviors.parquet")
    history([(1, [day(2), day(8, 5)], [11, 13])]).write_parquet(tmp_path / "validation" / "history.parquet")
    later = [(1, day(15), [16]), (3, day(15), [16])]
    behaviors(later).write_parquet(tmp_path / "validation" / "behaviors.parquet")
    return tmp_path


def test_histories_alone(folder):
    frame = datasets.read("ebnerd", folder / "train" / "history.parquet").collect()
    assert frame.rows() == [(1, 10, ms(1)), (1, 11, ms(2)), (2, 12, ms(3))]


def test_behaviours_alone(folder):
    frame = datasets.read("ebnerd", folder / "train" / "behaviors.parquet").collect()
    assert frame.rows() == [(1, 13, ms(8)), (2, 14, ms(8)), (2, 15, ms(8))]


def test_a_folder_counts_every_click_once(folder):
    """Event (1, 11) stands in two histories; user 1's click on 13 in behaviours of day 8 and the later history."""
    said = []
    frame = datasets.read("ebnerd", folder, say=said.append).collect()
    assert f"{folder}: 1 of 5 clicks in behaviours are left out: they are not later than all of" in " ".join(said)
    assert sorted(frame.rows()) == [
        (1, 10, ms(1)),
        (1, 11, ms(2)),
        (1, 13, ms(8, 5)),
        (1, 16, ms(15)),
        (2, 12, ms(3)),
        (2, 14, ms(8)),
        (2, 15, ms(8)),
        (3, 16, ms(15)),
    ]
    assert len(datasets.files("ebnerd", folder)) == 4


def test_lists_of_different_lengths(tmp_path):
    rows = [(1, [day(1)], [10, 11])]
    history(rows).write_parquet(tmp_path / "history.parquet")
    with pytest.raises(UserError, match=r"history.parquet: row 1 has 2 entries of item_id and 1 of timestamp"):
        datasets.read("ebnerd", tmp_path)


def test_articles_are_no_clicks(tmp_path):
    pl.DataFrame({"article_id": [1], "title": ["x"]}).write_parquet(tmp_path / "articles.parquet")
    with pytest.raises(
        UserError, match=r"missing columns user_id, article_ids_clicked, impression_time; got article_id"
    ):
        datasets.read("ebnerd", tmp_path / "articles.parquet")
    with pytest.raises(UserError, match=r"has no history.parquet, expected EB-NeRD \(unpack the zip first\)"):
        datasets.read("ebnerd", tmp_path)


def test_real():
    assert datasets.read("ebnerd", real("ebnerd")).collect().height > 0
