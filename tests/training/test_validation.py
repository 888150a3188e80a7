"""Ranks while a model is trained: by hand, with ties, several targets of a query, and scores that are not numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from persrec.batches import collate, evaluation_windows
from persrec.training.validation import rank
from tests.small import events, model_of, prepared_of


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_ranks_by_hand(tmp_path: Path, several: bool, broken: bool) -> None:
    recipe, data = prepared_of(tmp_path, events(users=12))
    model = model_of(recipe, data.items_count)
    with torch.no_grad():
        model.items.table[5:9] = model.items.table[5]  # ties
        if broken:
            model.items.table[20] = torch.nan
    users = np.arange(8)
    batch = collate(data, evaluation_windows(users, np.full(8, 3), length=None), time=recipe.time)
    pairs = [(user, 1 + (user + 7 * number) % 12) for user in range(8) for number in range(1 + several * user)]
    seen = [(user, item) for user in range(8) for item in (2, 6, 11, 20 + user)]
    targets, excluded = (torch.tensor(some).T for some in (pairs, seen))
    with torch.no_grad():
        found = rank(model, batch, targets, excluded)
        scores = model.read_out(batch).query @ model.vectors().T
    for (user, item), got in zip(pairs, found.tolist(), strict=True):
        own = scores[user, item].item()
        if np.isnan(own):
            assert got > data.items_count
            continue
        others = [scores[user, other].item() for other in range(1, data.items_count + 1)
                  if other != item and (user, other) not in seen]  # fmt: skip
        above = sum(not other <= own for other in others)
        assert got == 1 + above + 0.5 * sum(other == own for other in others), (user, item)
