"""The repeat head from the loss to the recommendations, on a small log with repeats."""

import copy
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from persrec.batches import Batch, Budget, collate, evaluation_windows
from persrec.consumption import HALF_LIFE, Consumed
from persrec.errors import UserError
from persrec.evaluation.evaluate import EvaluationSettings, evaluate
from persrec.models.attention import position_bucket, time_bucket
from persrec.models.model import Model
from persrec.models.repeat import EXACT, RepeatHead
from persrec.prepared import Prepared
from persrec.serving.recommender import Recommender
from persrec.training import module as training
from persrec.training.objective import LOGITS_PER_PAIR, LossSettings, objective
from tests.logs import log_of
from tests.small import events, model_of, prepared_of, recipe_of, run_of

HEAD: dict[str, Any] = {
    "repeat": "head",
    "loss": {"kind": "full"},
    "evaluation": {"k": [1, 10, 30], "exclude_seen": False, "length_buckets": [5]},
    "time": "next",
}
SETTINGS = EvaluationSettings(
    split="leave-one-out",
    k=(1, 30),
    exclude_seen=False,
    users_per_chunk=7,
    length_buckets=(5,),
    recent=5,
    time="next",
    length=None,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Prepared]:
    recipe, data = prepared_of(tmp_path_factory.mktemp("log"), events(), **HEAD)
    return model_of(recipe, data.items_count), data


def dense(model: Model, data: Prepared, user: int, end: int, hidden: torch.Tensor) -> torch.Tensor:
    """The logit of every item (V+1,) after `end` events of a user: one item at a time."""
    head = model.repeat
    assert head is not None
    assert head.time_bias is not None
    assert data.times is not None
    first = data.offsets[user]
    had = data.items[first : first + end].tolist()
    asked = data.times[first + end]
    level, often, strong = head.of_row(F.layer_norm(hidden, hidden.shape))
    found = model.vectors() @ model.query(hidden) / model.temperature
    for item in set(had):
        latest = max(place for place, other in enumerate(had) if other == item)
        distance, elapsed = torch.tensor(end - 1 - latest), torch.tensor(int(asked - data.times[first + latest]))
        strength = 0.0
        for place, other in enumerate(had[: latest + 1]):
            strength += 0.5 ** ((latest - place) / HALF_LIFE) if other == item else 0.0
        repeat = (
            level
            + often * np.log(had.count(item))
            + strong * np.log(strength)
            + head.item_bias[item]
            + head.distance_bias[position_bucket(distance, EXACT)]
            + head.time_bias[time_bucket(elapsed)]
        )
        found[item] = torch.log(found[item].exp() + repeat.exp())
    return found


@torch.no_grad()
def test_ranks_are_those_of_dense_scores(world: tuple[Model, Prepared]) -> None:
    model, data = world
    found = evaluate(model, data, SETTINGS)
    for number, (user, end) in enumerate(zip(data.test.user, data.test.end, strict=True)):
        batch = collate(data, evaluation_windows(np.array([user]), np.array([end]), length=None), time="next")
        hidden = model(batch, score=lambda rows, _: rows).scored[-1]
        last = hidden[0, int(_valid(batch, model)) - 1]
        scores = model.temperature * dense(model, data, int(user), int(end), last)
        target = int(found.targets.item[number])
        rank = 1 + int((scores[1:] > scores[target] + 1e-6).sum())
        assert found.rank[number] == rank
    assert np.isfinite(found.rank).all()


def _valid(batch: Any, model: Model) -> int:
    """Events of the open block."""
    closed = model.rule.closed(batch.events)
    return int(batch.events - closed * model.rule.segment)


def test_validation_by_torch_gives_the_ranks_of_faiss(world: tuple[Model, Prepared]) -> None:
    model, data = world
    found = evaluate(model, data, SETTINGS)
    validation = training.Validation(
        data, data.test, Budget(6, 5, 300, None), length=None, time="next", exclude_seen=False, repeats=True
    )
    ranks = {}
    for batch, targets, excluded in (validation[index] for index in range(len(validation))):
        ranks |= dict(zip(batch.user.tolist(), training.rank(model, batch, targets, excluded).tolist(), strict=True))
    assert [ranks[user] for user in found.user.tolist()] == found.rank.tolist()


@pytest.mark.parametrize(("reads_all", "adjustment"), [(True, 0.0), (False, 0.0), (True, 0.5)])
def test_the_loss_is_that_of_dense_logits(world: tuple[Model, Prepared], reads_all: bool, adjustment: float) -> None:
    model, data = world
    users = np.flatnonzero(np.diff(data.offsets) > 25)[:4]
    users = users[np.argsort(-np.diff(data.offsets)[users])]
    batch = collate(
        data,
        evaluation_windows(users, data.train_end[users] - 1, length=None),
        time="next",
        repeats=True,
    )
    settings = LossSettings(kind="full", logit_adjustment=adjustment)
    counts = training.target_counts(data)
    found = objective(model, batch, settings, reads_all=reads_all, counts=counts).loss
    losses, added = [], adjustment * (1 + counts[1:].float()).log()

    def score(hidden: torch.Tensor, history: Any) -> None:
        for entry, row in (history.target > 0).nonzero().tolist():
            user = users[int(history.cell[entry, row]) // batch.history.item.shape[1]]
            end = int(history.position[entry, row]) + 1
            logits = dense(model, data, int(user), end, hidden[entry, row])
            losses.append(F.cross_entropy(logits[1:] + added, history.target[entry, row] - 1))

    model(batch, score=score, reads_all=reads_all)
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(found, expected)
    weights = [*model.repeat.parameters(), *model.items.parameters()]  # type: ignore[union-attr]
    ours, theirs = torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_fresh_head_adds_counts_to_odds() -> None:
    head, product = RepeatHead(width=8, items=3, timed=True), torch.tensor([0.0, 1.5, -20.0])
    frequency, zeros = torch.tensor([1, 2, 5]), torch.zeros(3, dtype=torch.int64)
    had = Consumed(zeros, torch.tensor([1, 2, 3]), frequency, torch.rand(3), zeros, zeros)
    added = head(torch.randn(1, 8), had, product)
    torch.testing.assert_close((product + added).exp(), product.exp() + frequency)


def test_rows_after_a_break_count_more(world: tuple[Model, Prepared]) -> None:
    """Events of this log are a minute apart; with a break of a minute all rows are after one."""
    model, data = world
    windows = evaluation_windows(np.array([0]), np.array([20]), length=None)
    batch = collate(data, windows, time="next", repeats=True)
    plain = objective(model, batch, LossSettings(kind="full"), reads_all=True)
    every = objective(model, batch, LossSettings(kind="full", break_ms=60_000, break_weight=20.0), reads_all=True)
    none = objective(model, batch, LossSettings(kind="full", break_ms=60_001, break_weight=20.0), reads_all=True)
    torch.testing.assert_close(every.loss, plain.loss)
    torch.testing.assert_close(none.loss, plain.loss)
    later = batch.history.query_time.clone()
    later[0, 3] += 3_600_000
    broken = batch._replace(history=batch.history._replace(query_time=later), consumed=batch.consumed)
    heavy = objective(model, broken, LossSettings(kind="full", break_ms=60_001, break_weight=1e6), reads_all=False)
    alone = batch.history.target.clone()
    alone[0, torch.arange(20) != 3] = 0
    one = objective(
        model,
        broken._replace(history=broken.history._replace(target=alone)),
        LossSettings(kind="full"),
        reads_all=False,
    )
    torch.testing.assert_close(heavy.loss, one.loss, rtol=1e-3, atol=1e-3)


def test_what_is_recommended_are_the_best_scores_seen_items_included(tmp_path: Path) -> None:
    recommender = Recommender.load(run_of(tmp_path, events(), **HEAD))
    found = recommender.recommend(["ü-0", "ü-2"], 30)
    assert found.filter(found["user_id"] == "ü-0").height == 30, "nothing is left out"
    assert all(part["score"].is_sorted(descending=True) for part in found.partition_by("user_id"))
    torch.manual_seed(1)
    head = recommender.model.repeat
    assert head is not None
    torch.nn.init.constant_(head.of_row.bias, 100.0)
    had = set(events().filter(events()["user_id"] == "ü-2")["item_id"])
    best = recommender.recommend(["ü-2"], len(had))
    assert set(best["item_id"]) == had, "a head that says so puts what was had first"


def test_a_head_that_diverged_is_an_error_with_the_users_name(world: tuple[Model, Prepared], tmp_path: Path) -> None:
    """Its additions alone are not finite: unsaid, each such target would be a miss."""
    model, data = world
    broken = copy.deepcopy(model)
    recommender = Recommender.load(run_of(tmp_path, events(), **HEAD))
    for head in (broken.repeat, recommender.model.repeat):
        assert head is not None
        torch.nn.init.constant_(head.of_row.bias, float("nan"))
    item = events()["item_id"][0]
    first = data.user_ids()[int(data.test.user[0])].as_py()
    with pytest.raises(UserError, match=f"the query of user '{first}' is not finite"):
        evaluate(broken, data, SETTINGS)
    for ask in (lambda: recommender.recommend(["ü-2"], 3), lambda: recommender.score(["ü-2"], [item])):
        with pytest.raises(UserError, match=r"the query of user 'ü-2' is not finite \(1 of 1 are not\)"):
            ask()


def long_history(events: int, history: str = "compressed") -> tuple[Model, Batch]:
    """A user who never repeats anything: events**2 / 2 pairs; S = 6, R = 5."""
    changes = HEAD | {"history": history, "model": {"layers": 2, "width": 8, "heads": 2, "dropout": 0.0}}
    recipe = recipe_of(Path("log.csv"), **changes)
    log = log_of([list(range(1, events + 1))])
    windows = evaluation_windows(np.array([0]), np.array([events - 1]), length=None)
    return model_of(recipe, events), collate(log, windows, time="next", repeats=True)


def gradients(model: Model, batch: Batch, chunk: int, *, reads_all: bool) -> list[torch.Tensor]:
    """The loss and its gradient."""
    loss = objective(model, batch, LossSettings(kind="full", chunk=chunk), reads_all=reads_all).loss
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("reads_all", [True, False])
@pytest.mark.parametrize("pairs", [1, 100])
def test_pairs_that_do_not_fit_give_the_same_loss(reads_all: bool, pairs: int) -> None:
    model, batch = long_history(50)
    assert batch.consumed is not None
    assert batch.consumed.pairs > 2 * pairs
    found = gradients(model, batch, LOGITS_PER_PAIR * pairs, reads_all=reads_all)
    expected = gradients(model, batch, 1 << 24, reads_all=reads_all)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class Live(TorchDispatchMode):
    """The most elements that all tensors made under it have at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.most = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self._add(tensor.untyped_storage(), tensor.element_size())
        return out

    def _add(self, storage: Any, size: int) -> None:
        if storage._cdata in self.known or not storage.nbytes():
            return
        self.known.add(storage._cdata)
        self.elements += storage.nbytes() // size
        self.most = max(self.most, self.elements)
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes() // size)

    def _freed(self, place: int, elements: int) -> None:
        self.known.discard(place)
        self.elements -= elements


def most(events: int, chunk: int) -> int:
    """Elements at a time in a step on a history, of which the model itself reads only the recent part."""
    model, batch = long_history(events, "recent")
    with Live() as live:
        gradients(model, batch, chunk, reads_all=False)
    return live.most


def test_memory_grows_with_events_and_not_with_pairs() -> None:
    several = [most(events, LOGITS_PER_PAIR * 1000) for events in (150, 300)]
    every = [most(events, 1 << 24) for events in (150, 300)]
    assert several[1] < 2.2 * several[0]
    assert several[1] < every[1] / 4
    assert every[1] > 2.7 * every[0], "four times the pairs"
    consumed = long_history(300)[1].consumed
    assert consumed is not None
    assert sum(field.numel() for field in consumed) == 8 * 299
