import re
from pathlib import Path
from urllib.parse import urlparse

import pytest

from persrec import api
from persrec.datasets import SOURCES, catalogue, download
from persrec.datasets.catalogue import DATA_SETS
from persrec.errors import UserError
from persrec.recipe.recipe import load
from tests.datasets.real import FOLDER, real


def test_names_are_known_once_and_sources_exist():
    assert len({data.name for data in DATA_SETS}) == len(DATA_SETS)
    assert {data.source for data in DATA_SETS} <= set(SOURCES)


@pytest.mark.parametrize("data", DATA_SETS, ids=lambda data: data.name)
def test_each_can_be_had_or_says_how(data, tmp_path):
    assert (data.url is None) == bool(data.by_hand)
    assert data.terms
    assert urlparse(data.page).scheme == "https"
    assert str(data.path(tmp_path)) in data.advice(tmp_path)
    assert not data.members or data.file in data.members


def test_sizes():
    assert catalogue.find("ml-100k").size == "943 users, 1,682 items, 100,000 events"
    assert catalogue.find("merrec").size == "counts not stated"


def test_an_unknown_name():
    with pytest.raises(UserError, match=r"datasets get ml-1n: unknown; did you mean ml-1m.*`persrec datasets` lists"):
        catalogue.find("ml-1n")


def test_the_folder_of_all(monkeypatch):
    monkeypatch.delenv("PERSREC_DATASETS", raising=False)
    assert str(catalogue.root()) == "data/raw"
    monkeypatch.setenv("PERSREC_DATASETS", "/some/where")
    assert str(catalogue.root()) == "/some/where"


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m-sasrec", "ml-latest-small", "online-retail", "amazon-games"])
def test_real_counts(name):
    """What is said of a data set holds for the files that are here."""
    data = catalogue.find(name)
    real(str(data.path(FOLDER).relative_to(FOLDER)))
    assert download.get(data, FOLDER).exists()


@pytest.mark.parametrize(
    ("recipe", "way"),
    [
        ("ml-1m", "`persrec datasets get ml-1m-sasrec` gets it."),
        (
            "ml-1m-time",
            "`persrec datasets get ml-1m` gets the log as it was published; read that by --set 'data={source: ",
        ),
        ("amazon-beauty", "`persrec datasets get amazon-beauty` gets the log as it was published; read that by --set "),
        ("amazon-games-text", "It comes from {page}: make it as UniSRec and its followers do"),
        ("globo-news", "It comes from {page}: download it there and join its hourly csv files"),
        ("online-retail", "It comes from {page}: download the Excel sheet there"),
    ],
)
def test_a_recipe_whose_data_are_not_there_says_how_to_come_by_them(recipe, way, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSREC_DATASETS", str(tmp_path))
    way = way.format(page=catalogue.find(recipe.removesuffix("-text")).page) if "{page}" in way else way
    with pytest.raises(UserError, match=re.escape(f"does not exist (looked from {Path.cwd()}). {way}")) as found:
        api.prepare(load(recipe))
    assert re.search(r"If you have it, set PERSREC_DATASETS to the folder that holds [\w-]+/\.$", str(found.value))


def test_the_log_as_it_was_published_is_read_by_what_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSREC_DATASETS", str(tmp_path))
    for name in ("ml-1m-time", "amazon-sports"):
        with pytest.raises(UserError) as found:
            api.prepare(load(name))
        (change,) = re.findall(r"--set '(.*)'", str(found.value))
        path = Path(str(load(name, [change]).data.path))
        assert catalogue.where_from(path) in {f" `persrec datasets get {each}` gets it." for each in ("ml-1m", name)}
