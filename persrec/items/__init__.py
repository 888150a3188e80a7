"""Items beside their ids: the items table of a recipe, their texts, and what a text model makes of them."""
