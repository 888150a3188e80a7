import pytest

from persrec import datasets
from persrec.errors import UserError
from tests.datasets.real import real

ROWS = [(1, 1193, 978_300_760_000, 5.0), (2, 661, 978_302_109_000, 3.0)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratings.dat", "1::1193::5::978300760\n2::661::3::978302109\n"),
        ("u.data", "1\t1193\t5\t978300760\n2\t661\t3\t978302109\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\r\n1,1193,5.0,978300760\r\n2,661,3.0,978302109\r\n"),
    ],
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_each_form(tmp_path, name, text, as_folder):
    (tmp_path / name).write_bytes(text.encode())
    said = []
    frame = datasets.read("movielens", tmp_path if as_folder else tmp_path / name, say=said.append).collect()
    assert frame.columns == ["user_id", "item_id", "timestamp", "rating"]
    assert frame.rows() == ROWS
    assert "MovieLens in the form of" in said[0]


def test_latin_1_titles_beside_the_ratings_do_not_matter(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n")
    (tmp_path / "movies.dat").write_bytes("1::Misérables, Les (1995)::Drama\n".encode("latin-1"))
    assert datasets.read("movielens", tmp_path).collect().height == 1


def test_folder_without_ratings(tmp_path):
    (tmp_path / "ml-1m.zip").touch()
    with pytest.raises(UserError, match=r"has no ratings.dat or u.data or ratings.csv.*unpack the zip.*got ml-1m.zip"):
        datasets.read("movielens", tmp_path)


def test_other_text(tmp_path):
    (tmp_path / "ratings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"not MovieLens ratings: the first line is 'a,b'"):
        datasets.read("movielens", tmp_path)


def test_unparsable_rating_is_named_by_row(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::good::978302109\n1::662\n")
    with pytest.raises(
        UserError, match=r"rating has 1 null \(empty\) value: row 3.*1 unparsable value: row 2 \('good'\)"
    ):
        datasets.read("movielens", tmp_path)


def test_wrong_number_of_fields(tmp_path):
    (tmp_path / "u.data").write_text("1\t2\n")
    with pytest.raises(UserError, match=r"the first line has 2 columns .*expected 4 split by"):
        datasets.read("movielens", tmp_path)


@pytest.mark.parametrize(("name", "events"), [("ml-100k", 100_000), ("ml-latest-small", 100_836)])
def test_real(name, events):
    assert datasets.read("movielens", real(name)).collect().height == events
