"""A Recommender behind HTTP (extra `serve`)."""
