"""Pointwise and softmax attention against their slow twins, and the buckets of their biases."""

import pytest
import torch

from persrec.models.attention import (
    TIME_BUCKETS,
    Bias,
    Buckets,
    pointwise_attention,
    position_bucket,
    position_buckets,
    reference_attention,
    reference_softmax,
    softmax_attention,
    time_bucket,
)


def inputs(*, shared: bool, timed: bool) -> tuple[dict, list[torch.Tensor]]:
    torch.manual_seed(1)
    users, heads, rows, columns, width = 3, 2, 4, 6, 5
    q, k, v = (torch.randn(users, heads, n, width, dtype=torch.float64) for n in (rows, columns, columns))
    position_table = torch.randn(heads, 9, dtype=torch.float64)
    time_table = torch.randn(heads, 7, dtype=torch.float64) if timed else None
    buckets = Buckets(
        torch.randint(0, 9, (1 if shared else users, rows, columns), dtype=torch.int32),
        torch.randint(0, 7, (users, rows, columns), dtype=torch.int32) if timed else None,
    )
    visible = torch.rand(users, rows, columns) > 0.4
    leaves = [q, k, v, position_table, *([time_table] if time_table is not None else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    given = {"q": q, "k": k, "v": v, "bias": Bias(buckets, position_table, time_table)}
    return given | {"visible": visible, "divisor": torch.tensor(3.0, dtype=torch.float64)}, leaves


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_value_and_gradients_are_those_of_the_slow_twin(shared: bool, timed: bool, recompute: bool) -> None:
    given, leaves = inputs(shared=shared, timed=timed)
    fast, slow = pointwise_attention(**given, recompute=recompute), reference_attention(**given)
    torch.testing.assert_close(fast, slow)
    upstream = torch.randn_like(slow)
    for got, wanted in zip(
        torch.autograd.grad(fast, leaves, upstream), torch.autograd.grad(slow, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_softmax_and_its_gradients_are_those_of_torch(shared: bool, timed: bool, recompute: bool) -> None:
    given, leaves = inputs(shared=shared, timed=timed)
    del given["divisor"]
    given["visible"][..., 0] = True
    fast, slow = softmax_attention(**given, recompute=recompute), reference_softmax(**given)
    torch.testing.assert_close(fast, slow)
    upstream = torch.randn_like(slow)
    for got, wanted in zip(
        torch.autograd.grad(fast, leaves, upstream), torch.autograd.grad(slow, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("recompute", [False, True])
def test_softmax_passes_the_gradient_check_with_rows_that_see_nothing(recompute: bool) -> None:
    given, leaves = inputs(shared=False, timed=True)
    buckets, visible = given["bias"].buckets, given["visible"]
    visible[0, 1] = visible[2, 3] = False

    def attend(*parts: torch.Tensor) -> torch.Tensor:
        return softmax_attention(*parts[:3], bias=Bias(buckets, *parts[3:]), visible=visible, recompute=recompute)

    assert torch.autograd.gradcheck(attend, leaves)


def test_a_row_that_sees_nothing_is_given_zero_and_gives_no_gradient() -> None:
    given, leaves = inputs(shared=True, timed=True)
    del given["divisor"]
    given["visible"][1] = False
    attended = softmax_attention(**given)
    assert not attended[1].any()
    assert bool(attended[0].any())
    for gradient in torch.autograd.grad(attended[1].sum(), leaves):
        assert not gradient.any()


def test_softmax_is_a_mean_of_what_is_seen() -> None:
    """Without scores and biases, and with the bias of one bucket at log 3, by hand."""
    q, k = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 3, 2)
    v = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [50.0, 60.0]]]])
    table = torch.tensor([[0.0, 3.0]]).log().clamp(min=0)
    seen = torch.tensor([[[True, True, False]]])
    for second, mean in ((0, [2.0, 3.0]), (1, [2.5, 3.5])):
        buckets = Buckets(torch.tensor([[[0, second, 0]]], dtype=torch.int32), None)
        attended = softmax_attention(q, k, v, bias=Bias(buckets, table, None), visible=seen)
        assert attended.flatten().tolist() == pytest.approx(mean)


def test_distances_are_exact_then_logarithmic_then_open() -> None:
    distance = torch.tensor([0, 1, 9, 10, 11, 12, 20, 40, 10_000_000])
    bucket = position_bucket(distance, 10)
    assert bucket[:4].tolist() == [0, 1, 9, 10]
    assert bucket[4] == 10  # 11 and 10 share a bucket: four to the doubling
    assert bucket[5] == 11
    assert bucket[6] == 14
    assert bucket[7] == 18
    assert bucket[8] == position_buckets(10) - 1


def test_time_buckets_grow_with_the_gap_and_start_at_one_second() -> None:
    gaps = torch.tensor([-5000, 0, 999, 1000, 2000, 3_600_000, 10**15])
    bucket = time_bucket(gaps).tolist()
    assert bucket[:4] == [0, 0, 0, 1]
    assert bucket == sorted(bucket)
    assert bucket[4] == 1 + int(0.6931472 / 0.301)
    assert bucket[-1] == TIME_BUCKETS - 1
