"""What single folds of the memories of a fixed size and of the merged one give, by hand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from persrec.models.interfaces import Backbone, Memory, Rows
from persrec.models.layered import Layered
from persrec.models.pooled import DecayedMean, MergedNeighbours, Prototypes, SegmentMean
from persrec.models.recurrent import Recurrent
from tests.worlds import WIDTH, World, histories

S = 4


def rows(x: Tensor, *, first: int = 0, valid: Tensor | None = None) -> Rows:
    """A segment (B, S, D) of events 1,000 ms apart."""
    position = (first + torch.arange(x.shape[1])).expand(len(x), -1)
    return Rows(
        x, position * 1000, position * 1000, position, torch.ones_like(position).bool() if valid is None else valid
    )


def world() -> tuple[Backbone, Tensor]:
    """A backbone and the vectors (2 users, 3 segments, S, D) of their events."""
    return World(segment=S, recent=1).backbone, torch.randn(2, 3, S, WIDTH)


def folded(compressor: object, backbone: Backbone, x: Tensor) -> Memory:
    memory = compressor.start(len(x))  # type: ignore[attr-defined]
    for segment in range(x.shape[1]):
        _, memory = compressor.fold(backbone, rows(x[:, segment], first=segment * S), memory)  # type: ignore[attr-defined]
    return memory


@torch.no_grad()
def test_decayed_means() -> None:
    """With half-lives of 32 and 64 events, over everything at once."""
    backbone, x = world()
    memory = folded(DecayedMean(tokens=2, width=WIDTH), backbone, x)
    every, ago = x.flatten(1, 2), torch.arange(3 * S - 1, -1, -1)
    for slot, half_life in enumerate((32, 64)):
        share = 0.5 ** (ago / half_life)
        mean = (every * share[:, None]).sum(dim=1) / share.sum()
        torch.testing.assert_close(memory.states[:, 0, slot], mean)
        torch.testing.assert_close(memory.weight[:, slot], share.sum().expand(2))
    assert memory.position.unique().tolist() == [3 * S - 1]


@torch.no_grad()
def test_segment_means_and_events_that_do_not_exist() -> None:
    backbone, x = world()
    compressor = SegmentMean(width=WIDTH, cap=2)
    memory = folded(compressor, backbone, x)
    torch.testing.assert_close(memory.states[:, 0], x[:, 1:].mean(dim=2))
    short = torch.ones(2, S, dtype=torch.bool)
    short[0, :3] = False
    _, one = compressor.fold(backbone, rows(x[:, 0], valid=short), compressor.start(2))
    torch.testing.assert_close(one.states[0, 0, 0], x[0, 0, 3])
    assert one.weight.flatten().tolist() == [1, 4]


@torch.no_grad()
def test_merged_neighbours() -> None:
    """Two runs of the same vector and one of another become three rows, whatever else stands between them in time."""
    backbone, x = world()
    a, b, c = torch.eye(WIDTH)[:3]
    x = torch.stack([a, a, b, b, b, b, c, c])[None].unflatten(1, (2, S))
    memory = folded(MergedNeighbours(tokens=3, width=WIDTH), backbone, x)
    torch.testing.assert_close(memory.states[0, 0], torch.stack([a, b, c]))
    assert memory.weight.tolist() == [[2, 4, 2]]
    assert memory.position.tolist() == [[1, 5, 7]], "a row stands where its newest event stood"


@torch.no_grad()
def test_prototypes_are_means_by_shares() -> None:
    backbone, x = world()
    compressor = Prototypes(tokens=3, width=WIDTH)
    memory = folded(compressor, backbone, x)
    every = x.flatten(1, 2)
    share = (F.normalize(every, dim=-1) @ F.normalize(compressor.prototypes, dim=-1).T * 10).softmax(dim=-1)
    torch.testing.assert_close(memory.weight, share.sum(dim=1), rtol=1e-4, atol=1e-5)
    means = share.transpose(1, 2) @ every / share.sum(dim=1)[:, :, None]
    torch.testing.assert_close(memory.states[:, 0], means, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_residual_write_starts_from_the_old_slot_and_a_fresh_one_does_not() -> None:
    backbone, x = world()
    fresh, residual = (Recurrent(tokens=2, width=WIDTH, write=write) for write in ("fresh", "residual"))
    memory = folded(residual, backbone, x)
    assert fresh.written(memory) is fresh.tokens
    old = F.normalize(memory.states[:, 0], dim=-1)
    torch.testing.assert_close(residual.written(memory), residual.tokens + old)
    unknown = Memory(**{**vars(memory), "valid": torch.zeros_like(memory.valid)})
    torch.testing.assert_close(residual.written(unknown), residual.tokens.expand(2, -1, -1))


@torch.no_grad()
def test_a_gated_write_between_old_and_new() -> None:
    backbone, x = world()
    gated = Recurrent(tokens=2, width=WIDTH, write="gated")
    memory = folded(gated, backbone, x[:, :2])
    gated.gate.weight.zero_()
    output = torch.randn(2, 2, WIDTH)
    for bias, expected in ((-50.0, memory.states[:, 0]), (50.0, F.normalize(output, dim=-1))):
        gated.gate.bias.fill_(bias)
        torch.testing.assert_close(gated.mixed(memory, output), F.normalize(expected, dim=-1))


@torch.no_grad()
def test_merged_blocks_are_the_digits_of_the_number_of_segments() -> None:
    """Of seven segments three blocks are left, of four, two and one; their rows are means by events."""
    layered = Layered(tokens=2, width=WIDTH, layers=3)
    merging = Layered(tokens=2, width=WIDTH, layers=3, merge_segments=S)
    merging.load_state_dict(layered.state_dict())
    backbone, x = World(segment=S, recent=1, layers=3).backbone, torch.randn(1, 7, S, WIDTH)
    memory = folded(merging, backbone, x)
    assert memory.weight.tolist() == [[8, 8, 4, 4, 2, 2]]
    assert memory.position.tolist() == [[15, 15, 23, 23, 27, 27]]
    first = folded(layered, backbone, x[:, :2])  # nothing has been read of a merged row before the third segment
    two = folded(merging, backbone, x[:, :2])
    torch.testing.assert_close(two.states[:, 1], first.states[:, 1].unflatten(1, (2, 2)).mean(dim=1))


@pytest.mark.parametrize("memory", ["recurrent", "layered"])
def test_the_gradient_ends_where_it_is_cut(memory: str) -> None:
    """With a cut before every second segment, some old events have a gradient and the oldest have none."""

    built = World(segment=S, recent=1, memory=memory, together=8)
    batch = histories([8 * S + 1])
    batch.history.item[0] = torch.arange(1, 8 * S + 2)

    def score(hidden: Tensor, *_: object) -> Tensor:
        return hidden

    found = []
    for every in (None, 2):
        looped = built.run(batch, score=score, detach_every=every)
        (gradient,) = torch.autograd.grad(looped.scored[-1].square().sum(), built.table)
        found.append(gradient.abs().sum(dim=1)[1 : 8 * S + 1] > 0)
        last = looped.scored[-1]
    assert bool(found[0].all())
    assert not bool(found[1][: 5 * S].any())
    assert bool(found[1][7 * S :].all())
    assert last.shape[1] == 1
