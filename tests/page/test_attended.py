"""What tokens attend to: against one dense pass over events and tokens, and against the layers' own output."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import Batch, collate, evaluation_windows
from persrec.models.attention import position_bucket, time_bucket
from persrec.models.compressor import loop
from persrec.models.model import Model
from persrec.page.attended import attended, attention, can_look, shares
from persrec.prepared import Prepared
from tests.small import events, model_of, prepared_of

SEGMENT, RECENT, TOKENS = 6, 5, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared_of(tmp_path_factory.mktemp("log"), events())[1]


def model(tmp_path: Path, **changes: Any) -> Model:
    recipe, data = prepared_of(tmp_path, events(), **({"history": "compressed"} | changes))
    return model_of(recipe, data.items_count).double()


def batch_of(data: Prepared, ends: list[int]) -> Batch:
    """Users 0, 1, ... of whom the first `ends` events are known."""
    return collate(data, evaluation_windows(np.arange(len(ends)), np.array(ends), length=None), time="last")


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def dense(made: Model, batch: Batch, closed: int) -> list[Tensor]:
    """Shares (C, C) of each layer in one pass over a user's events with the tokens of each segment after it."""
    count = int(batch.events[0])
    order: list[tuple[str, int]] = []
    for segment in range(closed):
        order += [("event", segment * SEGMENT + place) for place in range(SEGMENT)]
        order += [("token", segment)] * TOKENS
    order += [("event", place) for place in range(closed * SEGMENT, count)]
    is_token = torch.tensor([kind == "token" for kind, _ in order])
    place = torch.tensor([at if kind == "event" else (at + 1) * SEGMENT - 1 for kind, at in order])
    segment = torch.clamp(place // SEGMENT, max=closed)
    items, times = made.items(batch.history.item[0]), batch.history.time[0]
    tokens = iter(list(made.compressor.tokens) * closed)
    x = torch.stack([next(tokens) if kind == "token" else items[at] for kind, at in order])
    time = times[place]
    earlier = torch.ones(len(order), len(order)).tril().bool()
    seen = earlier & ((segment[:, None] == segment[None]) | is_token[None])
    found = []
    for layer in made.backbone.stack:
        gate, value, query, key = F.silu(layer.inner(norm(x))).chunk(4, dim=-1)
        total, joined = torch.zeros(len(order), len(order), dtype=x.dtype), []
        heads = [part.chunk(layer.heads, dim=-1) for part in (query, key, value)]
        for head, (q, k, v) in enumerate(zip(*heads, strict=True)):
            v = torch.where(is_token[:, None], v * layer.token_gain[head], v)
            bias = layer.position_bias[head][position_bucket(place[:, None] - place[None], made.backbone.exact).long()]
            bias = bias + layer.time_bias[head][time_bucket(time[:, None] - time[None]).long()]
            weight = F.silu(q @ k.T + bias) / layer.divisor * seen
            total += weight.abs() * v.norm(dim=-1)[None]
            joined.append(weight @ v)
        found.append(total / total.sum(dim=1, keepdim=True))
        x = x + layer.outer(norm(torch.cat(joined, dim=-1)) * gate)
    return found


@pytest.mark.parametrize("layers", [2, 3])
@torch.no_grad()
def test_equal_to_one_dense_pass(tmp_path: Path, data: Prepared, layers: int) -> None:
    made = model(tmp_path, model={"layers": layers, "width": 8, "heads": 2, "dropout": 0.0})
    closed, count = 3, 3 * SEGMENT + RECENT + 2
    batch = batch_of(data, [count])
    found, expected = attended(made, batch), dense(made, batch, closed)
    width = SEGMENT + TOKENS
    for token in range(TOKENS):
        rows = [segment * width + SEGMENT + token for segment in range(closed)]
        written = [layer[row, row - SEGMENT - token : row - token] for layer in expected[:-1] for row in rows]
        np.testing.assert_allclose(found.written[0, token], torch.stack(written).mean(dim=0), atol=1e-9)
    query = torch.stack([layer[-1] for layer in expected[1:]]).mean(dim=0)
    read = [float(query[segment * width + SEGMENT : (segment + 1) * width].sum()) for segment in range(closed)]
    np.testing.assert_allclose(found.read[0], read[::-1], atol=1e-9)
    assert found.clear[0] == pytest.approx(float(query[closed * width :].sum()))


@torch.no_grad()
def test_the_weights_are_those_that_the_layers_use(tmp_path: Path, data: Prepared) -> None:
    """From weights and values alone comes the output of every layer, folds and reads, padding aside."""
    made = model(tmp_path)
    checked = []

    def check(layer: Any, given: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        weights, values = attention(layer, *given, keep=named.get("keep"))
        joined = (weights @ values).transpose(1, 2).flatten(2)
        gate = F.silu(layer.inner(norm(given[0]))).chunk(4, dim=-1)[0]
        torch.testing.assert_close(given[0] + layer.outer(norm(joined) * gate), output)
        checked.append(named.get("keep") is not None)

    hooks = [layer.register_forward_hook(check, with_kwargs=True) for layer in made.backbone.stack]
    batch = batch_of(data, [60, 45, 31, 12])
    loop(made.backbone, made.compressor, made.items, batch, made.rule, score=lambda hidden, late: None, together=1)
    for hook in hooks:
        hook.remove()
    assert checked == [True] * 2 * 9 + [False] * 2


def test_a_user_alone_and_among_others(tmp_path: Path, data: Prepared) -> None:
    made, ends = model(tmp_path), [60, 45, 31, 12]
    together = attended(made, batch_of(data, ends))
    for user, end in enumerate(ends):
        batch = batch_of(data, ends[: user + 1])
        one = Batch(batch.history.each(lambda field, row=user: field[row:]), *(field[user:] for field in batch[1:3]))
        alone = attended(made, one)
        np.testing.assert_allclose(together.written[user], alone.written[0], atol=1e-9)
        segments = (end - RECENT) // SEGMENT
        np.testing.assert_allclose(together.read[user, :segments], alone.read[0], atol=1e-9)
        assert np.isnan(together.read[user, segments:]).all()


def test_a_cap_ends_what_is_read(tmp_path: Path, data: Prepared) -> None:
    made = model(tmp_path, memory={"segment": SEGMENT, "recent": RECENT, "tokens": TOKENS, "cap": 2})
    assert attended(made, batch_of(data, [60])).read.shape == (1, 2)


def test_shares_by_hand() -> None:
    """Two heads, two columns: |1| * 5 + |-2| * 1 = 7 against |0| * 2 + |3| * 1 = 3; nothing at all stays nothing."""
    weights = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[-2.0, 3.0], [0.0, 0.0]]]])
    values = torch.tensor([[[[3.0, 4.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    torch.testing.assert_close(shares(weights, values), torch.tensor([[[0.7, 0.3], [0.0, 0.0]]]))


def test_only_a_memory_of_layers_is_understood(tmp_path: Path) -> None:
    assert can_look(model(tmp_path))
    assert not can_look(model(tmp_path, history="recent"))
