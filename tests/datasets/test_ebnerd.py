from datetime import datetime

import polars as pl
import pytest

from persrec import datasets
from persrec.errors import UserError
from persrec.interactions.log import load
from persrec.recipe.sections import Data
from tests.datasets.real import real


def day(number, second=0):
    return datetime(2023, 5, number, 12, 0, second)


def ms(number, second=0):
    return 1_682_942_400_000 + (number - 1) * 86_400_000 + second * 1000


def history(rows):
    columns = {"user_id": pl.UInt32, "impression_time_fixed": pl.List(pl.Datetime("us"))}
    columns |= {"article_id_fixed": pl.List(pl.Int32), "read_time_fixed": pl.List(pl.Float32)}
    return pl.DataFrame([(*row, [float(item) for item in row[2]]) for row in rows], schema=columns, orient="row")


def behaviors(rows):
    """With the time that the page itself was read, of which nothing may come through, and that of the next one."""
    columns = {"user_id": pl.UInt32, "impression_time": pl.Datetime("us"), "article_ids_clicked": pl.List(pl.Int32)}
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    return frame.with_columns(read_time=pl.lit(99.0), next_read_time=pl.Series([20.0, 30.0, 40.0][: len(rows)]))


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


def test_dwell_is_the_time_an_article_was_read(folder):
    """Of a history its own; of behaviours that of the next page. A click in several histories counts once."""
    path = folder / "train" / "behaviors.parquet"
    behaviors([(1, day(8), [13]), (2, day(8), [14]), (2, day(9), [])]).write_parquet(path)
    frame = datasets.read("ebnerd", folder, keep=["dwell"]).collect()
    assert frame.schema["dwell"] == pl.Float32
    assert sorted(frame.rows()) == [
        (1, 10, ms(1), 10.0),
        (1, 11, ms(2), 11.0),
        (1, 13, ms(8, 5), 13.0),
        (1, 16, ms(15), 20.0),
        (2, 12, ms(3), 12.0),
        (2, 14, ms(8), 30.0),
        (3, 16, ms(15), 30.0),
    ]


def test_a_page_with_several_clicks_has_no_read_time_for_them(folder):
    path = folder / "train" / "behaviors.parquet"
    said = []
    with pytest.raises(UserError, match=r"behaviors.parquet: column dwell has 2 null \(empty\) values: row 2, row 2"):
        datasets.read("ebnerd", path, keep=["dwell"])
    frame = datasets.read("ebnerd", path, keep=["dwell"], bad_rows="skip", say=said.append).collect()
    assert frame.rows() == [(1, 13, ms(8), 20.0)]
    assert "1 pages with several clicks, whose next_read_time is of an unknown one of them" in said[0]


def test_dwell_of_a_recipe_is_prepared(folder):
    section = Data(source="ebnerd", path=str(folder / "train" / "history.parquet"), keep=("dwell",)).model_dump()
    assert load(section).columns["dwells"].tolist() == [10.0, 11.0, 12.0]


def test_nothing_else_is_kept(folder):
    with pytest.raises(UserError, match=r"data.keep: got weight, expected dwell or nothing: EB-NeRD has no weight"):
        datasets.read("ebnerd", folder, keep=["weight"])


def test_without_read_times(folder):
    path = folder / "train" / "history.parquet"
    pl.read_parquet(path).drop("read_time_fixed").write_parquet(path)
    assert datasets.read("ebnerd", path).collect().height == 3
    with pytest.raises(UserError, match=r"history.parquet: missing column read_time_fixed; got user_id, impression"):
        datasets.read("ebnerd", path, keep=["dwell"])


def test_faults_name_the_file_and_its_row(folder):
    path = folder / "validation" / "behaviors.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(pl.Series("impression_time", [day(15), None])).write_parquet(path)
    with pytest.raises(UserError, match=r"validation/behaviors.parquet: column timestamp has 1 null .*: row 2"):
        datasets.read("ebnerd", folder)
    frame.with_columns(article_ids_clicked=pl.lit(5.5)).write_parquet(path)
    with pytest.raises(
        UserError, match=r"article_ids_clicked is Float64, expected an article per row or a list of them"
    ):
        datasets.read("ebnerd", folder)


def test_behaviours_with_a_click_per_row(folder):
    path = folder / "train" / "behaviors.parquet"
    frame = pl.DataFrame({"user_id": [1, 1, 2], "impression_time": [day(8), day(9), day(9)]})
    frame.with_columns(article_ids_clicked=pl.Series([13, None, 14])).write_parquet(path)
    assert datasets.read("ebnerd", path).collect().rows() == [(1, 13, ms(8)), (2, 14, ms(9))]


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
