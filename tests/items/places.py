"""A working folder with a log, an items table, a tiny text model and a recipe, on which whole fits run in seconds."""

from pathlib import Path

import numpy as np
import polars as pl

from persrec.interactions.schema import ITEM
from tests.items.models import WORDS, saved_model
from tests.small import events

RECIPE = """
name: texts
data: {source: table, path: log.csv}
history: compressed
items: {use: id+text, path: items.csv, encoder: model}
model: {layers: 2, width: 8, heads: 2, dropout: 0.1}
memory: {segment: 6, recent: 5, tokens: 2}
loss: {negatives: 8}
training: {epochs: 1, batch_events: 1000, warmup_steps: 3, patience: null, threads: 1}
evaluation: {k: [5, 10], length_buckets: [20, 50]}
"""


def made(folder: Path) -> Path:
    """Of 30 items one has no text and one is not in the table, which has another that is not in the log."""
    log = events(users=20)
    log.write_csv(folder / "log.csv")
    ids = sorted(log[ITEM].unique())
    words = np.random.default_rng(0).choice(WORDS, (len(ids), 3))
    titles = [" ".join(row[: 1 + number % 3]) for number, row in enumerate(words)]
    pl.DataFrame({ITEM: [*ids[:-1], "unknown"], "title": ["", *titles[1:]]}).write_csv(folder / "items.csv")
    saved_model(folder / "model")
    (folder / "texts.yaml").write_text(RECIPE)
    return folder
