"""Numbers that parts of persrec must agree on."""

PAD = 0
"""Index of no item: real items are 1..V, row 0 of an item table belongs to nobody and is never recommended."""

LARGEST_SCALE = 100.0
"""What a learned 1 / temperature may reach."""

LATEST_MS = 7_258_118_399_999
"""Ms since 1970, the end of the year 2199: no log has later events, and nobody is asked later."""
