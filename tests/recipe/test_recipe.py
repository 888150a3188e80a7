"""Recipes: what parses, and every message about what does not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from persrec.errors import UserError
from persrec.recipe.faults import dotted_keys
from persrec.recipe.file import LOG_SOURCES, shipped
from persrec.recipe.recipe import Recipe, load, parse

NAMES = [
    "amazon-beauty",
    "amazon-games-text",
    "amazon-sports",
    "baselines",
    "globo-news",
    "ml-100k",
    "ml-1m",
    "ml-1m-text",
    "ml-1m-time",
    "online-retail",
    "online-retail-text",
    "quickstart",
    "synthetic-causes",
    "synthetic-old-signal",
    "synthetic-old-signal-text",
]
SECTIONS = {"data", "data.synthetic", "model", "memory", "loss", "training", "evaluation"}


def faults_of(*overrides: str) -> list[str]:
    """The fault lines that the overrides bring to the quickstart recipe."""
    with pytest.raises(UserError) as caught:
        load("quickstart", overrides)
    head, *lines, advice = str(caught.value).splitlines()
    assert head.startswith(f"recipe quickstart with {overrides[0]}")
    assert head.endswith(f"{len(lines)} fault{'s' if len(lines) > 1 else ''}")
    assert advice == "`persrec recipes print quickstart` shows keys and values that work."
    return [line.strip() for line in lines]


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_recipes() -> None:
    assert list(shipped()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_recipe_parses_and_survives_its_dump(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.about
    assert parse(recipe.dump(), "here") == recipe
    few = {"amazon-beauty": ("full",), "amazon-sports": ("full",), "baselines": ()}  # nothing to compress, or no model
    assert recipe.histories == few.get(name, ("full", "recent", "compressed"))
    assert f"persrec fit {name}" in shipped()[name].read_text(encoding="utf-8")


def test_every_key_of_a_shipped_recipe_can_be_set() -> None:
    values = load("quickstart").dump()
    for key in dotted_keys(Recipe):
        section, _, leaf = key.rpartition(".")
        if key not in SECTIONS and not key.startswith("data.causes"):
            place = values
            for name in section.split(".") if section else []:
                place = place[name]
            assert leaf in place, key


def test_ml_1m_is_the_recipe_that_was_named() -> None:
    recipe = load("ml-1m")
    assert (recipe.length, recipe.time, recipe.data.source) == (200, "none", "sasrec")
    assert (recipe.memory.segment, recipe.memory.recent, recipe.memory.tokens) == (40, 40, 4)
    assert (recipe.model.layers, recipe.model.width, len(recipe.seeds)) == (2, 64, 3)


def test_a_grid_has_one_history_and_one_seed_each() -> None:
    cells = load("ml-1m", ["seeds=[0,1,2]"]).grid()
    assert [(cell.history, cell.seeds) for cell in cells[:4]] == [
        ("full", (0,)),
        ("full", (1,)),
        ("full", (2,)),
        ("recent", (0,)),
    ]
    assert len(cells) == 9
    assert cells[0].grid() == [cells[0]]
    assert parse(cells[0].dump(), "here") == cells[0]


def test_one_history_may_be_a_list() -> None:
    assert load("quickstart", ["history=[full]", "seeds=3"]).grid() == [
        load("quickstart", ["history=full", "seeds=[3]"])
    ]


def test_overrides_go_in_as_yaml() -> None:
    recipe = load(
        "quickstart", ["training.learning_rate=1e-3", "training.ema=null", "evaluation.k=10", "data.synthetic.users=7"]
    )
    assert (recipe.training.learning_rate, recipe.training.ema) == (0.001, None)
    assert (recipe.evaluation.k, recipe.data.synthetic.users) == ((10,), 7)
    assert recipe.data.synthetic.events == load("quickstart").data.synthetic.events


def test_a_section_that_is_its_kind_alone_takes_keys() -> None:
    assert load("quickstart", ["split=last", "split.n=5"]).split.name == "last-5"


@pytest.mark.parametrize(("given", "kept"), [("all", "all"), ("none", "none"), ("0.25", 0.25), ("1", 1.0)])
def test_reads(given: str, kept: str | float) -> None:
    assert load("quickstart", [f"memory.reads={given}"]).memory.reads == kept


def test_all_faults_come_at_once() -> None:
    overrides = ["memory.recnt=3", "segment=4", "modle.width=3", "time=nxt", "training.epochs=x", "loss.chunk=0"]
    assert faults_of(*overrides, "model.heads=3", "zebra=1") == [
        "loss.chunk: got 0, expected greater than or equal to 1",
        "memory.recnt: unknown key; did you mean memory.recent?",
        "model.width: got 64, expected a multiple of model.heads = 3",
        "modle: unknown key; did you mean model?",
        "segment: unknown key; did you mean memory.segment?",
        "time: got 'nxt', expected 'none', 'last' or 'next'",
        "training.epochs: got 'x', expected a valid integer, unable to parse string as an integer",
        "zebra: unknown key",
    ]


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("memory.recent=0", "memory.recent: got 0, expected greater than or equal to 1"),
        ("memory.segment=0", "memory.segment: got 0, expected greater than or equal to 1"),
        ("memory.tokens=0", "memory.tokens: got 0, expected greater than or equal to 1"),
        ("loss.negatives=0", "loss.negatives: got 0, expected greater than or equal to 1"),
        ("evaluation.k=0", "evaluation.k: got 0, expected greater than or equal to 1"),
        ("length=1", "length: got 1, expected greater than or equal to 2"),
        ("model.dropout=1", "model.dropout: got 1, expected less than 1"),
        ("training.learning_rate=.nan", "training.learning_rate: got nan, expected a finite number"),
        ("training.clip=.inf", "training.clip: got inf, expected a finite number"),
        (
            "memory.reads=1.5",
            "memory.reads: got 1.5, expected all, none, rising or a share of the batches between 0 and 1",
        ),
        (
            "memory.reads=some",
            "memory.reads: got 'some', expected all, none, rising or a share of the batches between 0 and 1",
        ),
        ("memory=5", "memory: got 5, expected a section with keys of its own"),
        (
            "history=ful",
            "history: got 'ful', expected full, recent, compressed, or a list of them without repeats; "
            "did you mean full?",
        ),
        ("history=[]", "history: got none of either, expected a history or a baseline to test"),
        (
            "history=[full, full]",
            "history: got ['full', 'full'], expected full, recent, compressed, or a list of them without repeats",
        ),
        ("baselines=[svd, svd]", "baselines: got the same baseline twice, expected each once"),
        (
            "loss.break_hours=12",
            "loss.break_hours: got time none, expected next: only there a row knows how long after it it is asked",
        ),
        (
            "loss.break_target=any",
            "loss.break_target: got any, expected first: without loss.break_hours no target is after a break",
        ),
        (
            "loss.break_weight=2",
            "loss.break_weight: got 2, expected 1: without loss.break_hours no target is after a break",
        ),
        (
            "items.encoder=model",
            "items.use: got id, its default, beside items.encoder, which is read with text or id+text; set it to one",
        ),
        ("seeds=[]", "seeds: got [], expected to have at least 1 item after validation, not 0"),
        (
            "model.layers=1",
            "model.layers: got 1, expected 2 or more: a layered memory is made of what layers 2 and up are given",
        ),
        ("model.heads=5", "model.width: got 64, expected a multiple of model.heads = 5"),
        (
            "primary=ndcg",
            "primary: got 'ndcg', expected one of recall, hit_rate, precision, ndcg, mrr, map, an @ and a cutoff, "
            "as in ndcg@10",
        ),
        ("primary=ndcg@7", "primary: got ndcg@7, expected a cutoff that stands in evaluation.k = [1, 5, 10, 20]"),
        (
            "training.batch_events=null",
            "training.batch_events: got null for both, expected a limit on events or on users of a batch",
        ),
        (
            "data.path=log.csv",
            "data.path: got 'log.csv', expected null: data.source is synthetic; for a file, set data.source as well",
        ),
        (
            "data.path=$NOWHERE/x",
            "data.path: got '$NOWHERE/x', but the environment variable NOWHERE is not set: set it or write it out",
        ),
        (
            "items.template={title}",
            "items.template: got {'title': None}, expected text; braces without quotes are a map in YAML: write "
            '"{title}" with quotes, on a command line --set \'items.template="{title}"\'',
        ),
        (
            "data.columns={user: u}",
            "data.columns: got column 'user', expected our name on the left, one of user_id, item_id, timestamp, "
            "rating, weight, dwell, event; did you mean user_id?",
        ),
        (
            "data.columns={user_id: u}",
            "data.columns: is read only where data.source is table or amazon or merrec, and it is synthetic; "
            "remove the key",
        ),
        (
            "data.separator=;",
            "data.separator: is read only where data.source is table, and it is synthetic; remove the key",
        ),
        ("name=a/b", "name: got 'a/b', expected to match pattern '^\\w[\\w.\\-]*$'"),
    ],
)
def test_each_fault(override: str, fault: str) -> None:
    assert faults_of(override) == [fault]


def test_time_on_a_source_without_times() -> None:
    with pytest.raises(UserError, match=r"time: got next, expected none: data\.source sasrec has no times"):
        load("ml-1m", ["time=next"])


def test_a_source_that_needs_a_path_and_has_no_synthetic_section() -> None:
    faults = faults_of("data.source=table")
    assert faults == [
        "data.path: got null, expected the file or folder of the log, as data.source is table",
        "data.synthetic: is read only where data.source is synthetic, and it is table; remove the section",
    ]


def test_one_layer_is_enough_without_compression() -> None:
    assert load("quickstart", ["model.layers=1", "history=[full, recent]"]).model.layers == 1


def test_python_gets_the_conflicts_too() -> None:
    with pytest.raises(ValidationError, match=r"model.width: got 64, expected a multiple of model.heads = 3"):
        Recipe(model={"heads": 3})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_an_override_without_key_or_value(text: str) -> None:
    with pytest.raises(UserError, match=f"--set {text}: expected key=value, as in --set training.epochs=3"):
        load("quickstart", [text])


def test_an_override_that_is_not_yaml() -> None:
    with pytest.raises(
        UserError, match=r"--set history=\[full: the value is not YAML \(expected .*; put text with signs"
    ):
        load("quickstart", ["history=[full"])


@pytest.mark.parametrize("given", ["training.epochs=1", {"training.epochs": 1}])
def test_overrides_that_are_no_list(given: Any) -> None:
    with pytest.raises(UserError, match=r"overrides: got .*, expected a list of texts as after --set"):
        load("quickstart", given)


def test_a_file_whose_ending_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").write_text("")
    with pytest.raises(UserError, match=r"log.xlsx: no log is known by the ending '.xlsx', expected one of .csv, "):
        load(tmp_path / "log.xlsx")


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError) as caught:
        load("quikstart")
    assert str(caught.value).startswith("recipe quikstart: there is none of this name; did you mean quickstart?")
    assert ", ".join(NAMES) in str(caught.value)


def test_a_file_of_ones_own_takes_its_name_from_the_file(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, "data: {source: table, path: ~/log.csv}\n"))
    assert recipe.name == "mine"
    assert recipe.data.path == str(Path.home() / "log.csv")


def test_the_folder_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSREC_DATASETS", raising=False)
    assert load("ml-1m").data.path == "data/raw/ml-1m/ml-1m_sasrec.txt"
    monkeypatch.setenv("PERSREC_DATASETS", str(tmp_path))
    assert load("ml-1m").data.path == str(tmp_path / "ml-1m" / "ml-1m_sasrec.txt")


def test_the_text_model_that_may_run_code_is_named_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "/models")
    items = {"use": "text", "path": "items.csv", "encoder": "${MODELS}/m", "remote_code": "${MODELS}/m"}
    found = parse({"items": items}, "of a test").items
    assert found.encoder == found.remote_code == "/models/m"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  width: [3\n", r"mine\.yaml, line 3: is not YAML"),
        ("seeds: 1\nname: a\nseeds: 2\n", r"mine\.yaml, line 3: is not YAML: key 'seeds' is given twice"),
        ("", r"mine\.yaml: got an empty file, expected `key: value` lines"),
        ("- a\n", r"mine\.yaml: got a list, expected `key: value` lines"),
        ("a: \x01\n", r"mine\.yaml: is not YAML"),
        ("modle: {}\n", r"recipe .*mine\.yaml: 1 fault\n  modle: unknown key; did you mean model\?"),
    ],
)
def test_a_faulty_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\)"):
        load(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("about: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml: is not UTF-8 text; expected a YAML file"):
        load(tmp_path / "latin.yaml")


@pytest.mark.parametrize("suffix", LOG_SOURCES)
def test_a_log_in_place_of_a_recipe(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"my log (1){suffix}"
    path.write_text("")
    recipe = load(path, ["training.epochs=2"])
    assert (recipe.name, recipe.data.path, recipe.data.source) == ("my-log-1-", str(path), LOG_SOURCES[suffix])
    assert recipe.training.epochs == 2


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"log\.csv: no such file; expected a log, a recipe file or one of: amazon-beauty"
    ):
        load(tmp_path / "log.csv")


def test_reading_recipes_loads_neither_torch_nor_polars() -> None:
    code = (
        "import sys; from persrec.recipe.recipe import load; load('quickstart');"
        "print({'torch', 'polars', 'faiss'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
