"""Settings found on validation: spaces, the sweep of the learning rate, the search with its table."""

import csv
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from persrec import tuning
from persrec.errors import UserError
from persrec.interactions.prepare import prepare
from persrec.prepared import Prepared, open_prepared
from persrec.recipe.recipe import Recipe, load, parse
from tests.small import events, recipe_of

optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="an extra")
CHANGES = {
    "model": {"layers": 2, "width": 8, "heads": 2, "dropout": 0.0},
    "training": {"epochs": 1, "batch_users": 10, "warmup_steps": 0, "ema": None, "threads": 1},
    "loss": {"kind": "full"},
}


def world(folder: Path, frame: pl.DataFrame) -> tuple[Recipe, Prepared]:
    folder.mkdir(exist_ok=True)
    frame.write_csv(folder / "log.csv")
    recipe = recipe_of(folder / "log.csv", **CHANGES)
    return recipe, open_prepared(prepare(recipe.data, recipe.name, folder / "prepared"))


def test_spaces_are_read_from_their_texts() -> None:
    found = tuning.spaces(
        ["training.learning_rate=loguniform(1e-4,1e-2)", "model.layers = int(2, 4)", "loss.kind=choice(full, bce)"]
    )
    assert [tuple(space) for space in found] == [
        ("training.learning_rate", "loguniform", (1e-4, 1e-2)),
        ("model.layers", "int", (2, 4)),
        ("loss.kind", "choice", ("full", "bce")),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "training.clip",
        "a=normal(0,1)",
        "a=uniform(2,1)",
        "a=loguniform(0,1)",
        "a=int(1,2.5)",
        "a=choice()",
        "a=choice([b)",
    ],
)
def test_what_is_no_space_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(
        UserError, match=r"--search .*: expected key=loguniform\(a,b\), .*, as in training.learning_rate="
    ):
        tuning.spaces([text])


@pytest.mark.parametrize("bound", [".inf", "1e999", ".nan"])
def test_bounds_are_finite_and_a_key_has_one_space(bound: str) -> None:
    with pytest.raises(UserError, match=r"--search a=uniform\(0,.*: expected key=loguniform"):
        tuning.spaces([f"a=uniform(0,{bound})"])
    with pytest.raises(UserError, match=r"--search: got a more than once, expected one space for each key"):
        tuning.spaces(["a=uniform(0,1)", "b=int(1,2)", "a=choice(1,2)"])


def test_what_would_change_the_validation_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.min_rating.*: trials only compare where they share name, data, split"):
        tuning.spaces(["data.min_rating=choice(1,2)"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.inputs", ["rating", "weight"]),
        ("model.inputs", []),
        ("training.learning_rate", 1e-5),
        ("training.clip", None),
        ("items.encoder", "1e-3"),
        ("items.encoder", "null"),
        ("items.encoder", "yes"),
        ("items.encoder", "one\nand another: [line"),
    ],
)
def test_a_trial_trains_with_the_values_that_it_was_given(key: str, value: object) -> None:
    log = {"source": "table", "path": "log.csv", "keep": ["weight"]}
    recipe = parse({"data": log, "items": {"use": "text", "path": "texts.csv", "encoder": "model"}}, "of a test")
    section, name = key.split(".")
    assert tuning.with_values(recipe, {key: value}).dump()[section][name] == value


def test_a_sweep_falls_and_ends_where_the_loss_grows(tmp_path: Path) -> None:
    recipe, data = world(tmp_path, events())
    found = tuning.sweep(recipe, data, high=100.0, steps=80)
    least = min(found.losses)
    assert found.losses[-1] > 1.05 * least
    assert least < found.losses[0]
    assert found.rates[0] <= found.suggested <= found.rates[found.losses.index(least)]
    assert tuning.sweep(recipe, data, high=100.0, steps=80) == found


def test_a_sweep_of_targets_that_count_nothing_says_so(tmp_path: Path) -> None:
    """As where only the first event of each user counts, which is no target."""
    first = pl.int_range(pl.len()).over("user_id") == 0
    events().with_columns(first.cast(pl.Float64).alias("rating")).write_csv(tmp_path / "log.csv")
    recipe = recipe_of(tmp_path / "log.csv", **CHANGES | {"loss": {"kind": "full", "weight_by": "rating"}})
    data = open_prepared(prepare(recipe.data, recipe.name, tmp_path / "prepared"))
    with pytest.raises(UserError, match=r"got a loss that falls nowhere: from 0 at a rate of 1e-05 .*loss.weight_by"):
        tuning.sweep(recipe, data, steps=5)


def losses(folder: Path, frame: pl.DataFrame, steps: int = 6, **training: object) -> list[float]:
    """Smoothed losses of a sweep that ends nowhere, of batches that are all read as they are served."""
    recipe, data = world(folder, frame)
    sections = {"training": training, "memory": {"reads": "all"}}
    changed = recipe.model_copy(
        update={name: getattr(recipe, name).model_copy(update=keys) for name, keys in sections.items()}
    )
    return tuning.sweep(changed, data, low=1e-4, high=1e-2, steps=steps).losses


def test_a_step_of_a_sweep_is_the_mean_of_the_batches_that_training_accumulates(tmp_path: Path) -> None:
    """All 40 users in four batches are what they are in one, as their histories are of one length."""
    random = np.random.default_rng(0)
    ids = [f"{user:02}" for user in range(40) for _ in range(20)]
    frame = pl.DataFrame({"user_id": ids, "item_id": random.integers(0, 9, 800), "timestamp": range(0, 48_000, 60)})
    whole = losses(tmp_path / "one", frame, batch_users=40)
    assert losses(tmp_path / "four", frame, batch_users=10, accumulate=4) == pytest.approx(whole, rel=1e-5)
    assert losses(tmp_path / "alone", frame, batch_users=10) != pytest.approx(whole, rel=1e-3)


def test_a_sweep_runs_in_the_precision_of_training(tmp_path: Path) -> None:
    exact, half = (losses(tmp_path / name, events(), precision=name) for name in ("32-true", "bf16-mixed"))
    assert half == pytest.approx(exact, rel=0.02)
    assert half != pytest.approx(exact, rel=1e-5)


def test_a_sweep_refuses_several_devices_and_says_what_is_the_same_on_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got training.devices 3 and training.nodes 1, .*training.accumulate=6$"):
        losses(tmp_path, events(), devices=3, accumulate=2)


@optuna
def test_a_second_search_replaces_the_first_only_where_that_is_said(tmp_path: Path) -> None:
    recipe, data = world(tmp_path, events())
    out, wanted = tmp_path / "out", tuning.spaces(["training.learning_rate=loguniform(1e-3,1e-1)"])
    tuning.search(recipe, data, wanted, out, minutes=2, trials=1)
    before = (out / "trials.csv").read_text()
    with pytest.raises(UserError, match=r"out holds trials.csv of a search; choose another --out or add --overwrite"):
        tuning.search(recipe, data, wanted, out, minutes=2, trials=1)
    assert (out / "trials.csv").read_text() == before
    with pytest.raises(UserError, match="unknown key"):
        tuning.search(recipe, data, tuning.spaces(["model.width_=int(4,8)"]), out, minutes=2, overwrite=True)
    assert (out / "trials.csv").read_text() == before, "nothing is replaced by a search that cannot begin"
    failing = tuning.spaces(["model.inputs=choice([rating])"])
    with pytest.raises(UserError, match="none of 1 trials"):
        tuning.search(recipe, data, failing, out, minutes=2, trials=1, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["trials.csv"], "the best of another search is none of this one"


@optuna
def test_a_search_ends_with_its_time_and_counts_the_trial_that_it_cut(tmp_path: Path) -> None:
    recipe, data = world(tmp_path, events())
    endless = recipe.training.model_copy(update={"epochs": 100_000, "patience": None})
    recipe = recipe.model_copy(update={"training": endless})
    wanted, started = tuning.spaces(["training.learning_rate=loguniform(1e-3,1e-1)"]), time.monotonic()
    (cut,) = tuning.search(recipe, data, wanted, tmp_path / "out", minutes=0.15)
    assert 9 <= time.monotonic() - started < 120
    assert cut.validation is not None
    assert len((tmp_path / "out" / "trials.csv").read_text().splitlines()) == 2


@optuna
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning" if find_spec("optuna") else "error")
def test_a_search_keeps_all_trials_and_leaves_the_best_recipe(tmp_path: Path) -> None:
    recipe, data = world(tmp_path, events())
    recipe = parse(recipe.dump() | {"baselines": ["popular"]}, "with a baseline")
    wanted = tuning.spaces(["training.learning_rate=loguniform(1e-3,1e-1)", "model.heads=choice(2, 3)"])
    done = tuning.search(recipe, data, wanted, tmp_path / "out", minutes=2, trials=5)
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(5))
    good = [row for row in rows if row["model.heads"] == "2"]
    assert all(float(row["validation_ndcg@10"]) > 0 and not row["fault"] for row in good)
    bad = [row for row in rows if row["model.heads"] == "3"]
    assert bad
    assert all("model.width: got 8, expected a multiple" in row["fault"] for row in bad), "a bad trial ends nothing"
    best = load(tmp_path / "out" / "best.yaml")
    top = max(good, key=lambda row: float(row["validation_ndcg@10"]))
    assert best.training.learning_rate == pytest.approx(float(top["training.learning_rate"]))
    assert done[0].number == int(top["trial"])
    assert [one.name for one in best.baselines] == ["popular"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["best.yaml", "trials.csv"]
    assert parse(best.dump(), "again") == best


@optuna
def test_a_search_does_not_look_at_the_test_targets(tmp_path: Path) -> None:
    """Two logs that differ in each user's last event alone, which is asked for in the test, give the same trials."""
    frame = events()
    last = pl.int_range(pl.len()).over("user_id") == pl.len().over("user_id") - 1
    rotated = pl.col("item_id").reverse().over("user_id")
    same_items = frame.with_columns(
        pl.when(last & (pl.len().over("user_id") > 20)).then(rotated).otherwise("item_id").alias("item_id")
    )
    assert frame["item_id"].to_list() != same_items["item_id"].to_list()
    wanted = tuning.spaces(["training.learning_rate=loguniform(1e-3,1e-1)"])
    found = []
    for name, log in (("one", frame), ("other", same_items)):
        recipe, data = world(tmp_path / name, log)
        assert data.items_count == 30
        done = tuning.search(recipe, data, wanted, tmp_path / name / "out", minutes=2, trials=2)
        found.append([(trial.values, trial.validation) for trial in done])
    assert found[0] == found[1]


@optuna
def test_a_choice_may_be_of_lists_and_of_nothing(tmp_path: Path) -> None:
    recipe, data = world(tmp_path, events().with_columns(rating=pl.lit(3.0)))
    wanted = tuning.spaces(["model.inputs=choice([], [rating])", "training.clip=choice(null, 1)"])
    done = tuning.search(recipe, data, wanted, tmp_path / "out", minutes=2, trials=4)
    assert all(trial.validation is not None for trial in done)
    assert {trial.values["training.clip"] for trial in done} == {None, 1}
    best = load(tmp_path / "out" / "best.yaml")
    assert list(best.model.inputs) == done[0].values["model.inputs"]
    assert best.training.clip == done[0].values["training.clip"]


@optuna
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("training.lerning_rate=loguniform(1e-4,1e-2)", "unknown key; did you mean training.learning_rate"),
        ("trainin.learning_rate=loguniform(1e-4,1e-2)", "trainin: unknown key"),
        ("model.dropout=uniform(2,3)", "model.dropout: got 2"),
        ("model.heads=choice(3)", "model.width: got 8, expected a multiple of model.heads = 3"),
    ],
)
def test_a_search_that_cannot_make_a_recipe_does_not_begin(tmp_path: Path, text: str, fault: str) -> None:
    recipe, data = world(tmp_path, events())
    wanted = tuning.spaces(["model.layers=int(1,2)", text])
    with pytest.raises(
        UserError, match=rf"--search: none of 50 draws makes a recipe; the first one: (.*\n)* .*{fault}"
    ):
        tuning.search(recipe, data, wanted, tmp_path / "out", minutes=2)
    assert not (tmp_path / "out").exists()


@optuna
def test_a_search_without_any_result_gives_up_and_says_why(tmp_path: Path) -> None:
    recipe, data = world(tmp_path, events())
    wanted = tuning.spaces(["model.inputs=choice([rating])"])
    with pytest.raises(
        UserError, match=r"none of 50 trials came to .* in 2 minutes; the first one: model\.inputs, loss"
    ):
        tuning.search(recipe, data, wanted, tmp_path / "out", minutes=2)


def test_the_command_wants_one_of_both_and_one_history(tmp_path: Path) -> None:
    def tune(*arguments: str) -> str:
        command = [sys.executable, "-c", "from persrec.cli import main; main()", "tune", "quickstart", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        return done.stderr

    assert "expected either --lr or --search" in tune()
    foreign = tune("--lr", "--minutes", "3", "--trials", "2", "--out", "there", "--overwrite")
    assert "tune --lr: got --minutes, --trials, --out, --overwrite, which a search has" in foreign
    assert "expected one of each; add --set history=compressed" in tune("--lr", "--set", "history=[full, recent]")
    tuned = tune("--lr", "--set", "history=compressed", "--set", "training.tune_epochs=3")
    assert "got training.tune_epochs 3 with history compressed, which starts from a full model" in tuned
