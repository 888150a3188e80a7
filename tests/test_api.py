"""From raw log to metrics and recommendations, through the command and from Python, and what bad input gets."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import persrec
from persrec import api, cli
from persrec import run as runs
from persrec.errors import UserError
from persrec.recipe import recipe as recipes
from persrec.training import module as training
from tests.small import events

RECIPE = """
name: tiny
data: {source: synthetic, synthetic: {users: 50, events: 30, seed: 3}}
history: [full, compressed]
time: last
model: {layers: 2, width: 8, heads: 2, dropout: 0.1}
memory: {segment: 8, recent: 8, tokens: 2}
loss: {kind: full}
training: {epochs: 2, batch_events: 1000, warmup_steps: 3, ema: null, patience: null, threads: 1}
evaluation: {k: [5, 10], length_buckets: [20, 50]}
"""
QUICK = [
    "model.width=8",
    "memory.segment=6",
    "memory.recent=5",
    "training.epochs=1",
    "training.warmup_steps=2",
    "training.threads=1",
    "evaluation.k=[5,10]",
]
COMMAND = [sys.executable, "-c", "from persrec.cli import main; main()"]


def process(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=240, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its prepared log and a grid of two runs, which the command has made."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.yaml").write_text(RECIPE.lstrip())
    result = process(folder, "fit", "tiny.yaml")
    assert result.returncode == 0, result.stderr
    (folder / "output.txt").write_text(result.stdout)
    (folder / "progress.txt").write_text(result.stderr)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the working directory; nothing in it may be changed."""
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def copy(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder as the working directory."""
    shutil.copytree(place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["persrec", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code  # type: ignore[return-value]


def metrics(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what differs between two runs of the same thing."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_command_prints_one_table_with_a_line_per_history(place: Path) -> None:
    output = (place / "output.txt").read_text()
    assert output.startswith("tiny: test (leave-one-out), 50 users, all items ranked,"), "progress goes elsewhere"
    for words in (
        "full            1 ",
        "compressed      1 ",
        "ndcg@10",
        "ndcg@10 by history length",
        "ndcg@10 by last consumption of the item",
        "emptied",
        "More groups: persrec compare runs/tiny --by hours (or cold); ",
        "Run folder: runs/tiny",
    ):
        assert words in output, words


def test_run_folders_are_complete_and_hold_no_pickle(place: Path) -> None:
    assert {path.name for path in (place / "runs/tiny").iterdir()} == {"full-seed0", "compressed-seed0"}
    for run in (place / "runs/tiny").iterdir():
        names = {path.name for path in run.iterdir()}
        assert names == {*runs.FILES, runs.WEIGHTS, runs.MANIFEST, "training.csv", "clear_events.csv"}
        for path in run.iterdir():
            start = path.read_bytes()[:2]
            assert start != b"\x80\x02", f"{path.name} is a pickle"
            assert start != b"PK", f"{path.name} is a zip, as torch writes them"


def test_evaluate_finds_what_fit_found(here: Path) -> None:
    for name in ("full", "compressed"):
        (row,) = persrec.evaluate(f"runs/tiny/{name}-seed0").rows
        saved = json.loads((here / "runs/tiny" / f"{name}-seed0" / "metrics.json").read_text())
        assert json.loads(json.dumps(row)) == {"name": "tiny", **saved}


def test_evaluate_of_a_grid_has_a_row_per_run_and_writes_them(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "evaluate", "runs/tiny", "--json", "rows.json") == 0
    rows = json.loads((copy / "rows.json").read_text())
    assert [row["history"] for row in rows] == ["full", "compressed"]
    assert {row["bytes_per_user"] > 0 for row in rows} == {True, False}
    assert "compressed      1 " in capsys.readouterr().out


def test_while_a_recipe_is_chosen_the_test_is_not_opened(here: Path, tmp_path: Path) -> None:
    """What is evaluated is then what training saw of the validation, and no target of the test is in the run."""
    out, tested = tmp_path / "chosen", runs.load(here / "runs" / "tiny" / "compressed-seed0")
    table = api.fit("tiny.yaml", ["history=compressed", "evaluation.part=validation"], out=out, progress=False)
    found, seen = runs.load(out), table.rows[0]
    assert seen["metrics"]["ndcg@10"]["mean"] == pytest.approx(seen["validation_ndcg@10"], abs=1e-6)
    assert seen["validation_ndcg@10"] == pytest.approx(tested.metrics["validation_ndcg@10"], abs=1e-6)  # the same model
    earlier, later = (run.targets().select(["user", "end"]).to_pydict() for run in (found, tested))
    assert earlier["user"] == later["user"]
    assert earlier["end"] == [end - 1 for end in later["end"]]  # leave-one-out: the event before
    assert found.metrics["protocol"]["part"] == "validation"
    assert api.evaluate(out).rows[0]["metrics"] == seen["metrics"]
    with pytest.raises(UserError, match=r"not tested on the same targets \(part: 'test' and 'validation'\)"):
        api.compare([here / "runs" / "tiny" / "full-seed0", out])


def test_python_gives_what_the_command_gives(place: Path, empty: Path) -> None:
    (empty / "tiny.yaml").write_text(RECIPE)
    found = persrec.fit("tiny.yaml", ["history=compressed"], progress=False)
    saved = json.loads((place / "runs/tiny/compressed-seed0/metrics.json").read_text())
    assert metrics(found.rows) == metrics([{"name": "tiny", **saved}])
    assert (empty / "runs/tiny/run.json").exists(), "one history and seed need no folder of their own"
    assert str(found).startswith("tiny: test (leave-one-out)")
    assert "compressed      1 " in str(found)
    recommended = persrec.recommend("runs/tiny", ["user-0001"], k=3)
    assert recommended.equals(persrec.Recommender.load("runs/tiny").recommend(["user-0001"], 3))


def test_resume_of_a_finished_grid_does_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("it was trained again"))
    before = {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*")}
    found = persrec.fit("tiny.yaml", resume=True)
    assert [row["history"] for row in found.rows] == ["full", "compressed"]
    assert {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*")} == before


def test_resume_with_another_recipe_is_refused_and_names_the_keys(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    changes = ["--set", "training.epochs=3", "--set", "memory.tokens=4"]
    assert call(monkeypatch, "fit", "tiny.yaml", "--resume", *changes) == 2
    message = capsys.readouterr().err
    assert "runs/tiny/full-seed0 was started with another recipe" in message
    assert "memory.tokens: 2 then, 4 now; training.epochs: 2 then, 3 now" in message


def test_resume_with_other_data_is_refused(copy: Path) -> None:
    (copy / "tiny.yaml").write_text(RECIPE.replace("seed: 3", "seed: 4"))
    with pytest.raises(UserError, match="runs/tiny/full-seed0 is of other data; choose another --out, or give"):
        persrec.fit("tiny.yaml", resume=True)


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next fit be interrupted after its first checkpoint."""

    def stop(*_: Any, folder: Path, **__: Any) -> None:
        (folder / "checkpoints" / training.LAST).write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stop)


def test_an_interrupted_fit_is_no_run_and_goes_on_only_with_its_own_recipe(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    interrupt(monkeypatch)
    assert call(monkeypatch, "fit", "tiny.yaml", "--out", "cut", "--set", "history=full") == 130
    assert call(monkeypatch, "evaluate", "cut") == 2
    assert "its fit was interrupted; finish it with `persrec fit ... --resume`" in capsys.readouterr().err
    changed = ["fit", "tiny.yaml", "--out", "cut", "--resume", "--set", "history=recent"]
    assert call(monkeypatch, *changed) == 2
    assert "cut was started with another recipe (history: 'full' then, 'recent' now)" in capsys.readouterr().err
    seen: dict[str, Any] = {}
    monkeypatch.setattr(training, "fit", lambda *_, **named: seen.update(named) or pytest.skip.Exception)
    with pytest.raises(AttributeError):  # what the fake gave back is no result
        persrec.fit("tiny.yaml", ["history=full"], out="cut", resume=True)
    assert seen["resume"] is True


def test_an_interrupted_overwrite_goes_on_with_the_new_fit(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch)
    changed = ["history=full", "training.epochs=1"]
    with pytest.raises(KeyboardInterrupt):
        persrec.fit("tiny.yaml", changed, out="runs/tiny/full-seed0", overwrite=True)
    monkeypatch.undo()
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match="its fit was interrupted"):
        persrec.evaluate("runs/tiny/full-seed0")
    with pytest.raises(UserError, match=r"another recipe \(training\.epochs: 1 then, 2 now\)"):
        persrec.fit("tiny.yaml", ["history=full"], out="runs/tiny/full-seed0", resume=True)


def test_a_complete_run_is_not_replaced_unasked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("it was trained again"))
    with pytest.raises(UserError, match="runs/tiny/full-seed0: holds a complete run; choose another --out or add"):
        persrec.fit("tiny.yaml")


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_frame_instead_of_a_file(library: str, empty: Path) -> None:
    frame = events() if library == "polars" else events().to_pandas()
    found = persrec.fit(frame, [*QUICK, "training.batch_events=500"], out="run", progress=False)
    assert found.rows[0]["protocol"]["targets"] == 36
    assert yaml_of(empty / "run")["data"]["path"] == "frame"
    assert metrics(persrec.evaluate("run").rows) == metrics(found.rows)
    assert set(persrec.recommend("run", ["ü-5"])["item_id"]) <= set(events()["item_id"])


def test_a_frame_beside_a_recipe_takes_the_place_of_its_data(empty: Path) -> None:
    recipe = recipes.load("quickstart", ["history=recent", *QUICK, "evaluation.length_buckets=[20]"])
    named = events().rename({"item_id": "film"})
    with pytest.raises(UserError, match="missing column item_id"):
        persrec.prepare(recipe, frame=named)
    found = persrec.fit(recipe, ["training.batch_events=500"], frame=events(), out="run", progress=False)
    assert found.rows[0]["protocol"]["targets"] == 36
    assert yaml_of(empty / "run")["data"]["source"] == "table"
    assert yaml_of(empty / "run")["training"]["batch_events"] == 500


def yaml_of(run: Path) -> dict[str, Any]:
    return recipes.load(run / "recipe.yaml").dump()


def test_check_looks_and_writes_nothing(empty: Path) -> None:
    events().write_csv("log.csv")
    found = api.check("log.csv", ["memory.segment=6", "memory.recent=5"])
    assert found.rows[0]["users_with_memory"] == 21
    assert found.rows[0]["ties"] == 0
    assert "users with m >= 1 (S=6, R=5)" in str(found)
    assert [path.name for path in empty.iterdir()] == ["log.csv"]


def test_baselines_stand_beside_the_models(copy: Path, capsys: pytest.CaptureFixture) -> None:
    """Each is a run of its own, evaluated again like one, and held against the models of the same grid."""
    sets = ["baselines=[popular, {kind: personal_frequency, half_life_events: 20}]", "history=full"]
    table = persrec.fit("tiny.yaml", sets, out="runs/tiny", resume=True, progress=False)
    names = ["full", "popular", "personal_frequency-half_life_events-20"]
    assert [row["history"] for row in table.rows] == names
    assert {path.name for path in Path("runs/tiny").iterdir()} == {"full-seed0", "compressed-seed0", *names[1:]}
    again = persrec.evaluate("runs/tiny")
    assert {row["history"] for row in again.rows} == {*names, "compressed"}
    one, other = ({row["history"]: row["metrics"] for row in rows} for rows in (table.rows, again.rows))
    assert one["popular"] == other["popular"]
    compared = api.compare(["runs/tiny"])
    assert {row["pair"] for row in compared.rows if "pair" in row} > {"compressed/full", "full/popular"}
    with pytest.raises(UserError, match="popular holds no model, as it is a baseline or lists made elsewhere"):
        persrec.Recommender.load("runs/tiny/popular")


def test_a_grid_of_baselines_alone(copy: Path) -> None:
    table = persrec.fit("tiny.yaml", ["history=[]", "baselines=svd"], out="runs/svd", progress=False)
    assert [row["history"] for row in table.rows] == ["svd"]
    assert (copy / "runs/svd/run.json").exists()


def test_what_a_model_recommends_is_scored_as_the_model_is(here: Path, tmp_path: Path) -> None:
    """Its own lists of the users' histories before their last event, as somebody else's."""
    with_seen = "evaluation.exclude_seen=false"
    (saved,) = persrec.fit("tiny.yaml", ["history=full", with_seen], out=tmp_path / "run", progress=False).rows
    recommender = persrec.Recommender.load(tmp_path / "run")
    log = recommender.prepared()
    ids = pl.Series(log.user_ids())
    items = pl.Series(log.item_ids())
    rows = [
        {"user_id": ids[user], "item_id": items[int(log.items[place]) - 1], "timestamp": int(log.times[place])}
        for user in range(log.users)
        for place in range(int(log.offsets[user]), int(log.offsets[user + 1]) - 1)
    ]
    lists = recommender.recommend(histories=pl.DataFrame(rows), k=10)
    lists.write_parquet(tmp_path / "lists.parquet")
    short = ["evaluation.k=[5]", "primary=ndcg@5"]  # lists as wholes are of ten all the same
    of_ten = [api.score_lists(lists, "tiny.yaml", [with_seen, *sets]).rows[0] for sets in ([], short)]
    assert of_ten[0]["lists"] == of_ten[1]["lists"]
    found = api.score_lists(tmp_path / "lists.parquet", "tiny.yaml", [with_seen]).rows[0]
    assert found["protocol"] == saved["protocol"]
    for metric in ("recall@10", "ndcg@5", "mrr@10"):
        assert found["metrics"][metric] == pytest.approx(saved["metrics"][metric], abs=1e-3)


def test_lists_are_left_as_a_run_and_held_against_others(copy: Path, capsys: pytest.CaptureFixture) -> None:
    """A list of one user with the target first; of the others there is none, so all is missed."""
    log = persrec.Recommender.load("runs/tiny/full-seed0").prepared()
    *history, target = log.items[: log.offsets[1]].tolist()
    other = next(item for item in range(1, log.items_count + 1) if item not in (*history, target))
    ids = [log.item_ids()[item - 1].as_py() for item in (target, other)]
    pl.DataFrame({"user_id": [log.user_ids()[0].as_py()] * 2, "item_id": ids, "rank": [1, 2]}).write_csv("lists.csv")
    table = api.score_lists("lists.csv", "tiny.yaml", out="runs/theirs")
    assert "Run folder: runs/theirs" in str(table)
    run = runs.load("runs/theirs")
    assert run.targets().column("rank").to_pylist() == [1.0] + [float("inf")] * 49
    assert run.metrics["recommendations"]["queries without a list"] == 49
    assert not (copy / "runs/theirs" / runs.WEIGHTS).exists()
    compared = api.compare(["runs/tiny", "runs/theirs"], metric="mrr@10")
    assert {row["pair"] for row in compared.rows if "pair" in row} == {
        "compressed/full",
        "compressed/theirs",
        "full/theirs",
    }
    assert "theirs" in api.report_page(["runs/tiny", "runs/theirs"], out="page.html").read_text()
    assert metrics(api.evaluate("runs/theirs").rows) == metrics(table.rows)
    with pytest.raises(UserError, match="holds the ranks of lists made elsewhere; score them again"):
        api.evaluate("runs/theirs", ["evaluation.k=[5]"])
    with pytest.raises(UserError, match=r"--out runs/theirs: holds a complete run; choose another"):
        api.score_lists("lists.csv", "tiny.yaml", out="runs/theirs")
    with pytest.raises(UserError, match=r"--out runs/full: got the name of a history"):
        api.score_lists("lists.csv", "tiny.yaml", out="runs/full")


def test_lists_are_not_scored_on_sets_with_seen_items_hidden(here: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.exclude_seen: got true with split next-basket.*expected false"):
        api.score_lists("lists.csv", "tiny.yaml", ["split=next-basket"])


def test_users_and_items_without_training_are_counted(empty: Path) -> None:
    """Of the events of the last hour, two are of a new user and one is of a new item."""
    rows = [(f"u{user}", f"i{(user + step) % 9}", 60 * step) for user in range(9) for step in range(60)]
    late = [("new", "i1", 3700), ("new", "i2", 3701), ("u1", "rare", 3702), ("u2", "i3", 3703)]
    log = pl.DataFrame([*rows, *late], schema=["user_id", "item_id", "timestamp"], orient="row")
    split = "split={kind: global-time, test: '1970-01-01T01:01:00', validation: '1970-01-01T00:50:00'}"
    alone = ["history=[]", "baselines=[popular]", split, "data.unit=s", "evaluation.k=[5]", "primary=ndcg@5"]
    table = api.fit(log, [*alone, "evaluation.exclude_seen=false"], out="run", progress=False)
    (row,) = table.rows
    told = {key: row["protocol"][key] for key in ("cold_users", "cold_items", "cold_targets")}
    assert told == {"cold_users": 1, "cold_items": 1, "cold_targets": 1}
    assert "1 targets are cold, 1 users have no training" in " ".join(str(table).split())
    assert "of them cold, without training" in api.report_page(["run"], out="page.html").read_text()


def test_the_protocol_of_what_is_no_model_is_its_own(here: Path, tmp_path: Path) -> None:
    """A length and an index are settings of models: baselines read whole histories and are ranked exactly."""
    models = ["length=5", "retrieval={kind: hnsw}"]
    alone = [*models, "history=[]", "baselines=[popular]"]
    (popular,) = persrec.fit("tiny.yaml", alone, out=tmp_path / "popular", progress=False).rows
    ids = runs.load(tmp_path / "popular").item_ids()
    theirs = pl.DataFrame({"user_id": ["user-0001"], "item_id": ids[:1], "rank": [1]})
    (lists,) = api.score_lists(theirs, "tiny.yaml", models).rows
    for row in (popular, lists):
        assert (row["protocol"]["length"], row["protocol"]["retrieval"]) == (None, {"kind": "flat"})
    discounted = ["evaluation.exclude_seen=false", "evaluation.seen_odds=0.5"]
    with pytest.raises(
        UserError, match=r"got evaluation\.seen_odds 0\.5, but ranks made elsewhere stand as they are; add"
    ):
        api.score_lists(theirs, "tiny.yaml", discounted)


@pytest.mark.parametrize("arguments", [["evaluate"], ["evaluate", "runs/tiny", "--log", "tiny.yaml"]])
def test_evaluate_wants_a_run_or_lists(
    arguments: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *arguments) == 2
    assert "expected a RUN, or --recommendations FILE with --log" in capsys.readouterr().err


def test_a_run_is_asked_otherwise_and_stays_as_it_is(copy: Path) -> None:
    before = {path: path.read_bytes() for path in (copy / "runs/tiny").rglob("*") if path.is_file()}
    own = api.evaluate("runs/tiny/full-seed0").rows[0]
    sets = ["evaluation.k=[3]", "evaluation.exclude_seen=false", "retrieval.kind=hnsw", "retrieval.breadth=128"]
    table = api.evaluate("runs/tiny/full-seed0", sets, json_file="rows.json")
    (row,) = table.rows
    assert {name.partition("@")[2] for name in row["metrics"]} == {"3"}
    assert not row["protocol"]["exclude_seen"]
    assert own["protocol"]["exclude_seen"]
    assert own["protocol"]["retrieval"] == {"kind": "flat"}
    assert row["protocol"]["retrieval"]["recall"] > 0.9
    shown = " ".join(str(table).split())
    assert f"set for this table alone: {', '.join(sets)}" in shown
    assert "ndcg@3" in shown
    assert "by an index, beside exact search" in shown
    assert json.loads(Path("rows.json").read_text())[0]["set"] == sets
    after = {path: path.read_bytes() for path in (copy / "runs/tiny").rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "model.width=16",
            "--set model.width=16: got model.width, expected a key of evaluation or retrieval: a run is",
        ),
        ("split.n=2", "on its own data and split; to change these, fit with"),
        ("primary=ndcg@5", "got primary, expected a key of evaluation or retrieval"),
        ("evaluation.q=[5]", "evaluation.q: unknown key"),
        ("retrieval.probes=2", "with kind flat, expected no further key"),
        ("evaluation", "expected key=value"),
    ],
)
def test_a_run_cannot_be_asked_for_another_model(override: str, words: str, here: Path) -> None:
    with pytest.raises(UserError) as caught:
        api.evaluate("runs/tiny/full-seed0", [override])
    assert words in str(caught.value)


def test_compare_as_text(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "compare", "runs/tiny", "--by", "history length", "--format", "markdown") == 0
    text = capsys.readouterr().out
    assert "**ndcg@10, history length 20-49, " in text
    assert "| compressed / full |" in text
    assert call(monkeypatch, "compare", "runs/tiny", "--metric", "ndcg@11") == 2
    assert "a cutoff of 1 to 10" in capsys.readouterr().err


def test_unfinished_runs_are_named(copy: Path, capsys: pytest.CaptureFixture) -> None:
    (copy / "runs/tiny/recent-seed0/checkpoints").mkdir(parents=True)
    for told in (persrec.evaluate, lambda folder: api.compare([folder])):
        told("runs/tiny")
        assert "left out, as their fit was interrupted: recent-seed0; finish it" in capsys.readouterr().err


def test_grids_beside_a_run_are_named(copy: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree("runs/tiny/full-seed0", "runs/alone")
    persrec.evaluate("runs")
    assert "runs: left out, as they are grids of their own: tiny" in capsys.readouterr().err


def test_the_line_of_an_epoch_has_its_mean_loss(place: Path) -> None:
    said = [float(loss) for loss in re.findall(r"epoch .*  loss (\d+\.\d+)", (place / "progress.txt").read_text())]
    logged = [pl.read_csv(path)["train_loss"].drop_nulls() for path in (place / "runs/tiny").glob("*/training.csv")]
    assert sorted(said) == pytest.approx(pl.concat(logged).sort().to_list(), abs=1e-4)


def test_short_histories_are_said_before_the_training(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    interrupt(monkeypatch)
    events().write_csv("log.csv")
    assert call(monkeypatch, "fit", "log.csv", "--set", "evaluation.k=[10]") == 130
    assert (
        "Note: 0.0% of the test queries have S + R = 80 events or more before them; for all others full, recent"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(("times", "said"), [(1.0, False), (20.0, True)])
def test_ratings_that_share_a_bucket_are_said(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, times: float, said: bool
) -> None:
    interrupt(monkeypatch)
    log = events()
    log.with_columns(rating=times * (1 + pl.int_range(pl.len()) % 5)).write_csv("log.csv")
    call(monkeypatch, "fit", "log.csv", "--set", "evaluation.k=[10]", "--set", "model.inputs=[rating]")
    note = "Note: ratings go from 20 to 100, of which model.inputs reads those below 0 as 0 and those above 10 as 10"
    assert (note in capsys.readouterr().err) == said


def test_a_gpu_that_is_not_used_is_said(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    interrupt(monkeypatch)
    events().write_csv("log.csv")
    call(monkeypatch, "fit", "log.csv", "--set", "evaluation.k=[10]")
    assert "there is a GPU" not in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    call(monkeypatch, "fit", "log.csv", "--set", "evaluation.k=[10]")
    assert "Note: there is a GPU, and training.accelerator is cpu; --set" in capsys.readouterr().err


# ---- bad input -------------------------------------------------------------------------------------------------------

GOOD = "user_id,item_id,timestamp\n" + "".join(f"u{n % 3},i{n % 7},{1000 + n}\n" for n in range(60))
BAD_LOGS = {
    "a missing column": (GOOD.replace("item_id", "film"), [], ["log.csv: missing column item_id", "film"]),
    "another separator": (
        GOOD.replace(",", ";"),
        [],
        ["log.csv", "a single column. If the file is split by ';', set data.separator"],
    ),
    "an unparsable time": (GOOD.replace(",1007", ",soon"), [], ["log.csv", "row 9", "'soon'", "unparsable"]),
    "a negative time": (GOOD.replace(",1007", ",-5"), [], ["log.csv", "row 9", "negative"]),
    "a null": (GOOD.replace("u2,i5", ",i5", 1), [], ["log.csv", "user_id", "row 7", "null"]),
    "an empty file": ("", [], ["log.csv: the file is empty"]),
    "a header alone": (GOOD.splitlines()[0] + "\n", [], ["log.csv: no events"]),
    "a filter that leaves nothing": (GOOD, ["data.min_user_events=99"], ["data.min_user_events: 99", "leave none"]),
    "misspelt keys": (
        GOOD,
        ["trainig.epochs=3", "model.widht=8", "history=ful"],
        [
            "3 faults",
            "trainig",
            "did you mean training",
            "model.widht",
            "did you mean model.width",
            "did you mean full",
        ],
    ),
    "no recent events": (GOOD, ["memory.recent=0"], ["memory.recent", "greater than or equal to 1"]),
    "one layer": (
        GOOD,
        ["model.layers=1"],
        ["model.layers: got 1, expected 2 or more: a layered memory is made of what layers 2 and up"],
    ),
    "time of a log without times": (
        "\n".join(line.rpartition(",")[0] for line in GOOD.splitlines()),
        ["time=next", "evaluation.k=5", "primary=ndcg@5"],
        ["time: got next, expected none: the log of log has no times"],
    ),
    "k above the catalogue": (GOOD, [], ["evaluation.k: got 20, expected at most 7, the number of items"]),
    "histories of one event": (
        "user_id,item_id\n" + "".join(f"u{n},i{n}\n" for n in range(30)),
        [],
        ["the log of log: none of its 30 users has two events to train on"],
    ),
    "nobody to test": (
        "user_id,item_id\n" + "".join(f"u{n // 2},i{n}\n" for n in range(30)),
        [],
        ["the split leave-one-out leaves no validation target of its 15 users"],
    ),
    "a cut after the last event": (
        GOOD,
        ["split={kind: global-time, validation: 0.1, test: 2199-01-01}", "evaluation.k=5", "primary=ndcg@5"],
        ["leaves no test target", "expected cuts within the log, which goes from"],
    ),
    "no break": (
        GOOD,
        ["split={kind: after-break, gap_hours: 1e6}", "evaluation.k=5", "primary=ndcg@5"],
        ["leaves no validation target", "or breaks shorter than split.gap_hours = 1e+06"],
    ),
    "validation that never comes": (
        GOOD,
        ["training.validate_every=3", "training.epochs=2"],
        ["training.validate_every", "got 3, expected at most training.epochs = 2"],
    ),
}


@pytest.mark.parametrize(("log", "changes", "words"), BAD_LOGS.values(), ids=BAD_LOGS.keys())
def test_bad_input_of_fit(
    log: str,
    changes: list[str],
    words: list[str],
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (empty / "log.csv").write_text(log)
    assert call(monkeypatch, "fit", "log.csv", *[part for change in changes for part in ("--set", change)]) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert_nothing_half_written(empty)
    assert not (empty / "runs").exists()


def assert_nothing_half_written(folder: Path) -> None:
    left = [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix in (".partial", ".ckpt")]
    assert not left
    for prepared in (folder / "data" / "prepared").glob("*"):
        assert (prepared / "prepared.json").exists()


def test_a_truncated_parquet(empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    events().write_parquet("log.parquet")
    whole = Path("log.parquet").read_bytes()
    Path("log.parquet").write_bytes(whole[: len(whole) // 2])
    assert call(monkeypatch, "fit", "log.parquet") == 2
    message = capsys.readouterr().err
    assert "log.parquet: cannot be read" in message
    assert "truncated" in message
    assert_nothing_half_written(empty)


@pytest.mark.parametrize("name", ["none.csv", "none.yaml", "none"])
def test_a_recipe_or_log_that_is_not_there(
    name: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "fit", name) == 2
    assert name in capsys.readouterr().err


def spoil(folder: Path, how: str) -> None:
    """Do something to a run folder, or to its prepared log."""
    run = folder / "runs/tiny/compressed-seed0"
    (prepared,) = (folder / "data/prepared").iterdir()
    manifest = json.loads((run / "run.json").read_text())
    if how == "incomplete":
        (run / "weights.safetensors").unlink()
    elif how == "altered":
        (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("tokens: 2", "tokens: 3"))
    elif how == "version":
        (run / "run.json").write_text(json.dumps(manifest | {"format": 99}))
    elif how == "other data":
        (run / "run.json").write_text(json.dumps(manifest | {"data": manifest["data"] | {"hash": "f" * 64}}))
    elif how == "altered data":
        (prepared / "sequences.arrow").write_bytes((prepared / "sequences.arrow").read_bytes()[:-8])
    else:
        shutil.rmtree(prepared)
    manifest["data"]["folder"] = str(prepared)
    if how not in ("version", "other data"):
        (run / "run.json").write_text(json.dumps(manifest))


SPOILT = {
    "incomplete": "run folder runs/tiny/compressed-seed0: is incomplete: weights.safetensors absent",
    "altered": "run folder runs/tiny/compressed-seed0: recipe.yaml altered since the fit",
    "version": "run.json: got run format 99, written by persrec 0.1.0; expected format 2",
    "other data": "is of other data: got hash",
    "altered data": "sequences.arrow: altered since it was written",
    "data gone": "the prepared log of this run is gone",
}


@pytest.mark.parametrize(("how", "message"), SPOILT.items(), ids=SPOILT.keys())
def test_a_spoilt_run_or_log_is_refused(
    how: str, message: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    spoil(copy, how)
    run = "runs/tiny/compressed-seed0"
    for command in (["evaluate", run, "--json", "x.json"], ["recommend", run, "user-0001", "--out", "x.csv"]):
        assert call(monkeypatch, *command) == 2
        assert message in capsys.readouterr().err
        assert not list(copy.glob("*x.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "runs"], "run folder runs: is no run but holds "),
        (["evaluate", "nowhere"], "run folder nowhere: there is no such folder"),
        (["evaluate", "runs/tiny", "--json", "no/x.json"], "--json no/x.json: the folder no does not exist"),
        (["recommend", "runs/tiny", "u"], "run folder runs/tiny: is no run but holds "),
        (["recommend", "RUN", "ghost"], "1 of 1 users are not in the run's log: 'ghost'; expected ids such as 'user-"),
        (["recommend", "RUN", "user-0001", "--k", "99999"], "k: got 99999, expected a whole number from 1 to"),
        (["recommend", "RUN", "--histories", "no.csv"], "histories: there is no file no.csv"),
        (["recommend", "RUN", "--histories", "tiny.yaml"], "tiny.yaml: unknown ending '.yaml'"),
        (["fit", "runs/tiny/full-seed0/recipe.yaml", "--out", "tiny.yaml"], "run folder tiny.yaml: is a file"),
        (["fit", "tiny.yaml", "--out", "tiny.yaml"], "run folder tiny.yaml: is a file"),
    ],
)
def test_bad_input_of_other_commands(
    arguments: list[str],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    run = "runs/tiny/compressed-seed0"
    assert call(monkeypatch, *[run if argument == "RUN" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_everybody_of_the_log_is_asked_for_in_a_word(here: Path, tmp_path: Path) -> None:
    result = process(here, "recommend", "runs/tiny/full-seed0", "--all", "--k", "2", "--out", str(tmp_path / "all.csv"))
    assert result.returncode == 0, result.stderr
    found = pl.read_csv(tmp_path / "all.csv")
    assert found["user_id"].n_unique() == 50
    expected = persrec.Recommender.load("runs/tiny/full-seed0").recommend(None, k=2)
    assert found.select("user_id", "item_id", "rank").rows() == expected.select("user_id", "item_id", "rank").rows()


def test_recommendations_as_files_in_the_users_own_ids(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = "runs/tiny/compressed-seed0"
    assert call(monkeypatch, "recommend", run, "user-0002", "user-0001", "--k", "2", "--out", "best.parquet") == 0
    best = pl.read_parquet("best.parquet")
    assert best["user_id"].to_list() == ["user-0002"] * 2 + ["user-0001"] * 2
    assert set(best["item_id"]) <= set(runs.load(run).item_ids().to_pylist())


@pytest.fixture
def small_files() -> dict[str, Any]:
    """Options for a process that may write no file above 40 kB: what a full disk does, without filling one."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    return {"preexec_fn": limit}


def test_a_full_disk_while_training(copy: Path, small_files: dict[str, Any]) -> None:
    """The prepared log fits, the checkpoint of the model does not."""
    assert max(path.stat().st_size for path in (copy / "data").rglob("*.arrow")) < 40_000
    result = process(
        copy, "fit", "tiny.yaml", "--out", "new", "--set", "history=full", "--set", "model.width=32", **small_files
    )
    assert result.returncode == 2, result.stderr
    assert "disk is full" in result.stderr
    assert "make room" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (copy / "new" / "run.json").exists()
    assert not [path for path in (copy / "new").rglob("*") if path.suffix == ".ckpt" or path.name.startswith(".")]


def test_a_full_disk_while_saving(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that cannot be written leave neither a run nor parts of one."""

    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(runs, "save_file", full)
    with pytest.raises(UserError, match=r"run folder new: cannot be written \(No space left on device\); make room"):
        persrec.fit("tiny.yaml", ["history=full", "training.epochs=1"], out="new", progress=False)
    assert {path.name for path in (copy / "new").iterdir()} <= {"checkpoints", "training.csv", "clear_events.csv"}
