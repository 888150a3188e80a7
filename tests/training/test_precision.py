"""Layers in half precision: loss and gradient stay near those of float32, and so does what is learned."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from persrec.models.build import build
from persrec.models.item_encoders import Texts
from persrec.models.model import Model
from persrec.recipe.recipe import parse
from persrec.training.module import fit
from persrec.training.objective import LossSettings, objective
from persrec.training.token_objectives import SetWeights
from tests.small import events, prepared_of
from tests.training.test_stages import SETTINGS
from tests.worlds import ITEMS, LENGTHS, histories

MEMORIES: dict[str, dict[str, Any]] = {
    "layered": {},
    "recurrent": {"write": "gated"},
    "merged_neighbours": {},
    "prototypes": {},
}
SETS = SetWeights(past=0.1, future=0.1, horizon=4)


def model_of(kind: str, memory: str) -> Model:
    values = {
        "time": "last",
        "model": {"kind": kind, "width": 16, "heads": 2, "dropout": 0.0},
        "memory": {"kind": memory, "segment": 4, "recent": 3, "tokens": 2, **MEMORIES[memory]},
    }
    return build(parse(values, "of a test"), items=ITEMS).train()


def loss_and_gradient(model: Model, settings: LossSettings, *, half: bool) -> tuple[float, Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = objective(model, histories(LENGTHS), settings, reads_all=True)
    found.loss.backward()
    assert found.loss.dtype == torch.float32
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return float(found.loss.detach()), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("memory", list(MEMORIES))
@pytest.mark.parametrize("kind", ["hstu", "sasrec", "ligr"])
@pytest.mark.parametrize("loss", [LossSettings(negatives=16), LossSettings(kind="full")])
def test_loss_and_gradient_in_bfloat16_are_near_those_in_float32(kind: str, memory: str, loss: LossSettings) -> None:
    model = model_of(kind, memory)
    if memory in ("layered", "recurrent"):
        loss = loss._replace(sets=SETS)
    exact, gradient = loss_and_gradient(model, loss, half=False)
    rounded, other = loss_and_gradient(model, loss, half=True)
    assert rounded == pytest.approx(exact, rel=2e-3)
    assert rounded != exact
    assert torch.nn.functional.cosine_similarity(gradient, other, dim=0) > 0.995


@pytest.mark.parametrize("use", ["text", "id+text"])
def test_items_of_texts_are_near_too(use: str) -> None:
    items = {"use": use, "path": "items.csv", "encoder": "folder"}
    values = {"items": items, "model": {"width": 16, "dropout": 0.0}, "memory": {"segment": 4, "recent": 3}}
    torch.manual_seed(0)
    texts = Texts(torch.randn(ITEMS + 1, 12), torch.ones(ITEMS + 1, dtype=torch.bool))
    model = build(parse(values, "of a test"), items=ITEMS, texts=texts).train()
    exact, gradient = loss_and_gradient(model, LossSettings(negatives=16), half=False)
    rounded, other = loss_and_gradient(model, LossSettings(negatives=16), half=True)
    assert rounded == pytest.approx(exact, rel=5e-3)
    assert torch.nn.functional.cosine_similarity(gradient, other, dim=0) > 0.995


def test_a_fit_in_bfloat16_learns_what_one_in_float32_does(tmp_path: Path) -> None:
    recipe, data = prepared_of(tmp_path, events(), model={"layers": 2, "width": 8, "heads": 2, "dropout": 0.0})
    curves = {}
    for precision in ("32-true", "bf16-mixed"):
        changes = {"learning_rate": 0.01, "batch_users": 8, "epochs": 3, "precision": precision}
        settings = type(SETTINGS)(**{**vars(SETTINGS), **changes})
        folder = tmp_path / precision
        folder.mkdir()
        model = build(recipe, items=data.items_count)
        fit(model, data, LossSettings(kind="full"), settings, folder=folder, progress=False)
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        rows = csv.DictReader((folder / "training.csv").read_text().splitlines())
        curves[precision] = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    exact, rounded = curves["32-true"], curves["bf16-mixed"]
    assert exact[-1] < exact[0] - 0.05
    assert rounded == pytest.approx(exact, rel=5e-3)
    assert rounded != exact
