"""What every plugged host promises: one suite, all adapters, on real hosts; and hosts that break it are found out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from persrec import plug
from persrec.models.interfaces import Rows
from persrec.plug.case import made, visible_tokens
from persrec.plug.contract import CHECKS, Check
from tests.plug.hosts import HOSTS, RULE, WIDTH, JaggedLayer, loud

EVERYTHING = {  # hosts that promise all of it
    "mask argument, HSTUJagged",
    "mask argument, torch encoder",
    "mask argument, additive",
    "mask argument, capped",
    "Llama with head",
    "Llama, eager",
    "Mistral",
    "Qwen2",
    "Qwen3 with head",
    "RecTools HSTU, no absolute positions",
    "RecTools SASRec, no absolute positions",
}
BY_ID = "an item's vector is the same everywhere"
UNMASKED = {"tokens that nobody may see change nothing", "the loop is the masked pass"}
MEMORYLESS = {
    "tokens that see nothing carry nothing",
    "the loop is the masked pass",
    "an update is a fold",
    "gradients reach the tokens",
}


@pytest.fixture(scope="module", params=HOSTS.items(), ids=HOSTS.keys())
def host(request: pytest.FixtureRequest) -> tuple[str, Any]:
    name, build = request.param
    return name, build()


@pytest.mark.parametrize("promise", CHECKS, ids=lambda promise: promise.__name__)
def test_the_promise_holds(host: tuple[str, Any], promise: Check) -> None:
    name, model = host
    module = getattr(model, "torch_model", model).eval()
    with torch.no_grad(), visible_tokens(module.plugged):
        found = promise(made(module.plugged, module))
    if found.promise == BY_ID and found.holds is None:
        assert found.note == "the host takes vectors"
    elif found.holds is None:
        assert name not in EVERYTHING
        assert found.promise in (MEMORYLESS if "no tokens" in name else UNMASKED)
    else:
        assert found.holds, found


@pytest.mark.parametrize("build", [build for name, build in HOSTS.items() if "RecTools" not in name])
def test_detaching_gives_the_very_host_and_leaves_nothing_in_it(build: Callable[[], Any]) -> None:
    """RecTools' models are rebuilt by their own constructors: tests/plug/test_rectools.py."""
    model = build().eval()
    host, weights = model.host, {name: value.clone() for name, value in model.host.state_dict().items()}
    told = made(model.plugged, model).told
    before = model.plugged.adapter.original(*told)
    plug.check(model, say=lambda line: None)
    model.train()
    model.plugged.hidden(told.events).square().sum().backward()
    assert plug.detach(model) is host
    assert not [name for name, module in host.named_modules() if module._forward_pre_hooks or module._forward_hooks]
    found = host.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
    torch.testing.assert_close(model.eval().plugged.adapter.original(*told), before, rtol=0, atol=0)


class Broken(plug.Adapter):
    """A stack of layers under a causal mask, with one fault."""

    def __init__(self, fault: str) -> None:
        layers = nn.ModuleList(JaggedLayer(WIDTH) for _ in range(3))
        super().__init__(loud(layers), layers=list(layers), width=WIDTH)
        self.fault = fault

    def run(self, rows: Rows, remembered: int, visible: Tensor) -> Tensor:
        x, mask = rows.x, visible.float()
        if self.fault == "sees the future":
            mask = torch.ones_like(mask)
        scale = 1.0 if self.fault == "divides by the rows" else len(mask) / 32
        if self.fault == "adds positions by row":
            x = x + torch.arange(x.shape[1])[:, None] / 10
        if self.fault == "mixes users":
            x = x + x.mean(dim=0, keepdim=True)
        for layer in self.layers:
            x = layer(x, mask[None, None] * scale)
        return x

    def original(self, items: Tensor, times: Tensor, query_times: Tensor, valid: Tensor) -> Tensor:
        length = items.shape[1]
        x, mask = items, torch.ones(length, length).tril()[None, None] * (length / 32)
        for layer in self.layers:
            x = layer(x, mask)
        return x


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("sees the future", "the future never leaks"),
        ("divides by the rows", "cached is uncached"),
        ("adds positions by row", "the loop is the masked pass"),
        ("mixes users", "users do not matter to each other"),
    ],
)
def test_a_fault_breaks_a_promise(fault: str, promise: str) -> None:
    said: list[str] = []
    findings = plug.check(plug.attach(Broken(fault), **RULE), say=said.append)
    assert {finding.promise: finding.holds for finding in findings}[promise] is False
    assert any(line.startswith(promise) and "BROKEN" in line for line in said)


def test_without_a_fault_everything_holds() -> None:
    findings = plug.check(plug.attach(Broken("none"), **RULE), say=lambda line: None)
    assert all(finding.holds for finding in findings if finding.promise != BY_ID)
