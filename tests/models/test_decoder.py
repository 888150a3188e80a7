"""A decoder as a backbone: the promises of our own ones, on ragged histories with shifted boundaries.

Shapes: B users, D width.
"""

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from persrec.batches import Batch
from persrec.errors import UserError
from persrec.models import decoder as decoders
from persrec.models.compressor import loop, read
from persrec.models.decoder import DecoderBackbone, small_decoder
from persrec.models.rows import rows_of
from tests.worlds import LENGTHS, WIDTH, World, histories

KINDS = {"layered": {}, "layered, capped": {"cap": 2}, "recurrent": {"memory": "recurrent"}}
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def world(request: pytest.FixtureRequest) -> World:
    made = World(segment=4, recent=3, **request.param)
    torch.manual_seed(0)
    made.backbone = DecoderBackbone(small_decoder(width=WIDTH, layers=3, heads=2, dropout=0.0)).eval()  # type: ignore[assignment]
    for parameter in made.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def alone(batch: Batch, index: int, events: int) -> Batch:
    """One user's first events, as a batch of its own."""
    history = batch.history.each(lambda field: field[index : index + 1, :events])
    return Batch(history, torch.tensor([events]), batch.user[index : index + 1])


def hidden_of(world: World, batch: Batch, *, reads_all: bool = False) -> list[Tensor]:
    return loop(
        world.backbone,
        world.compressor,
        world.encode,
        batch,
        world.rule,
        reads_all=reads_all,
        score=lambda hidden, history: world.vectors(hidden)[history.target > 0],
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
