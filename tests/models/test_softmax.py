"""Softmax layers: from a recipe, learned, and a gate that shuts."""

import pytest
import torch
from torch.nn import functional as F

from persrec.models.build import build
from persrec.models.rows import rows_of
from persrec.models.softmax import LiGRLayer, Softmax
from persrec.recipe.recipe import parse
from tests.worlds import World, histories


@pytest.mark.parametrize("history", ["full", "recent", "compressed"])
@pytest.mark.parametrize("kind", ["sasrec", "ligr"])
def test_a_recipe_chooses_the_layers(kind: str, history: str) -> None:
    recipe = parse({"model": {"kind": kind, "width": 8, "layers": 3}, "history": history, "time": "last"}, "of a test")
    model = build(recipe, items=9)
    assert isinstance(model.backbone, Softmax)
    assert [type(layer).__name__.lower() for layer in model.backbone.stack] == [f"{kind}layer"] * 3
    assert (model.backbone.layers, model.backbone.width, model.backbone.exact) == (3, 8, 80)
    biases = [name for name, _ in model.backbone.named_parameters() if name.endswith("_bias")]
    assert len(biases) == 6, "of position and of time in each layer"


@pytest.mark.parametrize("kind", ["sasrec", "ligr"])
def test_a_period_is_learned(kind: str) -> None:
    """Everybody repeats five items of their own: after the first round each next item is known."""
    world = World(segment=5, recent=None, history="full", kind=kind, timed=False, layers=2)
    for layer in world.backbone.stack:
        torch.nn.init.zeros_(layer.attention.position_bias)
    generator = torch.Generator().manual_seed(0)
    items = torch.stack([torch.randperm(20, generator=generator)[:5].repeat(4) + 1 for _ in range(32)])
    given = histories([19] * 32)
    rows = given.history._replace(item=items[:, :-1])
    table = world.table.detach().mul(0.3).requires_grad_()
    optimizer = torch.optim.Adam([table, *world.backbone.parameters()], lr=0.01)
    for _ in range(100):
        hidden, _ = world.backbone.step(rows_of(rows, lambda item: F.embedding(item, table)))
        loss = F.cross_entropy(hidden[:, 5:].flatten(0, 1) @ table[1:].T, items[:, 6:].flatten() - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1  # log 20 = 3.0 is chance


def test_a_shut_gate_passes_what_came() -> None:
    layer = LiGRLayer(width=8, heads=2, exact=9, timed=True, dropout=0.0)
    for gate in (layer.attention_gate, layer.forward_gate):
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.constant_(gate.bias, -100.0)
    world = World(segment=5, recent=4, kind="ligr")
    rows = rows_of(histories([6]).history, world.encode)
    blocks = world.backbone._blocks(rows, world.backbone._columns(rows, None, None), None)
    x = torch.randn(1, 6, 8)
    torch.testing.assert_close(layer(x, None, blocks), x)
    torch.nn.init.zeros_(layer.forward_gate.bias)
    assert not torch.allclose(layer(x, None, blocks), x)
