"""Training that needs more memory than there is says which settings to lower, wherever it was when it ran out."""

import operator
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from persrec import api, cells
from persrec.errors import UserError
from persrec.models.model import Model
from persrec.prepared import Prepared, open_prepared
from persrec.recipe.recipe import Recipe, load
from persrec.training import launching, module, ranks
from persrec.training.limits import to_lower
from persrec.training.settings import loss_settings, training_settings
from tests.small import events, model_of, prepared_of

EXPECTED = (
    r"out of memory while training \(.*tried to allocate .*\); got training.batch_events 200, loss.negatives 8, length "
    r"null: lower them in this order \(as training.accumulate is raised, steps stay as large\), or set "
    "memory.checkpoint to true$"
)


def allocate(*_: Any) -> None:
    """Ask for more than any machine has."""
    torch.empty(1 << 58)


def in_forward(model: Model) -> Any:
    return model.register_forward_pre_hook(allocate)


def in_backward(model: Model) -> Any:
    return next(iter(model.backbone.parameters())).register_hook(allocate)


def in_the_step(model: Model) -> Any:
    return register_optimizer_step_pre_hook(allocate)


def fit(model: Model, data: Prepared, recipe: Recipe, folder: Path) -> None:
    module.fit(model, data, loss_settings(recipe), training_settings(recipe), folder=folder, progress=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Prepared]:
    training = {"epochs": 1, "batch_events": 200, "threads": 1}
    return prepared_of(
        tmp_path_factory.mktemp("log"), events(users=20), training=training, loss={"negatives": 8}, history="compressed"
    )


@pytest.mark.parametrize("moment", [in_forward, in_backward, in_the_step])
def test_wherever_it_runs_out(small: tuple[Recipe, Prepared], tmp_path: Path, moment: Callable[[Model], Any]) -> None:
    recipe, data = small
    model = model_of(recipe, data.items_count).train()
    hook = moment(model)
    try:
        with pytest.raises(UserError, match=EXPECTED):
            fit(model, data, recipe, tmp_path)
    finally:
        hook.remove()


def test_the_settings_are_those_that_count(small: tuple[Recipe, Prepared]) -> None:
    recipe, data = small

    def told(**changes: Any) -> str:
        other = recipe.model_copy(update=changes)
        return to_lower(model_of(other, data.items_count), loss_settings(other), training_settings(other))

    full = told(history="full", length=50, loss=recipe.loss.model_copy(update={"kind": "full", "chunk": 1000}))
    assert "got training.batch_events 200, loss.chunk 1000, length 50: " in full
    assert "memory.checkpoint" not in full, "it has no folds"
    by_users = told(training=recipe.training.model_copy(update={"batch_events": None, "batch_users": 9}))
    assert "got training.batch_users 9, loss.negatives 8, length null: " in by_users
    assert "memory.checkpoint" not in told(memory=recipe.memory.model_copy(update={"checkpoint": True}))


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Prepared]:
    pytest.importorskip("transformers")
    from tests.items.places import made

    monkeypatch.chdir(made(tmp_path))
    recipe = load("texts.yaml", ["items.train=lora", "items.batch_tokens=64"]).grid()[0]
    return recipe, open_prepared(api.prepare(recipe))


@pytest.mark.parametrize("hooked", ["register_full_backward_pre_hook", "register_forward_pre_hook"])
def test_a_text_model_that_is_trained(texts: tuple[Recipe, Prepared], tmp_path: Path, hooked: str) -> None:
    recipe, data = texts
    model, _ = cells.fresh(recipe, data)
    getattr(model.items.encoder.model.encoder.layer[-1], hooked)(allocate)
    with pytest.raises(UserError, match=r"while training .* got items.batch_tokens 64, training.batch_events 1000, "):
        fit(model, data, recipe, tmp_path / "run")


LIMITED = """
import resource
from pathlib import Path
from persrec import api, cli
from persrec.training import trainer

def limit():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 300_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

api.prepare("tiny.yaml")
limit()
cli.main()
"""
RECIPE = """
name: tiny
data: {source: synthetic, synthetic: {users: 100, events: 100}}
history: recent
model: {layers: 2, width: 16, heads: 2}
memory: {segment: 8, recent: 8}
loss: {negatives: 20000}
training: {epochs: 1, batch_events: 10000, threads: 1}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_may_have_no_more_memory(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-c", LIMITED, "fit", "tiny.yaml", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 2, done.stderr
    assert "out of memory while training" in done.stderr
    assert "got training.batch_events 10000, loss.negatives 20000, length null: lower them" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_processes_say_what_one_alone_would_say() -> None:
    with pytest.raises(
        UserError, match=r"^training.devices, training.nodes: got 1 and 5, but the launcher started 1 p"
    ):
        launching.launch(ranks.check, (1, 5), processes=1)
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="ZeroDivisionError"):
        launching.launch(operator.truediv, (1, 0), processes=1)
