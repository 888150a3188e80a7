"""Losses against torch's own cross-entropies and by hand, on five items."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from persrec.losses import (
    CACHED,
    FEWEST_ROWS,
    Bonus,
    binary_cross_entropy,
    bpr,
    full_softmax,
    gbce_power,
    info_nce,
    pair_products,
    sampled_softmax,
    without,
)
from persrec.negatives import Sampler, draw, expected

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
    still = full_softmax(queries, table.detach(), target, weight, chunk=chunk)
    torch.testing.assert_close(torch.autograd.grad(still.sum() * 2.5, queries)[0], expected[0])


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


@pytest.mark.parametrize(("items", "rows"), [(CACHED // 64, 64), (CACHED // 4, FEWEST_ROWS)])
def test_blocks_of_the_full_softmax_stay_in_the_cache(items: int, rows: int) -> None:
    """Whatever the chunk allows; with a large catalogue some rows are taken together all the same."""
    queries, table = torch.randn(3 * FEWEST_ROWS, 1), torch.randn(items + 1, 1)
    with Largest() as largest:
        full_softmax(
            queries, table, torch.ones(len(queries), dtype=torch.int64), torch.ones(len(queries)), chunk=1 << 30
        )
    assert largest.elements == rows * items


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
    apart = sampled_softmax(queries, table[target], table, target, per_row, weight)
    torch.testing.assert_close(together, apart)
    for one, other in zip(
        torch.autograd.grad(together.sum(), [queries, table]),
        torch.autograd.grad(apart.sum(), [queries, table]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def chosen_inputs(count: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`inputs` with negatives of each row; some repeat themselves, and some are the target."""
    return *inputs(), torch.randint(1, ITEMS + 1, (ROWS, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("loss", [sampled_softmax, binary_cross_entropy, info_nce])
@pytest.mark.parametrize("count", [6, ITEMS, ITEMS + 1, 30])
def test_negatives_of_each_row_are_as_those_of_a_row_by_itself(loss: Callable[..., Tensor], count: int) -> None:
    queries, table, target, weight, negatives = chosen_inputs(count)
    fast = loss(queries, table[target], table, target, negatives, weight)
    one_by_one = [
        loss(queries[row], table[target[row]], table[own], target[row], own, weight[row])
        for row, own in zip(torch.arange(ROWS)[:, None], negatives, strict=True)
    ]
    slow = torch.cat(one_by_one)
    torch.testing.assert_close(fast, slow)
    for one, other in zip(
        torch.autograd.grad(fast.sum(), [queries, table]),
        torch.autograd.grad(slow.sum(), [queries, table]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_negatives_as_rows_of_the_table_pass_the_gradient_check() -> None:
    queries, table, target, weight, negatives = chosen_inputs()
    assert torch.autograd.gradcheck(
        lambda q, t: sampled_softmax(q, t[target], t, target, negatives, weight), (queries, table)
    )


@pytest.mark.parametrize(("rows", "count"), [(0, 4), (ROWS, 0), (0, 0)])
def test_no_rows_and_no_negatives_cost_nothing(rows: int, count: int) -> None:
    queries, table, target, weight, negatives = chosen_inputs()
    given = target[:rows], negatives[:rows, :count], weight[:rows]
    loss = sampled_softmax(queries[:rows], table[given[0]], table, *given)
    assert loss.tolist() == [0.0] * rows
    assert not torch.autograd.grad(loss.sum(), table)[0].any()


def test_negatives_as_rows_of_the_table_are_never_gathered() -> None:
    rows, items, count, width = 50, 40, 30, 16
    queries, table = torch.randn(rows, width, requires_grad=True), torch.randn(items + 1, width, requires_grad=True)
    target, negatives = torch.randint(1, items + 1, (rows,)), torch.randint(1, items + 1, (rows, count))
    with Largest() as largest:
        sampled_softmax(queries, table[target], table, target, negatives, torch.ones(rows)).sum().backward()
    assert largest.elements <= rows * (items + 1)  # a sparse matrix counts by its shape


def test_all_items_as_negatives_are_the_full_softmax() -> None:
    queries, table, target, weight = inputs()
    every = torch.arange(1, ITEMS + 1)
    sampled = sampled_softmax(queries, table[target], table[every], target, every, weight)
    torch.testing.assert_close(sampled, full_softmax(queries, table, target, weight))


def test_a_rare_negative_counts_for_as_many_as_it_stands_for_by_hand() -> None:
    """Item 4 is drawn twice on average and counts half, item 5 every fourth time and counts four times."""
    vectors = torch.tensor([[9.0], [0.0], [1.0], [2.0], [3.0], [-1.0]])
    query, target, negatives = torch.tensor([[2.0]]), torch.tensor([2]), torch.tensor([4, 2, 5])
    often = torch.tensor([2.0, 1.0, 0.25])
    one = torch.ones(1)
    loss = sampled_softmax(query, vectors[target], vectors[negatives], target, negatives, one, expected=often)
    by_hand = -math.log(math.exp(2) / (math.exp(2) + math.exp(6) / 2 + math.exp(-2) * 4))
    assert loss.tolist() == pytest.approx([by_hand])


@pytest.mark.parametrize("sampler", ["uniform", "popularity", "in-batch", "mixed"])
@pytest.mark.parametrize("per_row", [False, True])
def test_corrected_denominators_are_on_average_those_of_the_full_softmax(sampler: Sampler, per_row: bool) -> None:
    """Over draws, and for in-batch negatives over batches of a training set in which every item is a target."""
    torch.manual_seed(0)
    queries, table, target, _ = (part.detach().float() for part in inputs(grad=False))
    queries, target, one = queries / 3, target.long(), torch.ones(ROWS)
    counts = torch.tensor([0, 9, 1, 1, 2, 4, 1, 7, 2, 1, 1, 3])
    training = torch.repeat_interleave(torch.arange(ITEMS + 1), counts)
    right = (queries * table[target]).sum(dim=1)
    found = torch.zeros(ROWS)
    for _ in range(500):
        batch = training[torch.randint(len(training), (64,))]
        rows = ROWS if per_row else None
        drawn = draw(sampler, 64, items=ITEMS, counts=counts, targets=batch, rows=rows)
        often = expected(sampler, 64, drawn, items=ITEMS, counts=counts)
        vectors = table if per_row else table[drawn]
        loss = sampled_softmax(queries, table[target], vectors, target, drawn, one, expected=often)
        found += (loss + right).exp() / 500  # the sum that the target's exponential is divided by
    torch.testing.assert_close(found, (queries @ table[1:].T).exp().sum(dim=1), rtol=0.08, atol=0.0)


def test_binary_cross_entropy_by_hand() -> None:
    """Logits 2 of the target, 6 and -2 of negatives; the draw that is the target itself is left out of the mean."""
    vectors = torch.tensor([[9.0], [0.0], [1.0], [2.0], [3.0], [-1.0]])
    query, target, negatives = torch.tensor([[2.0]]), torch.tensor([2]), torch.tensor([4, 2, 5])

    def sigmoid(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    wrong = math.log(1 - sigmoid(6)) + math.log(1 - sigmoid(-2))
    for power in (1.0, 0.3):
        loss = binary_cross_entropy(
            query, vectors[target], vectors[negatives], target, negatives, torch.tensor([0.5]), power=power
        )
        by_hand = -(math.log(sigmoid(2) ** power) + wrong) / 3 * 0.5
        assert loss.tolist() == pytest.approx([by_hand], rel=1e-5)


def test_plain_binary_cross_entropy_is_that_of_torch() -> None:
    queries, table, target, weight = inputs()
    negatives = torch.tensor([3, 4, 6, 8])  # none is a target
    found = binary_cross_entropy(queries, table[target], table[negatives], target, negatives, weight)
    logits = torch.cat([(queries * table[target]).sum(dim=1, keepdim=True), queries @ table[negatives].T], dim=1)
    wanted = torch.zeros_like(logits)
    wanted[:, 0] = 1
    slow = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1) * weight
    torch.testing.assert_close(found, slow)
    assert torch.autograd.gradcheck(
        lambda q, t: binary_cross_entropy(q, t[target], t[negatives], target, negatives, weight, power=0.4),
        (queries, table),
    )


def test_binary_cross_entropy_of_large_logits_is_finite() -> None:
    queries, table, target, weight = inputs(grad=False)
    drawn = torch.tensor([3, 5])
    found = binary_cross_entropy(queries * 1e4, table[target], table[drawn], target, drawn, weight, power=0.1)
    assert bool(found.isfinite().all())


def test_bpr_by_hand() -> None:
    """Logits 2 of the target, 6 and -2 of negatives; the draw that is the target itself is left out of the mean."""
    vectors = torch.tensor([[9.0], [0.0], [1.0], [2.0], [3.0], [-1.0]])
    query, target, negatives = torch.tensor([[2.0]]), torch.tensor([2]), torch.tensor([4, 2, 5])
    by_hand = (math.log(1 + math.exp(6 - 2)) + math.log(1 + math.exp(-2 - 2))) / 2 * 0.5
    loss = bpr(query, vectors[target], vectors[negatives], target, negatives, torch.tensor([0.5]))
    assert loss.tolist() == pytest.approx([by_hand])
    own = bpr(query, vectors[target], vectors, target, negatives[None], torch.tensor([0.5]))
    assert own.tolist() == pytest.approx([by_hand]), "drawn for the row alone"
    nothing = torch.tensor([2, 2])
    assert bpr(query, vectors[target], vectors[nothing], target, nothing, torch.ones(1)).tolist() == [0]


def test_the_gradient_of_bpr_is_that_of_plain_torch() -> None:
    """Pair by pair; of the negatives 5 and 1, which are targets of some rows, those rows leave theirs out."""
    queries, table, target, weight = inputs()
    negatives = torch.tensor([3, 5, 1, 8])
    found = bpr(queries, table[target], table[negatives], target, negatives, weight)
    rows = []
    for row in range(ROWS):
        pairs = [queries[row] @ (table[target[row]] - table[item]) for item in negatives if item != target[row]]
        rows.append(-F.logsigmoid(torch.stack(pairs)).mean() * weight[row])
    slow = torch.stack(rows)
    torch.testing.assert_close(found, slow)
    ours, theirs = (torch.autograd.grad(losses.sum(), [queries, table]) for losses in (found, slow))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_bpr_of_large_logits_is_finite() -> None:
    queries, table, target, weight = inputs(grad=False)
    drawn = torch.tensor([3, 5])
    assert bool(bpr(queries * 1e4, table[target], table[drawn], target, drawn, weight).isfinite().all())


def test_the_power_of_gbce() -> None:
    """25 of 100 other items drawn: 1 uncalibrated, the sampling rate calibrated, and a straight line between them."""
    assert gbce_power(25, 101, 0.0) == pytest.approx(1.0)
    assert gbce_power(25, 101, 1.0) == pytest.approx(0.25)
    assert gbce_power(25, 101, 0.75) == pytest.approx(0.4375)


def test_fully_calibrated_gbce_is_least_where_a_score_is_the_probability_of_its_item() -> None:
    """An item that comes next with probability p, J of V - 1 others drawn: its best logit is that of p, not higher."""
    items, count, chance = 11, 2, 0.2
    logit = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    power = gbce_power(count, items, 1.0)
    for _ in range(200):  # Newton on the expected loss: p as a target, else drawn with probability J / (V - 1)
        right = power * F.softplus(-logit)
        loss = chance * right + (1 - chance) * count / (items - 1) * F.softplus(logit)
        (gradient,) = torch.autograd.grad(loss.sum(), logit, create_graph=True)
        (curve,) = torch.autograd.grad(gradient.sum(), logit)
        logit = (logit - gradient / curve).detach().requires_grad_()
    assert torch.sigmoid(logit).item() == pytest.approx(chance)


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


def test_products_of_pairs() -> None:
    """As if rows were gathered, their gradients too; a query may have none."""
    queries, table, _, _ = inputs()
    row, item = torch.tensor([0, 0, 0, 2, 5, 5, 6]), torch.tensor([3, 9, 1, 3, 11, 3, 2])
    given, weight = [queries, table], torch.arange(7.0, dtype=torch.float64)
    found, expected = pair_products(queries, table, row, item), (queries[row] * table[item]).sum(dim=1)
    torch.testing.assert_close(found, expected)
    found, expected = (torch.autograd.grad((each * weight).sum(), given) for each in (found, expected))
    for one, slow in zip(found, expected, strict=True):
        torch.testing.assert_close(one, slow)
    none = torch.zeros(0, dtype=torch.int64)
    for rows in (0, 7):
        (gradient,) = torch.autograd.grad(pair_products(queries[:rows], table, none, none).sum(), table)
        assert not gradient.any()


SKIPPED = torch.tensor([[1, 3, 3], [0, 0, 0], [5, 2, 9], [0, 9, 4], [0, 0, 9], [4, 3, 2], [6, 7, 1]])  # targets too


def test_skipped_items_are_out_of_the_full_softmax_but_for_the_target() -> None:
    queries, table, target, weight = inputs()
    skip = {"bonus": without(SKIPPED, target, queries.dtype)}
    for chunk in CHUNKS:
        got = full_softmax(queries, table, target, weight, chunk=chunk, **skip)  # type: ignore[arg-type]
        kept = torch.ones(ROWS, ITEMS + 1, dtype=torch.bool).scatter(1, SKIPPED, value=False)
        kept = kept.scatter(1, target[:, None], value=True)[:, 1:]
        logits = (queries @ table[1:].T).masked_fill(~kept, -torch.inf)
        wanted = F.cross_entropy(logits, target - 1, reduction="none") * weight
        torch.testing.assert_close(got, wanted)
        found = torch.autograd.grad(got.sum(), [queries, table])
        expected = torch.autograd.grad(wanted.sum(), [queries, table])
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [sampled_softmax, binary_cross_entropy, bpr, info_nce])
@pytest.mark.parametrize("per_row", [True, False])
def test_skipped_items_are_no_negatives(loss: Callable[..., Tensor], per_row: bool) -> None:
    queries, table, target, weight = inputs()
    items = torch.tensor([3, 9, 2, 7, 10])
    given = (table, target, items.expand(ROWS, -1)) if per_row else (table[items], target, items)
    got = loss(queries, table[target], *given, weight, skipped=SKIPPED)
    for row in range(ROWS):
        left = torch.tensor([item for item in items.tolist() if item not in SKIPPED[row].tolist()])
        one = slice(row, row + 1)
        alone = loss(queries[one], table[target[one]], table[left], target[one], left, weight[one])
        torch.testing.assert_close(got[one], alone)
