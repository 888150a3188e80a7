"""The training loss of a batch: the mean of what its rows cost, told apart by number of clear events."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.batches import Batch, History
from persrec.models.item_encoders import IdTable
from persrec.models.model import Model
from persrec.negatives import Sampler
from persrec.training.objective import LossSettings, objective
from tests.worlds import ITEMS, World, histories

LENGTHS, SHIFT = [23, 19, 9, 3, 1], [2, 0, 0, 0, 0]
SEGMENT, RECENT = 5, 4


class Table(IdTable):
    """The items of a world."""

    def __init__(self, world: World) -> None:
        super().__init__(items=ITEMS, width=world.table.shape[1], dropout=0.0)
        self.table = torch.nn.Parameter(world.table.detach())

    def forward(self, items: Tensor) -> Tensor:
        return self.table[items]


def model_of(history: str = "compressed", *, cosine: bool = True, checkpointed: bool = False) -> Model:
    recent = None if history == "full" else RECENT
    world = World(segment=SEGMENT, recent=recent, history=history)
    parts = {"items": Table(world), "backbone": world.backbone, "compressor": world.compressor, "rule": world.rule}
    return Model(**parts, cosine=cosine, temperature=0.5, checkpointed=checkpointed).eval()  # type: ignore[arg-type]


def batch() -> Batch:
    return histories(LENGTHS, shift=SHIFT)


def by_hand(
    model: Model, given: Batch, *, reads_all: bool, added: Tensor | None = None
) -> tuple[float, dict[int, list[float]]]:
    """Mean loss, and losses by number of clear events: row by row, through torch's cross-entropy over all items.

    `added` (V,) goes onto the logits.
    """
    added = torch.zeros(ITEMS) if added is None else added
    table = model.items.table[1:]
    vectors = F.normalize(table, dim=-1) if model.cosine else table
    found: dict[int, list[float]] = {}

    def score(hidden: Tensor, history: History) -> None:
        for user, row in (history.target > 0).nonzero().tolist():
            query = F.normalize(hidden[user, row], dim=-1) if model.cosine else hidden[user, row]
            loss = F.cross_entropy(vectors @ query / 0.5 + added, history.target[user, row] - 1)
            clear = int(history.valid[user, : row + 1].sum())
            found.setdefault(clear, []).append(loss.item())

    model(given, score=score, reads_all=reads_all)
    losses = [loss for some in found.values() for loss in some]
    return sum(losses) / len(losses), found


@pytest.mark.parametrize("history", ["compressed", "recent", "full"])
@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("cosine", [False, True])
def test_the_loss_is_a_cross_entropy_by_hand(history: str, reads_all: bool, cosine: bool) -> None:
    model = model_of(history, cosine=cosine)
    loss, _, tally = objective(model, batch(), LossSettings(kind="full"), reads_all=reads_all)
    wanted, rows = by_hand(model, batch(), reads_all=reads_all)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    for clear in range(1, tally.shape[1] + 1):
        assert int(tally[1, clear - 1]) == len(rows.get(clear, []))
        assert float(tally[0, clear - 1]) == pytest.approx(sum(rows.get(clear, [])), rel=1e-4, abs=1e-5)


LOSSES = [
    LossSettings(kind="full"),
    LossSettings(),
    LossSettings(per_row=True),
    LossSettings(sampler="mixed", corrected=True),
    LossSettings(sampler="in-batch", per_row=True, negatives=7),
    LossSettings(sampler="popularity", kind="gbce", calibration=0.0),
    LossSettings(kind="gbce", calibration=0.75, per_row=True, negatives=7),
    LossSettings(sampler="mixed", kind="bpr"),
    LossSettings(kind="bpr", per_row=True, negatives=7),
    LossSettings(kind="full", logit_adjustment=0.5),
    LossSettings(sampler="mixed", corrected=True, logit_adjustment=0.5),
    LossSettings(per_row=True, logit_adjustment=1.0),
]
COUNTS = torch.arange(ITEMS + 1)  # of items as targets


@pytest.mark.parametrize("settings", LOSSES)
@pytest.mark.parametrize("reads_all", [False, True])
def test_losses_by_clear_events_add_up_to_the_loss(settings: LossSettings, reads_all: bool) -> None:
    loss, _, tally = objective(model_of(), batch(), settings, reads_all=reads_all, counts=COUNTS)
    assert int(tally[1].sum()) == sum(LENGTHS), "every event is scored once"
    assert float(tally[0].sum() / tally[1].sum()) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("history", ["compressed", "full"])
@pytest.mark.parametrize("cosine", [False, True])
def test_an_adjustment_gives_the_logits_some_of_the_log_popularity(history: str, cosine: bool) -> None:
    model, settings = model_of(history, cosine=cosine), LossSettings(kind="full", logit_adjustment=0.3)
    loss, *_ = objective(model, batch(), settings, reads_all=True, counts=COUNTS)
    wanted, _ = by_hand(model, batch(), reads_all=True, added=0.3 * (COUNTS[1:] + 1).log())
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("per_row", [False, True])
def test_negatives_are_adjusted_as_targets_are(per_row: bool) -> None:
    """With so many draws that each item is a rival about equally often, a loss is the full one and a constant more."""
    model, draws, gaps = model_of("full"), 2_000 if per_row else 200_000, []
    for adjustment in (0.0, 0.7):
        torch.manual_seed(0)
        sampled = LossSettings(negatives=draws, per_row=per_row, logit_adjustment=adjustment)
        full = LossSettings(kind="full", logit_adjustment=adjustment)
        one, other = (objective(model, batch(), each, reads_all=True, counts=COUNTS).loss for each in (sampled, full))
        gaps.append(one.item() - other.item())
    assert gaps[0] == pytest.approx(gaps[1], abs=0.05)


@pytest.mark.parametrize("reads_all", [False, True])
def test_weighted_losses_are_divided_by_the_weights(reads_all: bool) -> None:
    given = batch()
    weight = torch.rand(given.history.item.shape, generator=torch.Generator().manual_seed(0)) * 5
    loss, _, tally = objective(
        model_of(), given._replace(history=given.history._replace(weight=weight)), LossSettings(), reads_all=reads_all
    )
    assert int(tally[1].sum()) == sum(LENGTHS), "rows count as rows"
    assert float(tally[2].sum()) == pytest.approx(float(weight[given.history.target > 0].sum()), rel=1e-5)
    assert float(tally[0].sum() / tally[2].sum()) == pytest.approx(loss.item(), rel=1e-5)


def test_reads_all_gives_later_rows_r_to_r_plus_s_minus_1_clear_events() -> None:
    long = histories([60])
    every = objective(model_of(), long, LossSettings(kind="full"), reads_all=True).by_clear_events[1]
    none = objective(model_of(), long, LossSettings(kind="full"), reads_all=False).by_clear_events[1]
    assert len(every) <= SEGMENT + RECENT - 1
    assert every[: RECENT - 1].tolist() == [1.0] * (RECENT - 1), "only the first events of the history have fewer"
    assert none[0] == (60 - RECENT) // SEGMENT + 1, "every block begins with one"


def test_a_sampled_loss_with_every_item_in_it_is_the_full_one() -> None:
    """So many draws that each item is among them about equally often."""
    model = model_of()
    torch.manual_seed(0)
    sampled, *_ = objective(model, batch(), LossSettings(negatives=200_000), reads_all=True)
    full, *_ = objective(model, batch(), LossSettings(kind="full"), reads_all=True)
    offset = torch.tensor(200_000 / ITEMS).log()  # each rival is counted that often
    assert sampled.item() > full.item()
    assert sampled.item() - float(offset) == pytest.approx(full.item(), abs=0.8)


@pytest.mark.parametrize("sampler", ["uniform", "popularity", "mixed"])
def test_a_corrected_loss_of_many_draws_is_the_full_one(sampler: Sampler) -> None:
    torch.manual_seed(0)
    settings = LossSettings(negatives=200_000, sampler=sampler, corrected=True)
    targets = batch().history.target
    counts = targets[targets > 0].bincount(minlength=ITEMS + 1)  # those of this batch: in-batch draws are of these
    sampled, *_ = objective(model_of(), batch(), settings, reads_all=True, counts=counts)
    full, *_ = objective(model_of(), batch(), LossSettings(kind="full"), reads_all=True)
    assert sampled.item() == pytest.approx(full.item(), rel=0.01)


@pytest.mark.parametrize("calibration", [0.0, 0.75])
def test_a_binary_loss_by_hand(calibration: float) -> None:
    """One negative, drawn from a batch whose targets are all item 5: where that is the target, nothing is drawn."""
    given = batch()
    target = given.history.target
    given = given._replace(history=given.history._replace(target=target.where(target == 0, 5)))
    model = model_of("full", cosine=False)
    settings = LossSettings(negatives=1, sampler="in-batch", kind="gbce", calibration=calibration)
    loss, *_ = objective(model, given, settings, reads_all=False)
    rate = 1 / (ITEMS - 1)
    power = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    rows: list[Tensor] = []

    def score(hidden: Tensor, history: History) -> None:
        rows.append(hidden[history.target > 0] @ model.items.table[5] / 0.5)

    model(given, score=score, reads_all=False)
    wanted = -power * F.logsigmoid(torch.cat(rows).detach()).mean()
    assert loss.item() == pytest.approx(float(wanted), rel=1e-4)


def test_pairs_by_hand() -> None:
    """One negative, drawn from a batch whose targets are item 5 of the first user, item 6 of the others: pairs of these
    two are all that there is."""
    given = batch()
    target = torch.where(torch.arange(len(LENGTHS))[:, None] == 0, 5, 6).expand_as(given.history.target)
    given = given._replace(history=given.history._replace(target=target.where(given.history.target > 0, 0)))
    model = model_of("full", cosine=False)
    losses: dict[int, list[Tensor]] = {5: [], 6: []}

    def score(hidden: Tensor, history: History) -> None:
        for item, other in ((5, 6), (6, 5)):
            queries = hidden[history.target == item].detach() / 0.5
            gap = queries @ (model.items.table[item] - model.items.table[other])
            losses[item].append(-F.logsigmoid(gap).detach())

    model(given, score=score, reads_all=False)
    rows = sum(LENGTHS)
    expected = {drawn: float(torch.cat(losses[11 - drawn]).sum()) / rows for drawn in (5, 6)}
    found = set()
    for seed in range(8):
        torch.manual_seed(seed)
        settings = LossSettings(negatives=1, sampler="in-batch", kind="bpr")
        found.add(round(objective(model, given, settings, reads_all=False).loss.item(), 5))
    assert sorted(found) == pytest.approx(sorted(expected.values()), rel=1e-4)


def test_in_batch_draws_are_of_the_batch() -> None:
    """So an item that is no target of it gets no gradient as one."""
    given = batch()
    model = model_of()
    torch.manual_seed(0)
    objective(model, given, LossSettings(sampler="in-batch", negatives=3000), reads_all=True)[0].backward()
    touched = model.items.table.grad.abs().sum(dim=1) > 0
    known = torch.cat([given.history.item.flatten(), given.history.target.flatten()]).unique()
    assert set(touched.nonzero().flatten().tolist()) <= set(known.tolist())
    assert set(given.history.target.unique().tolist()) - {0} <= set(touched.nonzero().flatten().tolist())


def test_draws_are_shared_or_per_row_and_follow_the_seed() -> None:
    def loss(seed: int, *, per_row: bool) -> float:
        model = model_of()
        torch.manual_seed(seed)
        return objective(model, batch(), LossSettings(negatives=3, per_row=per_row), reads_all=True)[0].item()

    assert loss(1, per_row=False) == loss(1, per_row=False)
    assert len({loss(1, per_row=False), loss(2, per_row=False), loss(1, per_row=True)}) == 3


def test_the_gradient_is_the_same_with_checkpoints() -> None:
    found = []
    for checkpointed in (False, True):
        model = model_of(checkpointed=checkpointed)
        loss, *_ = objective(model, batch(), LossSettings(kind="full"), reads_all=True)
        loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_batch_without_targets_costs_nothing() -> None:
    given = batch()
    given.history.target.zero_()
    for settings in LOSSES:
        loss, _, tally = objective(model_of(), given, settings, reads_all=True, counts=COUNTS)
        assert loss.item() == 0
        assert not tally.any()
        loss.backward()
