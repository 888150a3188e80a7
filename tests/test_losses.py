"""Losses against torch's own cross-entropy and by hand, on five items."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from persrec.losses import Bonus, full_softmax, sampled_softmax

ITEMS, ROWS, WIDTH = 11, 7, 4
CHUNKS = [1, 4, 5, 11, 23, 1 << 24]  # logits at a time: a row in parts of the catalogue, a row, two rows, all rows


def inputs(*, grad: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, a table whose row 0 is PAD, targets and weights, in float64."""
    torch.manual_seed(0)
    queries = torch.randn(ROWS, WIDTH, dtype=torch.float64) * 3
    table = torch.randn(ITEMS + 1, WIDTH, dtype=torch.float64) * 3
    target = torch.tensor([1, ITEMS, 5, 5, 2, 7, 1])
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 3.0, 1.0], dtype=torch.float64)
    return queries.requires_grad_(grad), table.requires_grad_(grad), target, weight


def reference(queries: Tensor, table: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(queries @ table[1:].T, target - 1, reduction="none") * weight


@pytest.mark.parametrize("chunk", CHUNKS)
def test_full_softmax_is_the_cross_entropy_and_so_is_its_gradient(chunk: int) -> None:
    queries, table, target, weight = inputs()
    got, wanted = full_softmax(queries, table, target, weight, chunk=chunk), reference(queries, table, target, weight)
    torch.testing.assert_close(got, wanted)
    found = torch.autograd.grad(got.sum() * 2.5, [queries, table])
    expected = torch.autograd.grad(wanted.sum() * 2.5, [queries, table])
    for gradient, slow in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, slow)
    assert not found[1][0].any(), "PAD is no item"


@pytest.mark.parametrize("chunk", CHUNKS)
def test_full_softmax_passes_the_gradient_check(chunk: int) -> None:
    queries, table, target, weight = inputs()
    assert torch.autograd.gradcheck(
        lambda q, t: full_softmax(q, t, target, weight, chunk=chunk).sum(), (queries, table)
    )


def test_full_softmax_of_large_logits_is_finite() -> None:
    queries, table, target, weight = inputs(grad=False)
    loss = full_softmax((queries * 1e4).float(), table.float(), target, weight.float(), chunk=4)
    assert bool(loss.isfinite().all())


def test_full_softmax_of_no_rows_is_empty() -> None:
    queries, table, target, weight = inputs()
    loss = full_softmax(queries[:0], table, target[:0], weight[:0])
    assert loss.shape == (0,)
    assert not torch.autograd.grad(loss.sum(), table)[0].any()


def test_full_softmax_refuses_gradients_that_differ_between_rows() -> None:
    queries, table, target, weight = inputs()
    loss = full_softmax(queries, table, target, weight)
    with pytest.raises(RuntimeError, match="can only be summed; put what differs between rows into `weight`"):
        (loss * torch.arange(ROWS)).sum().backward()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("items", "chunk"), [(200, 1000), (3000, 1000)])
def test_memory_of_the_full_softmax_is_bounded_by_the_chunk(items: int, chunk: int) -> None:
    rows, width = 400, 2  # rows x items is 80 and 1200 times the chunk
    queries, table = torch.randn(rows, width, requires_grad=True), torch.randn(items + 1, width, requires_grad=True)
    with Largest() as largest:
        full_softmax(
            queries, table, torch.randint(1, items + 1, (rows,)), torch.ones(rows), chunk=chunk
        ).sum().backward()
    assert largest.elements <= max(chunk, table.numel(), queries.numel())


def test_sampled_softmax_by_hand() -> None:
    """Five items on a line; item 2 is the target, items 4, 2 and 5 were drawn, of which 2 is masked."""
    vectors = torch.tensor([[9.0], [0.0], [1.0], [2.0], [3.0], [-1.0]])  # PAD, then items 1 to 5
    query, target, negatives = torch.tensor([[2.0]]), torch.tensor([2]), torch.tensor([4, 2, 5])
    loss = sampled_softmax(query, vectors[target], vectors[negatives], target, negatives, torch.tensor([0.5]))
    by_hand = -math.log(math.exp(2) / (math.exp(2) + math.exp(6) + math.exp(-2))) * 0.5
    assert loss.tolist() == pytest.approx([by_hand])


def test_a_collision_is_masked_in_its_own_row_only() -> None:
    queries, table, target, weight = inputs()
    negatives = torch.tensor([5, 9])
    loss = sampled_softmax(queries, table[target], table[negatives], target, negatives, weight)
    for row in range(ROWS):
        rivals = [int(target[row]), *[item for item in (5, 9) if item != int(target[row])]]
        logits = queries[row] @ table[rivals].T
        torch.testing.assert_close(loss[row], (logits.logsumexp(0) - logits[0]) * weight[row])


def test_shared_negatives_and_the_same_ones_per_row_agree() -> None:
    queries, table, target, weight = inputs()
    shared = torch.tensor([3, 5, 1, 11])
    per_row = shared.expand(ROWS, -1)
    together = sampled_softmax(queries, table[target], table[shared], target, shared, weight)
    apart = sampled_softmax(queries, table[target], table[per_row], target, per_row, weight)
    torch.testing.assert_close(together, apart)
    for one, other in zip(
        torch.autograd.grad(together.sum(), [queries, table]),
        torch.autograd.grad(apart.sum(), [queries, table]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_all_items_as_negatives_are_the_full_softmax() -> None:
    queries, table, target, weight = inputs()
    every = torch.arange(1, ITEMS + 1)
    sampled = sampled_softmax(queries, table[target], table[every], target, every, weight)
    torch.testing.assert_close(sampled, full_softmax(queries, table, target, weight))


def bonus_of(rows: int, items: int, seed: int = 0) -> Bonus:
    """Some pairs of row and item, in the order of the rows, rows without any among them."""
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand(rows, items, generator=random) < 0.3
    chosen[1] = False
    row, item = chosen.nonzero().unbind(dim=1)
    return Bonus(row, item + 1, torch.randn(len(row), generator=random))


@pytest.mark.parametrize("chunk", [4, 21, 1000])
def test_a_bonus_is_added_to_its_logits(chunk: int) -> None:
    """As torch's own cross-entropy over a dense table of additions, gradients included."""
    torch.manual_seed(0)
    parts = [torch.randn(9, 5), torch.randn(8, 5), bonus_of(9, 7).value]
    target, weight = torch.randint(1, 8, (9,)), torch.rand(9)
    given = bonus_of(9, 7)
    assert bool((given.item == target[given.row]).any())
    assert not bool((given.item == target[given.row]).all())

    def by_torch(queries: Tensor, table: Tensor, value: Tensor) -> Tensor:
        dense = torch.zeros(9, 7).index_put((given.row, given.item - 1), value)
        return (F.cross_entropy(queries @ table[1:].T + dense, target - 1, reduction="none") * weight).sum()

    def by_us(queries: Tensor, table: Tensor, value: Tensor) -> Tensor:
        return full_softmax(queries, table, target, weight, chunk=chunk, bonus=given._replace(value=value)).sum()

    slow, fast = ([part.clone().requires_grad_() for part in parts] for _ in range(2))
    expected, found = by_torch(*slow), by_us(*fast)
    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
