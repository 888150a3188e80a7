"""A decoder as a backbone: the promises of our own ones, on ragged histories with shifted boundaries.

Shapes: B users, D width.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from persrec.batches import Batch
from persrec.errors import UserError
from persrec.models import decoder as decoders
from persrec.models.build import build
from persrec.models.compressor import read
from persrec.models.decoder import DecoderBackbone, small_decoder
from persrec.models.hosted import TokenMaps
from persrec.models.model import Model
from persrec.models.rows import rows_of
from persrec.recipe.recipe import parse
from tests.worlds import LENGTHS, WIDTH, World, histories

KINDS: dict[str, dict[str, Any]] = {
    "layered": {},
    "layered, capped": {"cap": 2},
    "layered, own projections": {"token_options": ("own_projections",)},
    "recurrent": {"memory": "recurrent"},
    "recurrent, own projections": {"memory": "recurrent", "token_options": ("own_projections",)},
}
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def world(request: pytest.FixtureRequest) -> World:
    made = World(segment=4, recent=3, **request.param)
    torch.manual_seed(0)
    maps = TokenMaps(layers=3, tokens=2, width=WIDTH) if "token_options" in request.param else None
    decoder = small_decoder(width=WIDTH, layers=3, heads=2, dropout=0.0)
    made.backbone = DecoderBackbone(decoder, maps).eval()  # type: ignore[assignment]
    for parameter in made.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def alone(batch: Batch, index: int, events: int) -> Batch:
    """One user's first events, as a batch of its own."""
    history = batch.history.each(lambda field: field[index : index + 1, :events])
    return Batch(history, torch.tensor([events]), batch.user[index : index + 1])


def hidden_of(world: World, batch: Batch, *, reads_all: bool = False) -> list[Tensor]:
    return world.run(
        batch, reads_all=reads_all, score=lambda hidden, history: world.vectors(hidden)[history.target > 0]
    ).scored


def last(world: World, batch: Batch) -> Tensor:
    return hidden_of(world, batch)[-1][-1]


def test_a_trained_row_is_the_served_query_whoever_else_is_in_the_batch(world: World) -> None:
    batch = histories(LENGTHS)
    rows = torch.cat(hidden_of(world, batch, reads_all=True))
    served = torch.stack(
        [last(world, alone(batch, index, n + 1)) for index, events in enumerate(LENGTHS) for n in range(events)]
    )
    distance = (rows[:, None] - served[None]).abs().amax(dim=-1)
    assert len(rows) == sum(LENGTHS)
    assert distance.amin(dim=0).max() < 1e-5
    assert distance.amin(dim=1).max() < 1e-5


def test_a_cached_read_is_the_loop(world: World) -> None:
    batch = histories(LENGTHS)
    closed = world.rule.closed(batch.events)
    for index, events in enumerate(LENGTHS):
        one, memory = alone(batch, index, events), world.compressor.start(1)
        for block in range(int(closed[index])):
            part = one.history.part(1, 4 * block, 4 * (block + 1))
            _, memory = world.compressor.fold(world.backbone, rows_of(part, world.encode), memory)
        hidden, history = read(world.backbone, world.encode, one, closed[index : index + 1], world.rule, memory)
        found = world.vectors(hidden[history.valid][-1])
        torch.testing.assert_close(found, last(world, one), **TOLERANCE)


def test_padding_in_front_changes_nothing(world: World) -> None:
    batch = histories([13, 9], shift=[3, 1])
    before = hidden_of(world, batch)
    batch.history.item[~batch.history.valid] = 7
    for one, other in zip(before, hidden_of(world, batch), strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()


def test_the_memory_is_read_and_the_future_is_not(world: World) -> None:
    batch = histories([15])
    before = torch.cat(hidden_of(world, batch))
    batch.history.item[0, 10] = (batch.history.item[0, 10] + 1) % 30 + 1
    changed = (torch.cat(hidden_of(world, batch)) - before).abs().amax(dim=1) > 1e-6
    assert not changed[:10].any()
    assert changed[10:].all()


def test_a_history_beyond_its_positions_says_which_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "POSITIONS", 4)
    world.backbone = DecoderBackbone(small_decoder(width=WIDTH, layers=3, heads=2, dropout=0.0))  # type: ignore[assignment]
    message = "positions, from the oldest remembered event to the newest, do not fit: the host takes at most 4 .max_pos"
    with pytest.raises(UserError, match=message):
        hidden_of(world, histories([40]))


@pytest.mark.parametrize("kind", ["layered", "recurrent"])
def test_own_projections_of_a_recipe_start_as_none_and_are_learned_for_tokens_alone(kind: str) -> None:
    def made(history: str, **memory: Any) -> Model:
        sections = {
            "model": {"kind": "decoder", "width": 16},
            "memory": {"segment": 4, "recent": 3, "kind": kind} | memory,
        }
        return build(parse({**sections, "time": "none", "history": history}, "of this test"), items=40).eval()

    plain, own = made("compressed"), made("compressed", own_projections=True)
    batch, short = histories([23]), histories([6])
    before = own.queries(batch)
    torch.testing.assert_close(plain.queries(batch), before, atol=0.0, rtol=0.0)
    own(batch, score=lambda hidden, events: hidden.sum()).scored[-1].backward()
    maps = own.backbone.maps
    assert isinstance(maps, TokenMaps)
    assert maps.weight.grad is not None
    assert maps.weight.grad.any()
    with torch.no_grad():
        maps.weight.normal_(std=0.3)
    assert not torch.allclose(before, own.queries(batch), atol=1e-4)
    torch.testing.assert_close(plain.queries(short), own.queries(short))  # no row is a token
    assert own.maker() != plain.maker()
    assert made("full", own_projections=True).state_dict().keys() == made("full").state_dict().keys()
