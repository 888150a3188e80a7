"""RecTools' models with a compressor: their own verbs, checkpoints, tuning, and reading from memories."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("rectools", reason="RecTools is in the hosts environment only")

from rectools.dataset import Dataset
from rectools.models import EASEModel, load_model

from persrec import plug
from persrec.errors import UserError
from tests.plug.hosts import RULE
from tests.plug.rectools_log import KINDS, build, context, fitted, log

FRAME = log()
DATASET = Dataset.construct(FRAME)
USERS = FRAME["user_id"].unique()
CASES = {
    "HSTU": ("HSTUModel", {}),
    "HSTU, no absolute positions": ("HSTUModel", {"use_pos_emb": False}),
    "SASRec": ("SASRecModel", {}),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Lightning's advice on workers and loggers is not ours to follow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def model(request: pytest.FixtureRequest) -> Any:
    kind, changes = request.param
    return fitted(kind, compressed=RULE, **changes)


def recommended(model: Any, *, users: Any = USERS, dataset: Any = DATASET, frame: pd.DataFrame = FRAME) -> pd.DataFrame:
    asked = context(frame) if model.require_recommend_context else None
    return model.recommend(users, dataset, k=5, filter_viewed=True, context=asked)


def read(model: Any, memories: Any, *, dataset: Any = DATASET, frame: pd.DataFrame = FRAME) -> pd.DataFrame:
    asked = context(frame) if model.require_recommend_context else None
    return plug.read(model, memories, USERS, dataset, k=5, filter_viewed=True, context=asked)


def agree(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same users and scores; items may change places only where their scores are equal."""
    assert one["user_id"].tolist() == other["user_id"].tolist()
    np.testing.assert_allclose(one["score"], other["score"], atol=1e-5)
    assert (one["item_id"] == other["item_id"]).mean() > 0.95


def test_it_recommends_as_rectools_does(model: Any) -> None:
    frame = recommended(model)
    assert frame.columns.tolist() == ["user_id", "item_id", "score", "rank"]
    assert set(frame["user_id"]) == set(USERS)
    seen = set(zip(FRAME["user_id"], FRAME["item_id"], strict=True))
    assert not seen & set(zip(frame["user_id"], frame["item_id"], strict=True))


def test_saving_and_loading_keep_everything(model: Any, tmp_path: Path) -> None:
    before, tokens = recommended(model), model.torch_model.compressor.tokens
    model.save(tmp_path / "model")
    model.fit_trainer.save_checkpoint(tmp_path / "model.ckpt")
    for again in (load_model(tmp_path / "model"), type(model).load_from_checkpoint(tmp_path / "model.ckpt")):
        assert torch.equal(again.torch_model.compressor.tokens, tokens)
        agree(recommended(again), before)
        agree(read(again, plug.compress(model, DATASET)), before)


def test_reading_from_memories_is_recommending(model: Any) -> None:
    memories = plug.compress(model, DATASET)
    agree(read(model, memories), recommended(model))
    assert memories.memory.rows == 2 * 4  # 24 events at most, S = 5, R = 4
    assert model.torch_model.memories is None
    assert "get_dataloader_recommend" not in vars(model.data_preparator)


def test_memories_of_some_users_in_small_batches(model: Any) -> None:
    everybody, size = plug.compress(model, DATASET), model.recommend_batch_size
    model.recommend_batch_size = 3
    try:
        some = plug.compress(model, DATASET, USERS[:7])
        agree(read(model, plug.compress(model, DATASET)), recommended(model))
    finally:
        model.recommend_batch_size = size
    assert len(some.users) == 7
    place = everybody.users.get_indexer(some.users)
    assert torch.equal(everybody.memory.count[place], some.memory.count)


def test_new_events_are_read_on_old_memories_until_there_is_a_segment_of_them(model: Any) -> None:
    """The longest user has 34 events: the last 24 make 4 segments, and 4 clear events; 4 more are still clear ones."""
    memories = plug.compress(model, DATASET)
    user = memories.users[int(memories.skipped.argmax())]
    assert int(memories.memory.count[memories.users.get_loc(user)]) == 20

    def with_more(events: int) -> pd.DataFrame:
        last = FRAME[FRAME["user_id"] == user].iloc[-1:]
        hours = pd.to_timedelta(range(1, events + 1), unit="h")
        more = [last.assign(item_id=100 + i, datetime=last["datetime"] + hour) for i, hour in enumerate(hours)]
        return pd.concat([FRAME, *more], ignore_index=True)

    few, many = with_more(4), with_more(5)
    frame = read(model, memories, dataset=Dataset.construct(few), frame=few)
    mine, old = (table[table["user_id"] == user]["score"].to_numpy() for table in (frame, recommended(model)))
    assert not np.allclose(mine, old)
    with pytest.raises(UserError, match="has 9 events that are not in the memory"):
        read(model, memories, dataset=Dataset.construct(many), frame=many)


def test_tokens_begin_as_means_of_what_layer_1_is_given() -> None:
    """RecTools multiplies item vectors by sqrt(D) first."""
    model = fitted("HSTUModel", compressed=RULE, use_pos_emb=False)
    longest = FRAME["user_id"].value_counts().index[0]
    given: list[torch.Tensor] = []
    adapter, compressor = model.torch_model.plugged.adapter, model.torch_model.compressor
    with adapter.layers[0].register_forward_pre_hook(lambda layer, args: given.append(args[0])):
        states = plug.compress(model, DATASET, [longest]).memory.states
    share = -(-RULE["segment"] // len(compressor.tokens))
    mean = given[0][0, :share].mean(dim=0)
    assert float(mean.abs().max()) > 0.1
    torch.testing.assert_close(states[0, 0, 0], (compressor.tokens[0] + mean).detach())


def test_a_user_without_a_memory_is_named(model: Any) -> None:
    memories = plug.compress(model, DATASET, USERS[:-1])
    with pytest.raises(UserError, match=f"user '{USERS[-1]}' has no memory, expected one for every user"):
        read(model, memories)


def test_histories_that_are_cut_are_refused(model: Any) -> None:
    memories = plug.compress(model, DATASET)
    user = memories.users[int(memories.skipped.argmax())]
    known = int(memories.memory.count[memories.users.get_loc(user)] + memories.skipped.max())
    own = FRAME[FRAME["user_id"] == user]
    cut = pd.concat([FRAME[FRAME["user_id"] != user], own.iloc[-8:]], ignore_index=True)
    with pytest.raises(UserError, match=f"read: got 8 events of user '{user}', of whom {known} are in the memory or"):
        read(model, memories, dataset=Dataset.construct(cut), frame=cut)


def test_a_training_of_ones_own_is_not_replaced() -> None:
    from rectools.models.nn.transformers.lightning import TransformerLightningModule

    class Mine(TransformerLightningModule):
        pass

    model = fitted("HSTUModel", lightning_module_type=Mine)
    with pytest.raises(UserError, match="lightning_module_type=Mine, which a compressor would replace; expected"):
        plug.attach(model, **RULE)


def test_the_tokens_keep_their_own_start_and_the_rest_is_drawn_by_rectools() -> None:
    """Training starts by drawing all weights of two or more dimensions anew; a compressor's are not among them."""
    model = fitted("HSTUModel", compressed=RULE, lr=1e-12)
    assert 0.001 < float(model.torch_model.compressor.tokens.std()) < 0.02
    before = {name: value.clone() for name, value in model.torch_model.state_dict().items()}
    model.lightning_model.is_fitted = False
    model.lightning_model.on_train_start()
    changed = {name for name, value in model.torch_model.state_dict().items() if not torch.equal(value, before[name])}
    assert "compressor.tokens" not in changed
    assert "transformer_layers.stu_blocks.0.uvqk_proj" in changed


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_model_is_attached_tuned_and_detached(kind: str, tmp_path: Path) -> None:
    plain = fitted(kind)
    model = plug.attach(plain, **RULE)
    assert type(plain.torch_model).__name__ == "TransformerTorchBackbone"
    start = model.torch_model.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in plain.torch_model.state_dict().items())
    short = [user for user, count in FRAME["user_id"].value_counts().items() if count < 9]
    agree(recommended(model, users=short), recommended(plain, users=short))
    start = {name: value.clone() for name, value in start.items()}
    model.fit_partial(DATASET, min_epochs=1, max_epochs=1)
    moved = {name: float((value - start[name]).abs().max()) for name, value in model.torch_model.state_dict().items()}
    assert 0 < moved["compressor.tokens"] < 0.1
    assert all(change < 0.1 for change in moved.values())  # tuned by a few small steps, not drawn anew
    model.save(tmp_path / "tuned")
    agree(recommended(load_model(tmp_path / "tuned")), recommended(model))
    tuned = plug.detach(model)
    assert tuned.get_config() == plain.get_config()
    weights = model.torch_model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in tuned.torch_model.state_dict().items())
    tuned.fit_partial(DATASET, min_epochs=1, max_epochs=1)
    assert len(recommended(tuned)) == len(recommended(plain))


def test_detaching_without_training_gives_the_same_recommendations() -> None:
    plain = fitted("HSTUModel")
    agree(recommended(plug.detach(plug.attach(plain, **RULE))), recommended(plain))


def test_checkpointed_folds_are_tuned_too() -> None:
    model = plug.attach(fitted("HSTUModel"), **RULE, checkpointed=True)
    assert model.torch_model.plugged.checkpointed
    model.fit_partial(DATASET, min_epochs=1, max_epochs=1)
    assert len(recommended(model)) == 5 * len(USERS)


def test_sampled_losses_train_too() -> None:
    model = fitted("HSTUModel", compressed=RULE, loss="gBCE", n_negatives=4)
    assert len(recommended(model)) == 5 * len(USERS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plug.attach(build("HSTUModel"), **RULE), "this HSTUModel is not fitted yet: construct it with"),
        (lambda: plug.compress(fitted("HSTUModel"), DATASET), "HSTUModel has no compressor; attach one to the fitted"),
        (lambda: plug.detach(fitted("HSTUModel")), "HSTUModel has no compressor"),
        (
            lambda: plug.attach(fitted("HSTUModel", compressed=RULE), **RULE),
            "attach: got a HSTUModel that has a compressor, expected",
        ),
        (lambda: fitted("SASRecModel", compressed=RULE, use_key_padding_mask=False), "attends to its padding, so that"),
        (
            lambda: fitted("HSTUModel", compressed=RULE, session_max_len=6),
            "session_max_len: got 6, expected at least",
        ),
        (lambda: plug.attach(EASEModel(), **RULE), "got EASEModel, expected HSTUModel or SASRecModel of RecTools 0.19"),
        (
            lambda: build("HSTUModel", compressed=RULE | {"segment": 0}),
            "segment: got 0, expected a whole number of events, 1 or more",
        ),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_a_memory_from_before_tuning_is_refused() -> None:
    model = fitted("HSTUModel", compressed=RULE)
    memories = plug.compress(model, DATASET)
    model.fit_partial(DATASET, min_epochs=1, max_epochs=1)
    with pytest.raises(UserError, match="made by another host, or before further training"):
        read(model, memories)


def test_other_layers_are_refused() -> None:
    from rectools.models.nn.transformers.net_blocks import PreLNTransformerLayers

    with pytest.raises(UserError, match="transformer_layers_type: got PreLNTransformerLayers, expected STULayers or"):
        fitted("SASRecModel", compressed=RULE, transformer_layers_type=PreLNTransformerLayers)
