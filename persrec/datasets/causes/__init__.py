"""A synthetic log in which every event has one hidden cause, and what could be known of the next one (`oracles`)."""

from persrec.datasets.causes.log import Events, draw, files, read, truth

__all__ = ["Events", "draw", "files", "read", "truth"]
