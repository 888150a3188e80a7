"""Titles of the synthetic log: one for every item, and no two alike."""

from persrec.datasets.synthetic import item_names, synthetic
from persrec.datasets.titles import titles


def test_every_item_has_a_title_of_its_own() -> None:
    found = titles()
    assert found["item_id"].to_list() == item_names()
    assert found["title"].n_unique() == len(found)
    assert set(synthetic(users=20, events=40).collect()["item_id"]) <= set(found["item_id"])


def test_titles_say_what_an_item_is() -> None:
    found = dict(titles().iter_rows())
    assert found["browse-13"] == "blue umbrella"
    assert found["entry-1"] == "a table at the Mountain Hut"
    assert found["first-0-0"] == "espresso at the Harbour Café"
    assert found["second-1-9"] == "fruit sorbet at the Mountain Hut"
