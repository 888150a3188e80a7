import hashlib
import io
import socket
import zipfile

import pytest

from persrec.datasets import download
from persrec.datasets.catalogue import DataSet
from persrec.errors import UserError
from tests.datasets.server import serving

BODY = bytes(range(256)) * 4000  # a megabyte
RATINGS = "1::7::5::978300760\n1::8::4::978300761\n2::7::3::978300762\n"


@pytest.fixture
def server():
    with serving() as running:
        running.files["a.bin"] = BODY
        yield running


@pytest.fixture
def target(tmp_path):
    return tmp_path / "a.bin"


def known(server, **changes):
    """A data set in a zip, as GroupLens has them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ml-tiny/ratings.dat", RATINGS)
        archive.writestr("ml-tiny/movies.dat", "7::x::y\n")
        archive.writestr("ml-tiny/README", "read me")
    server.files["ml-tiny.zip"] = packed.getvalue()
    server.files["ml-tiny.zip.md5"] = f"MD5 (ml-tiny.zip) = {hashlib.md5(packed.getvalue()).hexdigest()}\n".encode()
    values = {"name": "ml-tiny", "about": "", "page": "https://where.it/is", "source": "movielens", "terms": "research"}
    values |= {"file": "ratings.dat", "users": 2, "items": 2, "events": 3, "url": server.url("ml-tiny.zip")}
    values |= {"inside": "ml-tiny", "members": ("ratings.dat", "movies.dat"), "checksum": server.url("ml-tiny.zip.md5")}
    return DataSet(**values | changes)


def test_a_file_comes_whole_and_progress_is_told(server, target):
    told = []
    download.fetch(server.url("a.bin"), target, progress=lambda there, total: told.append((there, total)))
    assert target.read_bytes() == BODY
    assert told[-1] == (len(BODY), len(BODY))
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_what_an_earlier_try_left_is_not_loaded_again(server, target):
    target.with_name("a.bin.part").write_bytes(BODY[:300_000])
    download.fetch(server.url("a.bin"), target)
    assert target.read_bytes() == BODY
    assert server.asked == ["bytes=300000-"]


def test_a_cut_connection_is_resumed(server, target):
    server.cuts = [300_000, 1000]
    said = []
    download.fetch(server.url("a.bin"), target, say=said.append)
    assert target.read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-", "bytes=301000-"]
    assert [sentence.partition(": ")[2] for sentence in said] == [
        "cut after 300,000 bytes, going on.",
        "cut after 301,000 bytes, going on.",
    ]


def test_a_server_without_ranges_sends_it_anew(server, target):
    server.ranges = False
    target.with_name("a.bin.part").write_bytes(b"something else")
    download.fetch(server.url("a.bin"), target)
    assert target.read_bytes() == BODY


def test_what_is_too_long_is_thrown_away(server, target):
    target.with_name("a.bin.part").write_bytes(BODY + b"more")
    download.fetch(server.url("a.bin"), target)
    assert target.read_bytes() == BODY


def test_a_server_that_gives_up_leaves_what_came(server, target):
    server.cuts = [1000, 0, 0, 0]
    message = r"a.bin: the connection was cut after 1,000 bytes .*repeat the command to go on from there"
    with pytest.raises(UserError, match=message):
        download.fetch(server.url("a.bin"), target)
    assert target.with_name("a.bin.part").read_bytes() == BODY[:1000]
    assert not target.exists()


def test_a_wrong_checksum_deletes_what_came(server, target):
    server.files["a.md5"] = b"0" * 32 + b"  a.bin\n"
    with pytest.raises(UserError, match=rf"the MD5 is {hashlib.md5(BODY).hexdigest()}, the publisher's is 0+; it was"):
        download.fetch(server.url("a.bin"), target, checksum=server.url("a.md5"))
    assert list(target.parent.iterdir()) == []


def test_a_checksum_that_is_none(server, target):
    server.files["a.md5"] = b"<html>sorry</html>"
    with pytest.raises(UserError, match=r"a.md5: got '<html>sorry</html>', expected the MD5 of the file"):
        download.fetch(server.url("a.bin"), target, checksum=server.url("a.md5"))


def test_an_absent_file(server, target):
    with pytest.raises(UserError, match=r"b.bin: the server answered 404 Not Found, expected the file"):
        download.fetch(server.url("b.bin"), target)


def test_no_network(target):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be reached \(.*refused\); is there a network\?"):
        download.fetch(f"http://127.0.0.1:{port}/a.bin", target)


def test_a_data_set_from_nothing(server, tmp_path):
    said = []
    path = download.get(known(server), tmp_path, say=said.append)
    assert path.read_text() == RATINGS
    assert sorted(file.name for file in path.parent.iterdir()) == ["movies.dat", "ratings.dat"]
    assert said[-1] == f"{path}: 2 users, 2 items, 3 events, as expected."


def test_a_data_set_that_is_there_is_only_counted(server, tmp_path):
    download.get(known(server), tmp_path)
    server.asked.clear()
    said = []
    path = download.get(known(server), tmp_path, say=said.append)
    assert said[0] == f"{path}: there already."
    assert server.asked == []


def test_other_counts_than_expected(server, tmp_path):
    message = r"ratings.dat: 2 users instead of 5, 3 events instead of 4: another edition, .*delete it and get it again"
    with pytest.raises(UserError, match=message):
        download.get(known(server, users=5, events=4), tmp_path)


def test_where_nobody_may_download(tmp_path):
    data = DataSet(
        name="news", about="", page="https://p.q", source="table", terms="account", file="a.csv", by_hand="ask there"
    )
    message = (
        rf"datasets get news: cannot be downloaded without asking its publisher: ask there, so that there is "
        rf"{tmp_path}/news/a.csv \(https://p.q; terms: account\)"
    )
    with pytest.raises(UserError, match=message):
        download.get(data, tmp_path)
    (tmp_path / "news").mkdir()
    (tmp_path / "news" / "a.csv").write_text("user_id,item_id\n1,2\n")
    assert download.get(data, tmp_path) == tmp_path / "news" / "a.csv"


def test_a_folder_of_files_that_somebody_put_there(tmp_path):
    data = DataSet(name="shop", about="", page="p", source="table", terms="", file="", by_hand="ask", events=1)
    (tmp_path / "shop").mkdir()
    with pytest.raises(UserError, match="datasets get shop: cannot be downloaded"):
        download.get(data, tmp_path)
    (tmp_path / "shop" / "a.csv").write_text("user_id,item_id\n1,2\n")
    assert download.get(data, tmp_path) == tmp_path / "shop"


def test_without_a_network_the_way_by_hand_is_said(server, tmp_path):
    message = r"404 Not Found.*\nBy hand: download http.*/gone.zip, so that there is .*/ml-tiny/ratings.dat"
    with pytest.raises(UserError, match=message):
        download.get(known(server, url=server.url("gone.zip")), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"members": ("tags.dat",)}, "no item named 'ml-tiny/tags.dat'"), ({"inside": "x"}, "no item named 'x/ratings")],
)
def test_a_zip_without_the_file(server, tmp_path, change, message):
    with pytest.raises(UserError, match=rf"ml-tiny.zip: cannot be unpacked \(.*{message}.*delete it and get it again"):
        download.get(known(server, **change), tmp_path)


def test_what_is_no_zip(server, tmp_path):
    server.files["page"] = b"<html>log in first</html>"
    with pytest.raises(UserError, match=r"page: cannot be unpacked \(File is not a zip file\)"):
        download.get(known(server, url=server.url("page"), checksum=None), tmp_path)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/ml-tiny: cannot be written \(Not a directory\); make room or use --folder"
    ):
        download.get(known(server), tmp_path / "file")
