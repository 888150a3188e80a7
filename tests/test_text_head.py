"""The text head from the score to the recommendations: likeness to the texts of the last events."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch.nn import functional as F

from persrec import Recommender, api
from persrec.batches import History, collate, evaluation_windows
from persrec.errors import UserError
from persrec.items.add import add
from persrec.models.item_encoders import TextItems
from persrec.models.model import Model
from persrec.models.text_head import TextHead
from persrec.prepared import Prepared
from persrec.recipe.recipe import load
from persrec.training.objective import HEAD_ROWS, LossSettings, objective
from tests.items.models import WORDS
from tests.items.places import made
from tests.small import TEXT_HEAD, events, model_of, prepared_of, run_of

LAST = 4  # of TEXT_HEAD
FORMS: dict[str, dict[str, Any]] = {
    "full": {"history": "full"},
    "recent": {"history": "recent"},
    "compressed": {},
    "recurrent": {"memory": {"kind": "recurrent", "segment": 6, "recent": 5, "tokens": 2}},
    "products": {"model": {"layers": 2, "width": 8, "heads": 2, "score": "dot"}},
}


def world(folder: Path, form: str) -> tuple[Model, Prepared]:
    recipe, data = prepared_of(folder, events(), **TEXT_HEAD | FORMS[form])
    return model_of(recipe, data.items_count), data


def units(model: Model) -> torch.Tensor:
    assert isinstance(model.items, TextItems)
    return F.normalize(model.items.texts, dim=-1)


@pytest.mark.parametrize("form", list(FORMS))
def test_products_of_the_last_texts_come_on_top_by_hand(tmp_path: Path, form: str) -> None:
    model, data = world(tmp_path, form)
    head, texts = model.text_head, units(model)
    assert head is not None
    ends = np.diff(data.offsets)
    windows = evaluation_windows(np.arange(data.users), ends, length=None)
    order = np.argsort(-ends, kind="stable")
    found = model.queries(collate(data, windows.take(order), time="last"))
    model.text_head = None
    plain = model.queries(collate(data, windows.take(order), time="last"))
    own = plain @ model.vectors().T
    model.text_head = head
    scores = found @ model.vectors().T
    for row, user in enumerate(order):
        had = data.items[data.offsets[user] : data.offsets[user + 1]].tolist()[::-1]
        asked = sum(head.weight[place] * texts[item] for place, item in enumerate(had[:LAST]))
        torch.testing.assert_close(scores[row], own[row] + texts @ asked)


@pytest.mark.parametrize("form", ["full", "recent", "compressed", "recurrent"])
def test_rows_of_training_ask_as_what_is_served_after_them(tmp_path: Path, form: str) -> None:
    model, data = world(tmp_path, form)
    user = int(np.diff(data.offsets).argmax())
    end = int(np.diff(data.offsets)[user])
    whole = collate(data, evaluation_windows(np.array([user]), np.array([end - 1]), length=None), time="last")
    targets, queries, _ = model.read_rows(whole)
    assert len(targets) == end - 1
    for place in (0, 1, 2, 7, 30, end - 2):
        window = evaluation_windows(np.array([user]), np.array([place + 1]), length=None)
        served = model.queries(collate(data, window, time="last"))[0]
        wanted = int(data.items[data.offsets[user] + place + 1])
        same = (queries - served).abs().amax(dim=1) < 1e-5
        assert wanted in targets[same].tolist()


def test_weights_start_at_nothing_and_padding_asks_for_nothing() -> None:
    head, items = TextHead(last=3, width=5), torch.tensor([[5, 6, 7, 8], [9, 4, 4, 4]])
    texts = F.normalize(torch.randn(10, 5), dim=-1).index_fill(0, torch.tensor([0]), 0)
    last = head.last_items(items, torch.tensor([4, 1]))
    assert last.tolist() == [[6, 7, 8], [0, 0, 9]]
    valid = torch.tensor([[True] * 4, [True, False, False, False]])
    before = head.items_before(items, valid)
    assert before[0].tolist() == [[0, 0, 5], [0, 5, 6], [5, 6, 7], [6, 7, 8]]
    assert before[1, :2].tolist() == [[0, 0, 9], [0, 9, 0]]
    assert not head(texts[last]).any()
    head.weight.data = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(head(texts[last])[0], texts[8] + 2 * texts[7] + 3 * texts[6])
    torch.testing.assert_close(head(texts[last])[1], texts[9])


@pytest.mark.parametrize("form", ["compressed", "full"])
@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("kind", ["full", "sampled"])
def test_its_gradient_is_that_of_every_eighth_row_by_hand(tmp_path: Path, form: str, skips: bool, kind: Any) -> None:
    model, data = world(tmp_path, form)
    head, texts = model.text_head, units(model)
    assert head is not None
    order = np.argsort(-np.diff(data.offsets), kind="stable")
    batch = collate(data, evaluation_windows(order, np.diff(data.offsets)[order], length=None), time="last")
    settings = LossSettings(kind=kind, negatives=data.items_count, per_row=True, skips_had=skips)
    found = {}
    for with_head in (True, False):
        model.text_head = head if with_head else None
        model.zero_grad()
        torch.manual_seed(3)
        found[with_head] = objective(model, batch, settings, reads_all=False)
        found[with_head].loss.backward()
        if with_head:
            own = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    gradient = own.pop("text_head.weight")
    assert found[True].loss == found[False].loss
    for name, value in own.items():
        torch.testing.assert_close(value, dict(model.named_parameters())[name].grad)
    if kind == "sampled":  # drawn at random
        assert gradient.abs().max() > 1e-3
        return
    model.text_head, costs, rows, whole = head, [], 0, batch.history
    numbered = whole._replace(weight=torch.arange(whole.item.numel()).reshape(whole.item.shape))

    def score(hidden: torch.Tensor, history: History) -> None:
        nonlocal rows
        places = (history.target > 0).nonzero().tolist()
        rows += len(places)
        some = places[::HEAD_ROWS]
        for user, row in some:
            assert history.weight is not None
            owner, column = divmod(int(history.weight[user, row]), whole.item.shape[1])  # events before the block too
            had = whole.item[owner, : column + 1][whole.valid[owner, : column + 1]].tolist()[::-1][:LAST]
            asked = sum(head.weight[place] * texts[item] for place, item in enumerate(had))
            logits = model.query(hidden)[user, row].detach() @ model.vectors().detach().T + texts @ asked
            logits = logits / model.fixed_temperature
            target = int(history.target[user, row])
            out = [item for item in had if skips and item != target]
            logits[[0, *out]] = -torch.inf
            costs.append(len(places) / len(some) * F.cross_entropy(logits, history.target[user, row]))

    model(batch._replace(history=numbered), score=score)
    (wanted,) = torch.autograd.grad(torch.stack(costs).sum() / rows, [head.weight])
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["compressed", "recurrent", "full"])
def test_a_store_answers_as_histories_do(tmp_path: Path, form: str) -> None:
    log, run = events(), run_of(tmp_path, events(), **TEXT_HEAD | FORMS[form])
    times = [int(log["timestamp"].max() or 0) + 1000 * place for place in range(1, 8)]  # type: ignore[arg-type]
    more = pl.DataFrame(
        {"user_id": ["ü-1"] * 7, "item_id": [f"чай {number}" for number in range(7)], "timestamp": times}
    )
    plain = Recommender.load(run)
    with Recommender.load(run, tmp_path / "store") as recommender:
        recommender.compress()
        assert_frame_equal(recommender.recommend(None, 5), plain.recommend(None, 5), abs_tol=1e-4)
        recommender.update(more)
        expected = plain.recommend(None, 5, histories=pl.concat([log.filter(pl.col("user_id") == "ü-1"), more]))
        assert_frame_equal(recommender.recommend(["ü-1"], 5), expected, abs_tol=1e-4)


def test_slots_ask_for_the_same_texts(tmp_path: Path) -> None:
    memory = {"segment": 6, "recent": 5, "tokens": 2, "future_set": 0.1}
    with Recommender.load(run_of(tmp_path, events(), **TEXT_HEAD, memory=memory), tmp_path / "store") as recommender:
        recommender.compress()
        best, plain = (recommender.recommend(None, 20, slots=slots) for slots in (True, False))
    both = best.join(plain, on=["user_id", "item_id"])
    assert (both["score"] >= both["score_right"] - 1e-5).all()
    assert (both["score"] > both["score_right"] + 1e-3).any()


pytest.importorskip("transformers")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """49 titles of four items each, that are had one after the other; every item is rare."""
    monkeypatch.chdir(tmp_path)
    made(tmp_path)
    random = np.random.default_rng(1)
    titles = [f"{one} {other}" for one in WORDS[:7] for other in WORDS[:7]]
    rows = []
    for user in range(60):
        order = [4 * title + each for title in random.choice(49, 3, replace=False) for each in random.permutation(4)]
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(order)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv("log.csv")
    table = {"item_id": [f"i{item}" for item in range(196)], "title": [titles[item // 4] for item in range(196)]}
    pl.DataFrame(table).write_csv("items.csv")
    return tmp_path


TRAINED = (
    "items.whiten=true",
    "history=compressed",
    "training.epochs=6",
    "training.batch_events=100",
    "training.ema=null",
    "training.learning_rate=0.02",
    "loss.negatives=16",
)


def test_likeness_is_learned_where_there_is_any_and_finds_new_items(place: Path) -> None:
    def weights(out: str) -> list[float]:
        api.fit("texts.yaml", [*TRAINED, "items.text_head=3"], out=out, progress=False)
        head = Recommender.load(out).model.text_head
        assert head is not None
        found: list[float] = head.weight.tolist()
        return found

    first, *others = weights("alike")
    assert first > max(0.15, *others)
    table = pl.read_csv("items.csv")
    table.filter(pl.col("item_id") == "i8").with_columns(item_id=pl.lit("new")).write_csv("new.csv")
    add("alike", "new.csv", say=print)
    history = pl.DataFrame({"user_id": ["x"] * 3, "item_id": ["i120", "i8", "i9"], "timestamp": [1, 2, 3]})
    assert "new" in Recommender.load("alike").recommend(None, 10, histories=history)["item_id"].to_list()
    table.with_columns(pl.col("title").shuffle(seed=0)).write_csv("items.csv")
    assert weights("unlike")[0] < 0.05


@pytest.mark.parametrize("loss", [[], ["loss={kind: full}"], ["loss={kind: info_nce, sampler: mixed}"]])
def test_the_layers_are_what_they_are_without_it(place: Path, loss: list[str]) -> None:
    found = []
    for keys in ([], ["items.text_head=3"]):
        api.fit(
            "texts.yaml",
            [*TRAINED[:2], "training.epochs=2", "training.clip=null", *loss, *keys],
            out=f"run{len(keys)}",
            progress=False,
        )
        found.append(Recommender.load(f"run{len(keys)}").model.state_dict())
    plain, beside = found
    assert beside.pop("text_head.weight").any()
    assert plain.keys() == beside.keys()
    for name, value in plain.items():
        torch.testing.assert_close(value, beside[name])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["items.text_head=6"], "items.text_head: got 6, expected at most memory.recent = 5: older"),
        (
            ["items.text_head=2", "items.train=lora"],
            "items.text_head: got 2, expected null: it compares",
        ),
        (["items.text_head=0"], "items.text_head: "),
        (
            ["items.text_head=2", "repeat=head", "loss={kind: full}", "evaluation.exclude_seen=false"],
            "items.text_head: got 2, expected null with repeat: head",
        ),
    ],
)
def test_what_cannot_be(place: Path, keys: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("texts.yaml", keys)


def test_full_histories_have_texts_of_any_number(place: Path) -> None:
    assert load("texts.yaml", ["items.text_head=6", "history=full"]).items.text_head == 6
    assert load("texts.yaml", ["items.text_head=6", "items.use=id"]).items.text_head == 6
