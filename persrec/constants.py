"""The one number that every part of persrec must agree on."""

PAD = 0
"""Index of no item: real items are 1..V, row 0 of an item table belongs to nobody and is never recommended."""
