"""torch-rechub's HSTUModel: its windows, times and limits."""

from typing import Any

import pytest
import torch
from torch import nn

from persrec import plug
from persrec.errors import UserError
from tests.plug.hosts import LENGTH, RULE, random_ids, rechub, rechub_model

pytest.importorskip("torch_rechub", reason="torch-rechub is in the hosts environment only")


@pytest.mark.parametrize("padding", ["left", "right"])
def test_short_histories_give_the_hosts_logits_with_and_without_times(padding: str) -> None:
    """On windows of max_seq_len columns, padded as its trainer pads them, and seconds to the last event."""
    model = rechub(padding).eval()
    ids = torch.zeros(2, LENGTH, dtype=torch.int64)
    for row, count in enumerate((8, 3)):
        place = slice(LENGTH - count, LENGTH) if padding == "left" else slice(0, count)
        ids[row, place] = torch.arange(1, count + 1)
    there = ids > 0
    torch.testing.assert_close(model(ids)[there], model.host(ids)[there], atol=1e-5, rtol=1e-5)
    times = torch.arange(1, LENGTH + 1).expand(2, -1) * 3_600_000
    last = (times * there).amax(dim=1, keepdim=True)
    ago = (last - times) // 1000 * there
    torch.testing.assert_close(model(ids, times)[there], model.host(ids, ago)[there], atol=1e-5, rtol=1e-5)


def test_training_by_its_own_loss_lowers_it() -> None:
    torch.manual_seed(0)
    model = rechub(dropout=0.0)
    ids = random_ids(4, 20)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        logits = model(ids)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert model.compressor.tokens.grad is not None
    assert bool(model.compressor.tokens.grad.abs().sum() > 0)


def test_more_rows_than_the_host_takes_are_refused() -> None:
    """Memory grows by 2 rows per 5 events; 32 rows are full after some 15 segments, unless it is capped."""
    ids = torch.randint(1, 40, (1, 120))
    with pytest.raises(UserError, match=r"of them remembered, do not fit: .* at most 32 \(max_seq_len\).*`cap`"):
        rechub()(ids)
    assert plug.attach(rechub_model(), **RULE, cap=4)(ids).shape == (1, 120, 40)


def test_another_padding_is_refused() -> None:
    with pytest.raises(UserError, match='padding: got "both", expected "left" or "right"'):
        rechub("both")


@pytest.mark.parametrize("name", ["hstu_block", "position_embedding"])
def test_another_version_says_what_was_looked_for(name: str) -> None:
    host: Any = rechub_model()
    delattr(host, name)
    with pytest.raises(UserError, match=rf"HSTUModel has no attribute `{name}`.*known: torch-rechub 0.9; installed: t"):
        plug.attach(host, **RULE)
