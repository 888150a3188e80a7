"""A foreign model as a backbone: what its layers are given, with a mask and without, and what it refuses.

Shapes: B users, L rows, K tokens, M remembered rows, N layers, D width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from persrec.errors import UserError
from persrec.models.compressor import loop
from persrec.models.hosted import Hosted, TokenMaps
from persrec.models.interfaces import Memory, Rows
from persrec.models.layered import Layered
from persrec.models.segments import SegmentRule, causal, fold_visible
from tests.worlds import LENGTHS, WIDTH, histories

COLUMNS = ("time", "position", "valid", "weight")  # of a memory, beside its states
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


class Encoder:
    """torch's transformer encoder as a host; without `masked` it knows no mask but the causal one."""

    def __init__(self, *, masked: bool = True) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
        for parameter in self.model.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.layers: Sequence[nn.Module] = list(self.model.layers)
        self.width, self.masked = WIDTH, masked

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        square = visible if self.masked else causal(len(visible), 0)
        return self.model(rows.x, mask=~square)


def rows(users: int, length: int, *, seed: int = 0) -> Rows:
    x = torch.randn(users, length, WIDTH, generator=torch.Generator().manual_seed(seed))
    position = torch.arange(length).expand(users, -1)
    return Rows(x, position, position, position, torch.ones(users, length, dtype=torch.bool))


def part(of: Rows, start: int, end: int) -> Rows:
    return Rows(*(field[:, start:end] for field in of))


def folded(host: Encoder, segment: Rows) -> Memory:
    """A memory of the last two rows of a segment, as if they were tokens."""
    users, length = segment.position.shape
    _, kept = Hosted(host).step(segment, keep=torch.arange(length - 2, length))
    assert kept is not None
    last = part(segment, length - 2, length)
    weight = torch.ones(users, 2)
    return Memory(kept[:, :-1], last.time, last.position, last.valid, weight, torch.full((users,), length))


def test_what_is_kept_is_what_each_layer_was_given() -> None:
    host, block = Encoder(), rows(2, 6)
    hidden, kept = Hosted(host).step(block, keep=torch.tensor([1, 4]))
    assert kept is not None
    x, mask = block.x, ~causal(6, 0)
    for layer, given in enumerate(kept.unbind(dim=1)):
        torch.testing.assert_close(given, x[:, [1, 4]], **TOLERANCE)
        x = host.model.layers[layer](x, src_mask=mask) if layer < 3 else x
    torch.testing.assert_close(hidden, x, **TOLERANCE)


def test_a_read_is_the_dense_pass_in_which_only_the_tokens_of_the_segment_are_seen() -> None:
    host, whole = Encoder(), rows(2, 11)
    memory = folded(host, part(whole, 0, 6))
    hidden, _ = Hosted(host).step(part(whole, 6, 11), memory)
    visible = causal(11, 0)
    visible[6:, :4] = False
    torch.testing.assert_close(hidden, host.run(whole, 0, visible)[:, 6:], **TOLERANCE)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_every_layer_reads_its_own_plane(plane: int) -> None:
    host, whole = Encoder(), rows(1, 8)
    memory = folded(host, part(whole, 0, 5))
    changed = replace(memory, states=memory.states.clone())
    changed.states[:, plane] = torch.randn_like(changed.states[:, plane])
    one, other = (Hosted(host).step(part(whole, 5, 8), given)[0] for given in (memory, changed))
    assert not torch.allclose(one, other, atol=1e-3)


def test_two_passes_are_the_masked_fold() -> None:
    """Segment of 4, 3 events after it, 2 tokens: with a mask one pass, without it two; the same numbers."""
    block, memory = rows(2, 9), folded(Encoder(), rows(2, 5, seed=1))
    visible, keep = fold_visible(4, 3, 2, memory.rows), torch.tensor([7, 8])
    backbones = Hosted(Encoder()), Hosted(Encoder(masked=False))
    one, two = (backbone.step(block, memory, keep=keep, visible=visible) for backbone in backbones)
    assert one[1] is not None
    assert two[1] is not None
    torch.testing.assert_close(one[0], two[0], **TOLERANCE)
    torch.testing.assert_close(one[1], two[1], **TOLERANCE)


def test_users_with_memories_of_different_size_are_each_as_if_alone() -> None:
    host, block = Encoder(), rows(3, 4)
    memory = folded(host, rows(3, 5, seed=1))
    ragged = replace(memory, valid=torch.tensor([[True, True], [False, False], [False, True]]))
    keep = torch.tensor([3])
    hidden, kept = Hosted(host).step(block, ragged, keep=keep)
    assert kept is not None
    for user, size in enumerate([2, 0, 1]):
        own = replace(
            ragged,
            states=ragged.states[user : user + 1, :, 2 - size :],
            **{
                name: getattr(ragged, name)[user : user + 1, 2 - size :]
                for name in ("time", "position", "valid", "weight")
            },
        )
        alone, alone_kept = Hosted(host).step(Rows(*(field[user : user + 1] for field in block)), own, keep=keep)
        assert alone_kept is not None
        torch.testing.assert_close(hidden[user], alone[0], **TOLERANCE)
        torch.testing.assert_close(kept[user], alone_kept[0], **TOLERANCE)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("checkpointed", [True, False])
def test_our_loop_trains_it(masked: bool, checkpointed: bool) -> None:
    """Every event is scored once, and gradients reach table, tokens and host, the same with checkpoints and without."""
    host, rule = Encoder(masked=masked), SegmentRule(5, 4)
    compressor = Layered(tokens=2, width=WIDTH, layers=3)
    nn.init.normal_(compressor.tokens)
    table = torch.randn(41, WIDTH, requires_grad=True)
    scored: list[int] = []

    def score(hidden: Tensor, history: Any) -> Tensor:
        scored.append(int((history.target > 0).sum()))
        return (hidden * (history.target > 0)[..., None]).square().sum()

    batch = histories(LENGTHS)
    batch.history.target.clamp_(min=1).mul_(batch.history.valid)
    looped = loop(
        Hosted(host),
        compressor,
        lambda items: table[items],
        batch,
        rule,
        score=score,
        reads_all=True,
        checkpointed=checkpointed,
    )
    assert sum(scored) == sum(LENGTHS)
    leaves = [table, compressor.tokens, *host.model.parameters()]
    found = torch.autograd.grad(torch.stack(looped.scored).sum(), leaves)
    assert all(bool(gradient.abs().sum() > 0) for gradient in found)
    if checkpointed:
        plain = loop(Hosted(host), compressor, lambda items: table[items], batch, rule, score=score, reads_all=True)
        for mine, theirs in zip(found, torch.autograd.grad(torch.stack(plain.scored).sum(), leaves), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_no_hook_is_left_even_when_the_host_fails() -> None:
    host = Encoder()
    with pytest.raises(RuntimeError):
        Hosted(host).step(rows(1, 3)._replace(x=torch.zeros(1, 3, WIDTH + 1)))
    assert not any(module._forward_pre_hooks for module in host.model.modules())


def test_rows_that_are_padded_in_front_are_refused() -> None:
    block = rows(1, 3)
    with pytest.raises(ValueError, match="must be padded on the right: got invalid rows in front of valid ones"):
        Hosted(Encoder()).step(block._replace(valid=torch.tensor([[False, True, True]])))


def test_a_mask_that_is_not_that_of_a_fold_needs_a_host_that_takes_one() -> None:
    with pytest.raises(ValueError, match="Encoder takes no mask: got one that is not that of a fold"):
        Hosted(Encoder(masked=False)).step(rows(1, 3), keep=torch.tensor([2]), visible=torch.eye(3).bool()[None])


def test_layers_that_are_not_called_once_are_refused() -> None:
    host = Encoder()
    host.layers = [*host.layers, nn.Linear(WIDTH, WIDTH)]
    with pytest.raises(UserError, match=r"its 4 layers were called \[1, 1, 1, 0\] times, expected once each"):
        Hosted(host).step(rows(1, 3))


def test_modules_that_are_not_given_the_rows_are_refused() -> None:
    class Counted(nn.Module):
        def forward(self, rows: int) -> None: ...

    host, counted = Encoder(), Counted()
    run, host.layers = host.run, [*host.layers, counted]
    host.run = lambda *given: (counted(3), run(*given))[1]  # type: ignore[func-returns-value,method-assign,assignment]
    with pytest.raises(UserError, match=r"a layer of the host was given no tensor of \(1, 3, 16\) hidden rows"):
        Hosted(host).step(rows(1, 3))


def test_fresh_maps_change_nothing_and_others_only_what_tokens_are_given() -> None:
    host, block, keep = Encoder(), rows(2, 9), torch.tensor([5, 6, 7, 8])
    maps = TokenMaps(layers=3, tokens=2, width=WIDTH)
    plain, kept = Hosted(host).step(block, keep=keep)
    fresh, fresh_kept = Hosted(host, maps=maps).step(block, keep=keep)
    torch.testing.assert_close((fresh, fresh_kept), (plain, kept), **TOLERANCE)
    with torch.no_grad():
        maps.weight += 0.1 * torch.randn(maps.weight.shape)
        maps.bias += 0.1 * torch.randn(maps.bias.shape)
    hidden, given = Hosted(host, maps=maps).step(block, keep=keep)
    assert given is not None
    assert kept is not None
    torch.testing.assert_close(hidden[:, :5], plain[:, :5], **TOLERANCE)  # rows before the tokens
    torch.testing.assert_close(given[:, 0], kept[:, 0], **TOLERANCE)  # layer 1 is given the tokens themselves
    expected = kept[:, 1] @ maps.weight[0] + maps.bias[0].repeat(2, 1)
    torch.testing.assert_close(given[:, 1], expected, **TOLERANCE)
    assert (hidden[:, 5:] - plain[:, 5:]).abs().max() > 0.01
