"""Item encoders: ids, texts and both; what a step makes once is what is asked for outside of it.

Shapes: V items, D width, E width of the text model.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from persrec.models.item_encoders import IdTable, Live, TextItems, Texts

WIDTH = 4


def texts(items: int = 6, size: int = 5) -> Texts:
    """Item 3 has no text, item 5 is not in training."""
    vectors = torch.randn(items + 1, size, generator=torch.Generator().manual_seed(0))
    vectors[[0, 3]] = 0
    trained = torch.ones(items + 1, dtype=torch.bool)
    trained[[0, 5]] = False
    return Texts(vectors, trained)


def text_items(*, ids: bool, dropout: float = 0.0, **options: Any) -> TextItems:
    torch.manual_seed(0)
    return TextItems(texts(), width=WIDTH, dropout=dropout, ids=ids, **options)


def test_vectors_are_projected_texts_and_ids() -> None:
    items, given = text_items(ids=True).eval(), texts()
    assert items.ids is not None
    expected = 0.02 * F.layer_norm(given.vectors, (5,)) @ items.project.weight.T
    with_ids = expected + items.ids * given.trained[:, None]
    assert torch.allclose(items.vectors(), with_ids)
    assert torch.allclose(text_items(ids=False).vectors(), expected)
    assert items.count == 6
    assert not expected[3].any()
    asked = torch.tensor([[4, 4], [0, 5]])
    assert torch.allclose(items.vectors(asked), with_ids[asked])
    assert torch.allclose(items(asked), 2 * with_ids[asked])


@pytest.mark.parametrize("kind", ["id", "text", "id+text"])
@pytest.mark.parametrize("wanted", [None, torch.tensor([5, 1, 1, 4])])
def test_what_is_made_for_a_step_is_the_same(kind: str, wanted: torch.Tensor | None) -> None:
    items = IdTable(items=6, width=WIDTH, dropout=0.0) if kind == "id" else text_items(ids=kind == "id+text")
    made = items.during_step(wanted)
    asked = torch.tensor([[4, 1], [5, 1]])
    assert torch.allclose(made.vectors(asked), items.vectors(asked))
    assert torch.allclose(made(asked), items(asked))
    if wanted is None:
        assert torch.allclose(made.vectors(), items.vectors())


def test_in_training_some_items_go_without_their_id_for_a_whole_step() -> None:
    items = text_items(ids=True, id_dropout=0.5)
    plain = text_items(ids=False).vectors()
    asked, without = torch.arange(1, 7), torch.zeros(6)
    for _ in range(200):
        made = items.during_step(None)
        bare = (made.vectors(asked) - plain[asked]).abs().amax(dim=1) < 1e-7
        assert torch.equal(made(asked), 2 * made.vectors(asked))
        without += bare
    assert without[4] == 200
    assert ((without[[0, 1, 2, 3, 5]] > 60) & (without[[0, 1, 2, 3, 5]] < 140)).all()
    assert torch.equal(items.vectors(), items.eval().vectors())
    assert torch.equal(items.vectors(), items.during_step(None).vectors())


def test_gradients_reach_projection_and_ids_of_the_items_of_a_step() -> None:
    items = text_items(ids=True)
    items.during_step(torch.tensor([1, 2, 5])).vectors(torch.tensor([1, 1, 5])).square().sum().backward()
    assert items.ids is not None
    assert items.ids.grad is not None
    assert items.ids.grad.any(dim=1).tolist() == [False, True, False, False, False, False, False]
    assert items.project.weight.grad is not None
    assert items.project.weight.grad.any()


def test_the_state_holds_each_text_once() -> None:
    state = text_items(ids=True).state_dict()
    assert sorted(state) == ["at_fit", "ids", "project.weight", "texts", "trained"]
    half = Texts(texts().vectors.half(), texts().trained)
    items = TextItems(half, width=WIDTH, dropout=0.0, ids=False)
    assert items.state_dict()["texts"].dtype == torch.float16
    assert items.vectors().dtype == torch.float32


@pytest.fixture
def live(tmp_path: Path) -> Live:
    pytest.importorskip("transformers")
    from persrec.models import pretrained
    from persrec.models.text import TextEncoder, tokenize
    from tests.items.models import saved_model

    model, tokenizer = pretrained.load(str(saved_model(tmp_path, "llama")))
    tokens = tokenize(["", "red lamp", "cup", "", "blue chair", "table", "spoon"], tokenizer, 8)
    there = torch.tensor([False, True, True, False, True, True, True])
    return Live(TextEncoder(model, pooling="token", batch_tokens=8), tokens, there)


def test_a_text_model_is_trained_along(live: Live) -> None:
    items = TextItems(Texts(torch.zeros(7, 16), texts().trained), width=WIDTH, dropout=0.0, ids=False, live=live)
    assert not items.eval().vectors().any()
    items.refresh()
    before = items.vectors()
    assert before[[1, 2, 4, 5, 6]].any(dim=1).all()
    assert not before[3].any()
    made = items.train().during_step(torch.tensor([0, 1, 2, 3]))
    assert torch.allclose(made.vectors(torch.arange(4)), before[:4], atol=1e-7)
    made.vectors(torch.tensor([1, 2])).sum().backward()
    assert live.encoder.token is not None
    assert live.encoder.token.grad is not None
    with torch.no_grad():
        for value in live.encoder.parameters():
            value -= 0 if value.grad is None else value.grad
    assert torch.equal(items.eval().vectors(), before)
    items.refresh()
    assert not torch.allclose(items.vectors()[1], before[1], atol=1e-4)
    asked = torch.tensor([1])
    assert torch.allclose(items.train().during_step(asked).vectors(asked), items.eval().vectors(asked), atol=1e-7)
