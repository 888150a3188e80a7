"""Texts of a log's items: which text an item gets, what is counted, and what a template may be."""

import polars as pl
import pytest

from persrec.errors import UserError
from persrec.items.catalogue import catalogue

TABLE = pl.DataFrame(
    {
        "item_id": ["7", "8", "9", "9", "9", "11", "12", None, None],
        "title": ["Lamp", None, "?", "Cup", "Cup", "Red \n chair", None, "Bowl", "Vase"],
        "plot": ["Shines", None, None, None, None, None, "Of a table", None, None],
    },
    schema={"item_id": pl.String, "title": pl.String, "plot": pl.String},
)


def test_texts_in_the_order_of_the_log_and_what_is_counted() -> None:
    found = catalogue(TABLE, pl.Series([11, 9, 8, 7, 5]), "{title}. {plot}", where="items.csv")
    assert found.texts == ["Red chair.", "Cup.", "", "Lamp. Shines", ""]
    assert found.counts == {
        "items": 5,
        "without a row in the items table": 1,
        "without a text": 1,
        "ids in several rows": 1,
        "of them with different texts": 1,
        "items of the table without events": 1,
        "rows of the table without an id": 2,
    }
    assert str(found) == (
        "5 items; 1 without a row in the items table, 1 without a text, 1 ids in several rows, 1 of them with "
        "different texts, 1 items of the table without events, 2 rows of the table without an id."
    )


def test_a_field_that_is_absent_leaves_nothing_in_front() -> None:
    found = catalogue(TABLE, pl.Series(["12"]), "{title} - {plot}", where="items.csv")
    assert found.texts == ["Of a table"]
    assert str(catalogue(TABLE, pl.Series(["7"]), "{title}", where="")).startswith("1 items; 1 ids in several rows")


def test_what_is_nothing_but_signs_is_no_text() -> None:
    table = pl.DataFrame(
        {"item_id": ["1", "2", "2", "3"], "title": ["-", "-", "Cup", None], "plot": [None] * 3 + ["Of"]}
    )
    found = catalogue(table, pl.Series(["1", "2", "3"]), "{title}. {plot}", where="items.csv")
    assert found.texts == ["", "Cup.", "Of"]
    assert found.counts["without a text"] == 1


def test_braces_in_a_value_are_text() -> None:
    table = pl.DataFrame({"item_id": ["1"], "title": ["{plot}"], "plot": ["secret"]})
    assert catalogue(table, pl.Series(["1"]), "{title}", where="").texts == ["{plot}"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"got '{titel}', but items.csv has no field 'titel' \(did you mean title\?\); got item_id, title"),
        ("title", "items.template: got 'title', expected text with fields of the items table, as {title}"),
        ("{10}", "items.template: got '.10}', expected .*; fields without a name get one by items.columns"),
        ("{title", "items.template: got '{title': expected '}' before end of string"),
        ("{price:.2f}", "items.template: got '{price:.2f}', which says how to write price; expected {price} alone"),
        ("{title!r}", "items.template: got '{title!r}', which says how to write title; expected {title} alone"),
    ],
)  # fmt: skip
def test_what_is_no_template(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        catalogue(TABLE, pl.Series(["7"]), template, where="items.csv")


def test_a_table_of_other_items() -> None:
    message = "items.csv: has no item of the log: its item_id are such as '7', those of the log such as 'x'; give"
    with pytest.raises(UserError, match=message):
        catalogue(TABLE, pl.Series(["x"]), "{title}", where="items.csv")
