"""Losses equal those of RecTools 0.19 on its own logits, gBCE's calibration included; needs rectools, so numpy < 2."""

from typing import Any

import pytest
import torch
from torch import Tensor

from persrec.losses import binary_cross_entropy, full_softmax, gbce_power, sampled_softmax

pytest.importorskip("rectools.models", reason="needs rectools (pip install 'rectools==0.19.*'), so numpy < 2")

ITEMS, USERS, ROWS, WIDTH, NEGATIVES = 30, 4, 6, 5, 7


@pytest.fixture(scope="module", params=[0.0, 0.2, 0.75, 1.0])
def peer(request: pytest.FixtureRequest) -> Any:
    """RecTools' Lightning module after a fit with gBCE, at one calibration."""
    from tests.plug.rectools_log import fitted

    model = fitted("SASRecModel", loss="gBCE", n_negatives=NEGATIVES, gbce_t=request.param).lightning_model
    assert model.torch_model.item_model.n_items - len(model.item_extra_tokens) == ITEMS
    return model


class World:
    """Rows, a table whose row 0 is PAD, and negatives none of which is a target, in float64."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.queries = torch.randn(USERS, ROWS, WIDTH, dtype=torch.float64)
        self.table = torch.randn(ITEMS + 1, WIDTH, dtype=torch.float64)
        self.target = torch.randint(1, ITEMS // 2, (USERS, ROWS))
        self.negatives = torch.randint(ITEMS // 2, ITEMS + 1, (USERS, ROWS, NEGATIVES))
        self.weight = torch.rand(USERS, ROWS, dtype=torch.float64)

    def logits(self) -> Tensor:
        """(B, L, 1 + J): the target's, then its negatives'."""
        items = torch.cat([self.target[..., None], self.negatives], dim=-1)
        return torch.einsum("bld,bljd->blj", self.queries, self.table[items])

    def rows(self) -> tuple[Tensor, ...]:
        """What our sampled losses take."""
        target, drawn = self.target.flatten(), self.negatives.flatten(0, 1)
        return self.queries.flatten(0, 1), self.table[target], self.table, target, drawn, self.weight.flatten()


@pytest.fixture(params=range(3))
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def test_bce(world: World, peer: Any) -> None:
    theirs = peer._calc_bce_loss(world.logits(), world.target, world.weight)
    torch.testing.assert_close(binary_cross_entropy(*world.rows()).mean(), theirs)


def test_gbce(world: World, peer: Any) -> None:
    theirs = peer._calc_gbce_loss(world.logits(), world.target, world.weight)
    power = gbce_power(NEGATIVES, ITEMS, peer.gbce_t)
    torch.testing.assert_close(binary_cross_entropy(*world.rows(), power=power).mean(), theirs, rtol=1e-6, atol=1e-8)


def test_sampled_softmax(world: World, peer: Any) -> None:
    theirs = peer._calc_sampled_softmax_loss(world.logits(), world.target, world.weight)
    torch.testing.assert_close(sampled_softmax(*world.rows()).mean(), theirs)


def test_full_softmax(world: World, peer: Any) -> None:
    """RecTools counts PAD, its item 0, among the items: it is given a logit of its own that rules it out."""
    logits = world.queries @ world.table.T
    logits[..., 0] = -1e9
    theirs = peer._calc_softmax_loss(logits, world.target, world.weight)
    queries, _, _, target, _, weight = world.rows()
    torch.testing.assert_close(full_softmax(queries, world.table, target, weight).mean(), theirs)
