"""Retrieval: the items nearest to a query, and what is excluded from or added to them."""
