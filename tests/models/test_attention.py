"""Pointwise attention against its slow twin, and the buckets of its biases."""

import pytest
import torch

from persrec.models.attention import (
    TIME_BUCKETS,
    Buckets,
    pointwise_attention,
    position_bucket,
    position_buckets,
    reference_attention,
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
    given = {"q": q, "k": k, "v": v, "position_table": position_table, "time_table": time_table}
    return given | {"buckets": buckets, "visible": visible, "divisor": torch.tensor(3.0, dtype=torch.float64)}, leaves


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
