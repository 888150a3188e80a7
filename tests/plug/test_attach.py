"""The verbs on a model that is given its mask, and what bad input gets."""

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from persrec import plug
from persrec.errors import UserError
from tests.plug.hosts import ITEMS, RULE, WIDTH, HSTUJagged, encoder, jagged, loud, random_ids


@pytest.fixture
def model() -> Any:
    return jagged().eval()


def refused(message: str) -> Any:
    return pytest.raises(UserError, match=message)


def test_plug_needs_torch_and_numpy_only() -> None:
    code = (
        "import sys, persrec.plug, persrec.plug.decoders, persrec.plug.rechub, persrec.plug.generative_recommenders;"
        "heavy = {'pyarrow', 'polars', 'pydantic', 'faiss', 'pandas', 'lightning'} & set(sys.modules); print(heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_padding_may_stand_on_either_side(model: Any) -> None:
    left = random_ids()
    right = torch.stack([torch.cat([row[row > 0], row[row == 0]]) for row in left])
    one, other = model(left), model(right)
    assert one.shape == (*left.shape, WIDTH)
    for user in range(len(left)):
        torch.testing.assert_close(one[user][left[user] > 0], other[user][right[user] > 0])
    assert not one[left == 0].any()


def test_vectors_are_as_good_as_their_ids(model: Any) -> None:
    ids = random_ids()
    vectors = model.plugged.adapter.embed(ids)
    torch.testing.assert_close(model(vectors, valid=ids > 0), model(ids))
    memory = plug.compress(model, vectors, valid=ids > 0)
    recent, there = plug.since(memory, vectors, ids > 0, valid=ids > 0)
    torch.testing.assert_close(plug.read(model, memory, recent, valid=there), model(ids)[:, -1])


def test_since_gives_what_is_not_in_the_memory(model: Any) -> None:
    """20, 14 and 8 events at S = 5, R = 4 leave 5, 4 and 8 clear ones."""
    ids = random_ids()
    assert (ids > 0).sum(dim=1).tolist() == [20, 14, 8]
    memory = plug.compress(model, ids)
    recent, times = plug.since(memory, ids, torch.arange(20).expand(3, -1))
    assert memory.count.tolist() == [15, 10, 0]
    assert (recent > 0).sum(dim=1).tolist() == [5, 4, 8]
    assert times[0].tolist() == [15, 16, 17, 18, 19, 0, 0, 0]
    assert recent[2].tolist() == ids[2, -8:].tolist()


def test_a_user_without_events_does_not_disturb_the_others(model: Any) -> None:
    ids = random_ids()
    ids[1] = 0
    memory = plug.compress(model, ids)
    found = plug.read(model, memory, *plug.since(memory, ids))
    torch.testing.assert_close(found, model(ids)[:, -1])
    assert not found[1].any()
    nobody = torch.zeros(2, 3, dtype=torch.int64)
    assert not model(nobody).any()
    assert not plug.read(model, plug.compress(model, nobody), nobody).any()


def test_a_memory_is_brought_up_to_date_as_events_come(model: Any) -> None:
    """Six events at a time; after each the read is that of the whole history."""
    ids = random_ids(items=40)
    memory = plug.compress(model, ids[:, :8])
    for end in (14, 20):
        memory = plug.compress(model, *plug.since(memory, ids[:, :end]), memory=memory)
        found = plug.read(model, memory, *plug.since(memory, ids[:, :end]))
        torch.testing.assert_close(found, model(ids[:, :end])[:, -1])


def test_the_verbs_leave_the_training_flag_and_use_no_dropout() -> None:
    model = encoder().train()
    x = torch.randn(2, 20, WIDTH, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 20, dtype=torch.bool)
    one, other = (plug.compress(model, x, valid=valid) for _ in range(2))
    torch.testing.assert_close(one.states, other.states, atol=0.0, rtol=0.0)
    assert model.host.training
    assert not torch.equal(model(x, valid=valid), model(x, valid=valid))


def test_a_cap_keeps_the_newest_segments() -> None:
    model = encoder(cap=1)
    x = torch.randn(1, 20, WIDTH, generator=torch.Generator().manual_seed(0))
    memory = plug.compress(model, x, valid=torch.ones(1, 20, dtype=torch.bool))
    assert memory.rows == 2
    assert memory.count.tolist() == [15]


def test_tokens_begin_as_means_of_what_they_read() -> None:
    model = encoder()
    x = torch.randn(1, 20, WIDTH, generator=torch.Generator().manual_seed(0))
    memory = plug.compress(model, x, valid=torch.ones(1, 20, dtype=torch.bool))
    segment, count = RULE["segment"], len(model.compressor.tokens)
    assert (segment, count, memory.rows) == (5, 2, 6)
    means = torch.stack([x[0, :3].mean(dim=0), x[0, 3:5].mean(dim=0)])
    torch.testing.assert_close(memory.states[0, 0, :2], model.compressor.tokens + means)


def test_a_planted_signal_is_learned_through_the_memory_and_not_without() -> None:
    """The first of 13 events says which of two items comes last; the others are noise, and 4 to 8 of them are clear."""
    shares = {}
    for tokens in (2, 0):
        torch.manual_seed(0)
        host, table = HSTUJagged(WIDTH, 2), nn.Embedding(8, WIDTH)
        adapter = plug.MaskArgument(
            host, layers=list(host.layers), width=WIDTH, mask="multiply", divisor=12, embed=table
        )
        model = plug.attach(adapter, segment=4, recent=4, tokens=tokens)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(250):
            ids = torch.randint(3, 8, (64, 12))
            ids[:, 0] = torch.randint(1, 3, (64,))
            logits = model(ids)[:, -1] @ table.weight[1:3].T
            loss = F.cross_entropy(logits, ids[:, 0] - 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        shares[tokens] = float((logits.argmax(dim=1) == ids[:, 0] - 1).float().mean())
    assert shares[2] > 0.95
    assert shares[0] < 0.75


def test_checkpointed_folds_have_the_same_gradient(model: Any) -> None:
    again = copy.deepcopy(model)
    again.plugged.checkpointed = True
    ids = random_ids()
    for each in (model, again):
        each(ids).square().sum().backward()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_attach_says_which_checkpoints_it_makes(model: Any) -> None:
    assert not model.plugged.checkpointed
    assert plug.attach(model.plugged.adapter, **RULE, checkpointed=True).plugged.checkpointed


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda m, ids: plug.attach(nn.Linear(2, 2), **RULE),
            "torch.nn.modules.linear.Linear: no adapter is known for",
        ),
        (
            lambda m, ids: plug.attach(m.plugged.adapter, segment=0, recent=4),
            "segment: got 0, expected a whole number of events, 1 or more",
        ),
        (
            lambda m, ids: plug.attach(m.plugged.adapter, segment=5, recent=0),
            "recent: got 0, expected a whole number of events, 1 or more",
        ),
        (lambda m, ids: plug.attach(m.plugged.adapter, segment=5, recent=4, tokens=-1), "tokens, cap: got -1 and None"),
        (
            lambda m, ids: plug.attach(m.plugged.adapter, segment=5, recent=4, cap=0),
            "tokens, cap: got 4 and 0, expected",
        ),
        (lambda m, ids: plug.check(nn.Linear(2, 2)), "check: got Linear, expected a model that `attach` has given"),
        (
            lambda m, ids: plug.compress(nn.Linear(2, 2), ids),
            "compress: got Linear, expected a model that `attach` has",
        ),
        (lambda m, ids: m(torch.zeros(2, 3, WIDTH)), r"vectors need `valid` \(users, events\)"),
        (lambda m, ids: encoder()(ids), "Torch has no item embeddings of its own: got ids, expected vectors"),
        (
            lambda m, ids: m(torch.tensor([[1, 2], [1, 2]]).repeat(1, 2) * torch.tensor([1, 0, 1, 1])),
            "row 0 has padding",
        ),
        (lambda m, ids: plug.read(m, plug.compress(m, ids), ids), "user 0 has 20 events that are not in the memory"),
        (
            lambda m, ids: plug.read(m, plug.compress(m, ids[:2]), ids),
            "got the memories of 2 users for the events of 3",
        ),
        (lambda m, ids: m(random_ids(events=40)), None),
        (lambda m, ids: plug.attach(m.plugged.adapter, segment="5", recent=4), "segment: got '5', expected a whole"),
        (lambda m, ids: plug.attach(m.plugged.adapter, segment=5, recent=4.0), "recent: got 4.0, expected a whole"),
        (lambda m, ids: plug.attach(m.plugged.adapter, **RULE | {"tokens": 2.5}), "tokens, cap: got 2.5 and None"),
        (
            lambda m, ids: plug.attach(m, **RULE),
            "attach: got a Compressed that has a compressor, expected a model without one",
        ),
        (lambda m, ids: plug.attach(nn.Linear, **RULE), "attach: got the class Linear, expected a model"),
        (lambda m, ids: m(ids.numpy()), r"items: got ndarray, expected a tensor"),
        (lambda m, ids: m(ids[0]), r"items: got torch.int64 \(20,\), expected ids \(users, events\)"),
        (lambda m, ids: m(ids[:, :0]), r"items: got torch.int64 \(3, 0\), expected ids"),
        (lambda m, ids: m(torch.zeros(2, 3, 5), valid=torch.ones(2, 3) > 0), rf"vectors \(users, events, {WIDTH}\)"),
        (lambda m, ids: m(ids + ITEMS), rf"got ids from {ITEMS} to .*, expected 0 .* items from 1 to {ITEMS - 1}"),
        (lambda m, ids: m(-ids), "items: got ids from -"),
        (
            lambda m, ids: m(ids, valid=ids[:, 1:] > 0),
            r"valid: got torch.bool \(3, 19\), expected torch.bool \(3, 20\)",
        ),
        (lambda m, ids: m(ids, valid=ids), "valid: got torch.int64 .* expected torch.bool"),
        (lambda m, ids: m(ids, ids[:2]), r"times: got torch.int64 \(2, 20\), expected torch.int64 \(3, 20\)"),
        (lambda m, ids: m(ids, ids.float()), "times: got torch.float32 .* expected torch.int64"),
        (lambda m, ids: plug.read(m, None, ids), "memory: got NoneType, expected what `compress` gave"),
        (lambda m, ids: plug.read(m, ids, plug.compress(m, ids)), "items: got Memory, expected a tensor"),
        (lambda m, ids: plug.since(plug.compress(m, ids), ids[:2]), "since: got 2 users and the memories of 3"),
        (
            lambda m, ids: plug.compress(m, ids, ids, memory=plug.compress(m, ids, 1000 + 0 * ids)),
            "user 0 has events before the end of what is in the memory; expected those after it alone",
        ),
        (
            lambda m, ids: plug.read(m, plug.compress(m, ids, 1000 + 0 * ids), ids[:, -8:], ids[:, -8:]),
            "user 0 has events before the end of what is in the memory; expected those after it alone",
        ),
    ],
)
def test_bad_input(model: Any, act: Callable[[Any, torch.Tensor], Any], message: str | None) -> None:
    if message is None:  # long histories are what it is for
        assert act(model, random_ids()).shape == (3, 40, WIDTH)
        return
    with refused(message):
        act(model, random_ids())


def test_an_embedding_beside_the_host_is_trained_and_saved_with_it(model: Any) -> None:
    table = model.plugged.adapter.table
    assert any(table.weight is each for each in model.parameters())
    assert any(torch.equal(table.weight, each) for each in model.state_dict().values())
    model.train()
    (model(random_ids()).square().sum() + model.token_loss()).backward()
    assert table.weight.grad is not None
    assert table.weight.grad.any()


def test_a_model_can_be_copied_in_the_middle_of_its_training(model: Any) -> None:
    ids = random_ids()
    model.train()
    (model(ids).square().sum() + model.token_loss()).backward()
    other = copy.deepcopy(model).eval()
    torch.testing.assert_close(other(ids), model.eval()(ids))


def test_histories_that_were_cut_are_refused(model: Any) -> None:
    ids = random_ids()
    with refused("since: got 8 events of row 0, of whom 15 are in the memory already; expected whole histories"):
        plug.since(plug.compress(model, ids), ids[:, -8:])


def test_a_memory_of_another_host_is_refused(model: Any) -> None:
    ids = random_ids()
    memory = plug.compress(model, ids)
    other = jagged()
    with torch.no_grad():
        other.host.layers[0].outer.weight += 0.1
    with refused("made by another host, or before further training; compress the histories again"):
        plug.read(other, memory, *plug.since(memory, ids))
    again = jagged()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(plug.read(again, memory, *plug.since(memory, ids)), model(ids)[:, -1])


def test_a_memory_from_before_further_training_is_refused(model: Any) -> None:
    ids = random_ids()
    memory = plug.compress(model, ids)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(ids).square().sum().backward()
    optimizer.step()
    with refused("or before further training"):
        plug.compress(model, *plug.since(memory, ids), memory=memory)


def test_new_item_vectors_leave_a_memory_as_it_is(model: Any) -> None:
    """A memory holds what was read of old items; the table may go on, as it does when items are added to it."""
    ids = random_ids()
    memory = plug.compress(model, ids)
    with torch.no_grad():
        model.plugged.adapter.table.weight += 0.01
    plug.read(model, memory, *plug.since(memory, ids))


@pytest.mark.parametrize(
    ("mask", "divisor", "message"),
    [
        ("multiply", None, r"HSTUJagged: 6 rows change by 0\.0\d+ when 6 more stand behind them"),
        ("bool", None, r"it divides by the number of rows \(give `divisor`"),
        ("add", None, 'mask="add" is not how it takes its mask'),
        ("bool", 32, 'got "bool" with divisor 32, expected "bool", "multiply" or "add", and a divisor with "multiply"'),
        ("causal", None, 'mask: got "causal"'),
    ],
)
def test_a_length_that_counts_is_found_when_attaching(mask: Any, divisor: int | None, message: str) -> None:
    host: Any = loud(HSTUJagged(WIDTH, 2))
    with refused(message):
        plug.MaskArgument(host, layers=host.layers, width=WIDTH, mask=mask, divisor=divisor)


class Placed(nn.Module):
    """HSTUJagged behind a position table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.host: Any = loud(HSTUJagged(WIDTH, 2))
        self.table = nn.Parameter(torch.randn(64, WIDTH))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.host(x + self.table[: x.shape[1]], mask)


def test_a_position_table_inside_of_the_model_is_found_when_attaching() -> None:
    """Remembered rows in front would shift the place of every event."""
    host = Placed()
    with refused("Placed: 6 rows change by .* when 6 more stand unseen in front.* a position table of its own"):
        plug.MaskArgument(host, layers=host.host.layers, width=WIDTH, mask="multiply", divisor=32)


class Scores(nn.Module):
    """HSTUJagged with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.host: Any = loud(HSTUJagged(WIDTH, 2))
        self.head = nn.Linear(WIDTH, ITEMS)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.host(x, mask))


def test_what_cannot_be_the_hosts_layers_width_or_rows_is_found_when_attaching() -> None:
    host: Any = loud(HSTUJagged(WIDTH, 2))
    given: dict[str, Any] = {"mask": "multiply", "divisor": 32}
    with refused(f"HSTUJagged: fails on rows .* is the width {2 * WIDTH}, and the mask of the form that it takes"):
        plug.MaskArgument(host, layers=host.layers, width=2 * WIDTH, **given)
    for layers, got in ((2, "int"), ([], "none"), ([1, host], "HSTUJagged, int")):
        with refused(f"layers: got {got}, expected the modules of the host's layers in order"):
            plug.MaskArgument(host, layers=layers, width=WIDTH, **given)  # type: ignore[arg-type]
    assert len(plug.MaskArgument(host, layers=(layer for layer in host.layers), width=WIDTH, **given).layers) == 2
    scores = Scores()
    with refused(rf"Scores: made \(1, 12, {ITEMS}\) of rows .* leave its head out, or give an Adapter of your own"):
        plug.MaskArgument(scores, layers=scores.host.layers, width=WIDTH, **given)


@pytest.mark.parametrize("module", [True, False])
def test_items_whose_vectors_depend_on_their_place_are_found(module: bool) -> None:
    """What came after a memory would get other positions than it had in the whole history."""
    table, place = nn.Embedding(ITEMS, WIDTH), torch.randn(64, WIDTH)

    class Embedded(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + place[: ids.shape[1]]

    host: Any = loud(HSTUJagged(WIDTH, 2))
    embed = Embedded(ITEMS, WIDTH) if module else lambda ids: table(ids) + place[: ids.shape[1]]
    adapter = plug.MaskArgument(host, layers=host.layers, width=WIDTH, mask="multiply", divisor=32, embed=embed)
    found = {each.promise: each.holds for each in plug.check(plug.attach(adapter, **RULE), say=lambda line: None)}
    assert found["an item's vector is the same everywhere"] is False
    adapter.table = table
    again = {each.promise: each.holds for each in plug.check(plug.attach(adapter, **RULE), say=lambda line: None)}
    assert all(again.values())
    adapter.table = nn.Embedding(ITEMS, 2 * WIDTH)
    with refused(rf"embed: gave \(3, 20, {2 * WIDTH}\), expected vectors of the host's width, \(3, 20, {WIDTH}\)"):
        plug.attach(adapter, **RULE)(random_ids())


def test_a_memory_is_kept_in_a_file(model: Any, tmp_path: Path) -> None:
    ids = random_ids()
    memory = plug.compress(model, ids)
    torch.save(vars(memory), tmp_path / "memory.pt")
    again = plug.Memory(**torch.load(tmp_path / "memory.pt", weights_only=True))
    assert torch.equal(
        plug.read(model, again, *plug.since(again, ids)), plug.read(model, memory, *plug.since(memory, ids))
    )


def test_attaching_leaves_frozen_parts_as_they_are() -> None:
    host: Any = loud(HSTUJagged(WIDTH, 2))
    host.layers[0].eval()
    plug.MaskArgument(host, layers=host.layers, width=WIDTH, mask="multiply", divisor=32)
    assert [host.training, host.layers[0].training, host.layers[1].training] == [True, False, True]


def test_a_memory_of_other_settings_is_refused() -> None:
    host: Any = loud(HSTUJagged(WIDTH, 2))
    table = nn.Embedding(30, WIDTH, padding_idx=0)

    def made(divisor: int, **more: Any) -> Any:
        options: dict[str, Any] = {"layers": host.layers, "width": WIDTH, "mask": "multiply", "embed": table}
        torch.manual_seed(0)
        return plug.attach(plug.MaskArgument(host, divisor=divisor, **options), segment=4, recent=3, **more)

    ids = torch.randint(1, 30, (2, 14))
    memory = plug.compress(made(32), ids)
    plug.read(made(32), memory, *plug.since(memory, ids))
    for other in (made(33), made(32, cap=1)):
        with refused("made by another host"):
            plug.read(other, memory, *plug.since(memory, ids))


def test_an_embedding_beside_the_model_has_no_dropout_while_it_compresses() -> None:
    host: Any = loud(HSTUJagged(WIDTH, 2))
    embed = nn.Sequential(nn.Embedding(30, WIDTH, padding_idx=0), nn.Dropout(0.5))
    adapter = plug.MaskArgument(host, layers=host.layers, width=WIDTH, mask="multiply", divisor=32, embed=embed)
    model = plug.attach(adapter, segment=4, recent=3)
    model.train()
    embed.train()
    ids = torch.randint(1, 30, (2, 14))
    assert torch.equal(plug.compress(model, ids).states, plug.compress(model, ids).states)
    assert embed[1].training


def test_a_version_that_lacks_what_is_looked_for_is_named(tmp_path: Path) -> None:
    """A package of RecTools' name in which there is no HSTU."""
    (tmp_path / "rectools").mkdir()
    (tmp_path / "rectools" / "__init__.py").write_text("class HSTUModel: ...\n")
    code = "import rectools; from persrec import plug; plug.attach(rectools.HSTUModel(), segment=5, recent=4)"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": path}
    )
    assert "UserError: the installed version of the host lacks what is looked for: No module named" in done.stderr
    assert "known: RecTools 0.19 (HSTUModel, SASRecModel)" in done.stderr


def test_a_host_of_one_layer_is_refused() -> None:
    host: Any = loud(HSTUJagged(WIDTH, 1))
    adapter = plug.MaskArgument(host, layers=host.layers, width=WIDTH, mask="multiply", divisor=32)
    with refused(r"HSTUJagged has 1 layer\(s\), expected 2 or more: .* or attach with tokens=0"):
        plug.attach(adapter, **RULE)
    assert not plug.attach(adapter, **RULE | {"tokens": 0}).compressor.rows


def test_histories_longer_than_the_divisor_have_no_original(model: Any) -> None:
    model.plugged.adapter.divisor = 8
    said: list[str] = []
    plug.check(model, say=said.append)
    assert any("BROKEN" in line and "do not fit: the host takes at most 8" in line for line in said)


def test_tokens_are_asked_for_what_they_have_read(model: Any) -> None:
    """Against all items of the batch, with its weight, in training only; and the loss teaches them."""
    ids = random_ids()
    model(ids)
    assert model.token_loss() == 0
    model.train()
    model(ids)
    fresh = model.token_loss()
    candidates = len(ids[ids > 0].unique())
    assert 0.1 * math.log(candidates) * 0.5 < fresh.item() < 0.1 * math.log(candidates) * 3
    optimizer = torch.optim.Adam(model.compressor.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(ids)
        model.token_loss().backward()
        optimizer.step()
    assert model.token_loss() < 0.8 * fresh


def test_vectors_need_their_ids_for_that_loss(model: Any) -> None:
    ids = random_ids()
    vectors = model.plugged.adapter.embed(ids).detach()
    model.train()
    model(vectors, valid=ids > 0, ids=ids)
    told = model.token_loss().item()
    model(ids)
    assert told == pytest.approx(model.token_loss().item(), rel=1e-5)
    model(vectors, valid=ids > 0)
    with refused("token_loss: got vectors of items without their ids"):
        model.token_loss()


def test_a_loss_of_tokens_with_a_negative_weight_is_refused() -> None:
    with refused("past_set: got -1, expected a weight of 0 or more"):
        plug.attach(encoder().plugged.adapter, **RULE, past_set=-1)


def test_some_training_passes_leave_rows_with_their_own_segment(model: Any) -> None:
    """A row is then what is read from the memory of the segments before its own, and its own events up to it."""
    start, length = RULE["segment"], RULE["segment"] + RULE["recent"]
    ids = random_ids()[:1, -length:]
    memory = plug.compress(model, ids)
    assert memory.count.tolist() == [start]
    expected = plug.read(model, memory, ids[:, start : start + 1])
    served = model(ids)[:, start]
    model.plugged.reads = 0.0
    torch.testing.assert_close(model(ids)[:, start], served)
    model.train()
    torch.testing.assert_close(model(ids)[:, start], expected)
    assert not torch.allclose(expected, served)
    model.plugged.reads = 0.5
    found = [torch.allclose(model(ids)[:, start], served) for _ in range(30)]
    assert set(found) == {True, False}


def test_a_share_above_one_is_refused() -> None:
    with refused("reads: got 1.5, expected a share of the training passes from 0 to 1"):
        plug.attach(encoder().plugged.adapter, **RULE, reads=1.5)
