"""What tokens attend to: against one dense pass over events and tokens, and against the layers' own output."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import Batch, collate, evaluation_windows
from persrec.evaluation.intervals import Interval
from persrec.models.attention import position_bucket, time_bucket
from persrec.models.compressor import loop
from persrec.models.model import Model
from persrec.models.softmax import SASRecLayer
from persrec.page import chapters, figures
from persrec.page.attended import attended, attention, shares, why_not
from persrec.page.chapters import Material
from persrec.page.closeup import Closeup
from persrec.page.layout import Gallery
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
    tokens = iter([begun for start in range(closed) for begun in first_rows(made, items[start * SEGMENT :])])
    x = torch.stack([next(tokens) if kind == "token" else items[at] for kind, at in order])
    time = times[place]
    earlier = torch.ones(len(order), len(order)).tril().bool()
    seen = earlier & ((segment[:, None] == segment[None]) | is_token[None])
    found = []
    for layer in made.backbone.stack:
        if isinstance(layer, SASRecLayer):
            x, weights, total = dense_softmax(layer, x, place, time, seen)
            np.testing.assert_allclose(weights.sum(dim=-1), 1.0, atol=1e-12)
            found.append(total / total.sum(dim=1, keepdim=True))
            continue
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


def first_rows(made: Model, events: Tensor) -> list[Tensor]:
    """What layer 1 is given at the tokens of a segment that begins the events: with means, those of each half too."""
    half = SEGMENT // TOKENS
    means = [events[token * half : (token + 1) * half].mean(dim=0) for token in range(TOKENS)]
    return [token + made.compressor.means * mean for token, mean in zip(made.compressor.tokens, means, strict=True)]


def dense_softmax(
    layer: SASRecLayer, x: Tensor, place: Tensor, time: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (C, D) after a layer, its weights (H, C, C), and the lengths of what columns add to rows (C, C)."""
    inner = layer.attention
    query, key, value = (part.unflatten(-1, (inner.heads, -1)) for part in inner.inner(norm(x)).chunk(3, dim=-1))
    scores = torch.einsum("ihe,jhe->hij", query, key) / query.shape[-1] ** 0.5
    exact = inner.position_bias.shape[1] - 32
    scores = scores + inner.position_bias[:, position_bucket(place[:, None] - place[None], exact).long()]
    scores = scores + inner.time_bias[:, time_bucket(time[:, None] - time[None]).long()]
    weights = torch.where(seen, scores.exp(), 0.0)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    x = x + inner.outer(torch.einsum("hij,jhe->ihe", weights, value).flatten(1))
    return (
        x + layer.outer(F.relu(layer.inner(norm(x)))),
        weights,
        torch.einsum("hij,jh->ij", weights, value.norm(dim=-1)),
    )


@pytest.mark.parametrize("kind", ["hstu", "sasrec"])
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("begin", ["learned", "means"])
@torch.no_grad()
def test_equal_to_one_dense_pass(tmp_path: Path, data: Prepared, begin: str, layers: int, kind: str) -> None:
    changes = {"kind": kind, "layers": layers, "width": 8, "heads": 2, "dropout": 0.0}
    memory = {"segment": SEGMENT, "recent": RECENT, "tokens": TOKENS, "begin": begin}
    made = model(tmp_path, model=changes, memory=memory)
    closed, count = 3, 3 * SEGMENT + RECENT + 2
    batch = batch_of(data, [count])
    found, expected = attended(made, batch), dense(made, batch, closed)
    width = SEGMENT + TOKENS
    for token in range(TOKENS):
        rows = [segment * width + SEGMENT + token for segment in range(closed)]
        written = [layer[row, row - SEGMENT - token : row - token] for layer in expected[:-1] for row in rows]
        np.testing.assert_allclose(found.written[0, token], torch.stack(written).mean(dim=0), atol=1e-9)
    own = expected if begin == "means" else expected[1:]  # layers whose memory differs from user to user
    query = torch.stack([layer[-1] for layer in own]).mean(dim=0)
    read = [float(query[segment * width + SEGMENT : (segment + 1) * width].sum()) for segment in range(closed)]
    np.testing.assert_allclose(found.read[0], read[::-1], atol=1e-9)
    assert found.means == (begin == "means")
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


@pytest.mark.parametrize("kind", ["sasrec", "ligr"])
@torch.no_grad()
def test_weights_of_softmax_layers_add_up_to_one_and_are_those_that_they_use(
    tmp_path: Path, data: Prepared, kind: str
) -> None:
    made = model(tmp_path, model={"kind": kind, "layers": 2, "width": 8, "heads": 2})
    checked = 0

    def check(layer: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal checked
        x, remembered, blocks = given
        weights, values = attention(layer, *given, keep=named.get("keep"))
        seen = torch.zeros(len(x), x.shape[1], weights.shape[-1], dtype=torch.bool)
        for block in blocks:
            seen[:, block.rows, : block.columns] = block.visible
        assert not weights[~seen[:, None].expand_as(weights)].any()
        torch.testing.assert_close(weights.sum(dim=-1), seen.any(dim=-1)[:, None].double().expand(weights.shape[:3]))
        joined = (weights @ values).transpose(1, 2).flatten(2)
        old = None if remembered is None else norm(remembered)
        torch.testing.assert_close(layer.attention.outer(joined), layer.attention(norm(x), old, blocks, **named))
        checked += 1

    hooks = [layer.register_forward_pre_hook(check, with_kwargs=True) for layer in made.backbone.stack]
    batch = batch_of(data, [60, 45, 31, 12])
    loop(made.backbone, made.compressor, made.items, batch, made.rule, score=lambda hidden, late: None, together=1)
    for hook in hooks:
        hook.remove()
    assert checked == 2 * 10


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


def dense_recurrent(made: Model, batch: Batch, closed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a user: shares of a segment's events in the tokens (G, K, S) and of old rows (G, K), and those of the rows in
    the query (K,); fold after fold, over all rows at once."""
    items, times, count = made.items(batch.history.item[0]), batch.history.time[0], int(batch.events[0])
    slots: Tensor = items[:0]
    written, carried = [], []
    for fold in range(closed + 1):
        events = list(range(fold * SEGMENT, (fold + 1) * SEGMENT if fold < closed else count))
        tokens = TOKENS * (fold < closed)
        place = torch.tensor([fold * SEGMENT - 1] * len(slots) + events + [events[-1]] * tokens)
        begun = made.compressor.tokens[:tokens] + (F.normalize(slots, dim=-1) if len(slots) and tokens else 0)
        x, shares_of = torch.cat([slots, items[events], begun]), []
        seen = torch.ones(len(x), len(x)).tril().bool()
        for layer in made.backbone.stack:
            x, _, total = dense_softmax(layer, x, place, times[place], seen)
            shares_of.append(total / total.sum(dim=1, keepdim=True))
        mean = torch.stack(shares_of).mean(dim=0)
        old = len(slots)
        if fold == closed:
            return np.stack(written), np.stack(carried), mean[-1, :old].numpy()
        written.append(mean[-TOKENS:, old : old + SEGMENT].numpy())
        carried.append(mean[-TOKENS:, :old].sum(dim=1).numpy())
        slots = x[-TOKENS:]
    raise AssertionError


@torch.no_grad()
def test_a_recurrent_memory_is_equal_to_dense_passes_one_after_the_other(tmp_path: Path, data: Prepared) -> None:
    changes = {"kind": "sasrec", "layers": 2, "width": 8, "heads": 2, "dropout": 0.0}
    memory = {"kind": "recurrent", "segment": SEGMENT, "recent": RECENT, "tokens": TOKENS}
    made = model(tmp_path, model=changes, memory=memory)
    count = 3 * SEGMENT + RECENT + 2
    found = attended(made, batch_of(data, [count, SEGMENT + RECENT]))
    written, carried, read = dense_recurrent(made, batch_of(data, [count]), 3)
    np.testing.assert_allclose(found.written[0], written.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.read[0], read, atol=1e-9)
    assert found.carried is not None
    assert found.carried[0] == pytest.approx(carried[1:].mean())
    assert np.isnan(found.carried[1]), "one segment: nothing is old in it"
    assert found.clear == pytest.approx(1 - found.read.sum(axis=1))


def test_a_cap_ends_what_is_read(tmp_path: Path, data: Prepared) -> None:
    made = model(tmp_path, memory={"segment": SEGMENT, "recent": RECENT, "tokens": TOKENS, "cap": 2})
    assert attended(made, batch_of(data, [60])).read.shape == (1, 2)


def test_shares_by_hand() -> None:
    """Two heads, two columns: |1| * 5 + |-2| * 1 = 7 against |0| * 2 + |3| * 1 = 3; nothing at all stays nothing."""
    weights = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[-2.0, 3.0], [0.0, 0.0]]]])
    values = torch.tensor([[[[3.0, 4.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    torch.testing.assert_close(shares(weights, values), torch.tensor([[[0.7, 0.3], [0.0, 0.0]]]))


@pytest.mark.parametrize("kind", ["hstu", "sasrec", "ligr"])
@pytest.mark.parametrize("memory", ["layered", "recurrent"])
def test_memories_of_own_layers_are_understood(tmp_path: Path, kind: str, memory: str) -> None:
    changes: dict[str, Any] = {"model": {"kind": kind, "width": 8, "heads": 2}, "memory": {"kind": memory}}
    recipe, data = prepared_of(tmp_path, events(), history="compressed", **changes)
    assert why_not(model_of(recipe, data.items_count), recipe.memory) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"memory": {"kind": "prototypes"}}, "a memory of kind prototypes keeps no rows of each segment"),
        ({"memory": {"merge": True}}, "its old rows are merged"),
        ({"memory": {"compete": True, "own_projections": True}}, "memory.compete and memory.own_projections change"),
        ({"model": {"kind": "decoder", "width": 8, "heads": 2}, "time": "none"}, "the layers of a decoder"),
    ],
)
def test_of_others_it_is_said_why_not(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    recipe, data = prepared_of(tmp_path, events(), **({"history": "compressed"} | changes))
    said = why_not(model_of(recipe, data.items_count), recipe.memory)
    assert said is not None
    assert said.startswith(reason)


@pytest.mark.parametrize("begin", ["learned", "means"])
def test_the_page_says_which_layers_are_looked_at(tmp_path: Path, data: Prepared, begin: str) -> None:
    memory = {"segment": SEGMENT, "recent": RECENT, "tokens": TOKENS, "begin": begin}
    found = attended(model(tmp_path, memory=memory), batch_of(data, [60, 45, 31]))
    closeup = Closeup("compressed", "compressed", 1, Interval(1.0, 1.0, 1.0), 0.0, found, [], [])
    looks = figures.looks([("compressed", "compressed", "small")])
    said = chapters.attention(Material([], [], "ndcg@10", looks, [closeup], None), Gallery(tmp_path / "figures"))
    assert ("over all layers" in said) == (begin == "means")
    assert ("over the layers above the first" in said) == (begin == "learned")
    assert ("each token is given the mean of its share of the segment" in said) == (begin == "means")


@pytest.mark.parametrize("ends", [[60, 45, 31], [12, 11]])
def test_the_page_says_what_a_recurrent_memory_carries(tmp_path: Path, data: Prepared, ends: list[int]) -> None:
    """Users of one segment have no memory of before."""
    memory = {"kind": "recurrent", "segment": SEGMENT, "recent": RECENT, "tokens": TOKENS}
    found = attended(model(tmp_path, memory=memory), batch_of(data, ends))
    closeup = Closeup("compressed", "compressed", 1, Interval(1.0, 1.0, 1.0), 0.0, found, [], [])
    looks = figures.looks([("compressed", "compressed", "small")])
    said = chapters.attention(Material([], [], "ndcg@10", looks, [closeup], None), Gallery(tmp_path / "figures"))
    assert "rows of the memory that the query attends to" in said
    assert ("from the second segment on" in said) == (ends[0] > 12)
    assert "nan" not in said


def test_the_page_says_why_a_memory_is_not_shown(tmp_path: Path) -> None:
    interval = Interval(1.0, 1.0, 1.0)
    closeup = Closeup("compressed", "compressed", 1, interval, 0.0, "its old rows are merged", [], [])
    material = Material([], [], "ndcg@10", {}, [closeup], None)
    said = chapters.attention(material, Gallery(tmp_path))
    assert "compressed: not shown, because its old rows are merged." in said
    assert chapters.attention(replace(material, closeups=[replace(closeup, attended=None)]), Gallery(tmp_path)) == ""
