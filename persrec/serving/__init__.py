"""Serving: recommendations from a finished run."""
