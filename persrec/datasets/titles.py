"""Titles for the items of the synthetic log, in words, so that a text model has something to read.

Two items of a place share its name, and two orders of a kind share theirs, so a title says what an item is, but not
what follows it: that is in the histories alone.
"""

import polars as pl

from persrec.datasets.synthetic import ORDERS, PLACES, item_names
from persrec.interactions.schema import ITEM

COLOURS = "red", "blue", "green", "yellow", "black", "white", "brown", "purple", "orange", "silver"
THINGS = "lamp", "chair", "bicycle", "umbrella", "guitar", "teapot", "mirror", "clock", "suitcase", "carpet"
NAMES = "Harbour Café", "Mountain Hut"
DRINKS = (
    "espresso", "lemonade", "hot chocolate", "ginger beer", "mint tea", "tomato juice", "iced water", "cider",
    "buttermilk", "mulled wine",
)  # fmt: skip
DISHES = (
    "onion soup", "apple pie", "grilled trout", "mushroom risotto", "cheese board", "potato salad", "beef stew",
    "pancakes", "spinach quiche", "fruit sorbet",
)  # fmt: skip


def titles() -> pl.DataFrame:
    """`item_id` and `title` of every item of the synthetic log."""
    browsing = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    entries = [f"a table at the {NAMES[place]}" for place in range(PLACES)]
    orders = [
        f"{kind[order]} at the {NAMES[place]}"
        for kind in (DRINKS, DISHES)
        for place in range(PLACES)
        for order in range(ORDERS)
    ]
    return pl.DataFrame({ITEM: item_names(), "title": browsing + entries + orders})
