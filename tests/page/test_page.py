"""The page: its figures are those of the runs, it stands alone, and nothing in an id can break it."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from persrec import api
from persrec import run as runs
from persrec.errors import UserError
from persrec.evaluation import comparison
from persrec.evaluation.comparison import Side
from persrec.evaluation.intervals import Interval
from persrec.page import chapters, examples
from persrec.page.chapters import GROUPS, Material
from persrec.page.closeup import Closeup
from persrec.page.examples import Example
from persrec.page.layout import Gallery
from persrec.prepared import open_prepared
from tests.small import recipe_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SMALL = [
    "history=[full, recent, compressed]",
    "baselines=[popular, personal_frequency]",
    "model={layers: 2, width: 8, heads: 2}",
    "memory={segment: 6, recent: 5, tokens: 2}",
    "training={epochs: 2, warmup_steps: 2, threads: 1, ema: null, patience: null}",
    "evaluation={k: [5, 10], length_buckets: [20, 30], exclude_seen: false}",
    "time=last",
]
ODD = ("<b>", 'чай & "quotes"', "</svg><script>alert(1)</script>")
VOID = ("meta", "link", "br", "img", "path", "use")


class Reader(HTMLParser):
    """What a browser would find: tags, attributes, tables by caption, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.text = self._caption = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        if tag in ("td", "th"):
            self.tables[self._caption][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "caption" in self.open:
            self._caption += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self._caption][-1][-1] += data


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of odd ids, titles for some of them, a grid on it and its page."""
    folder = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)
    items = [*ODD, *(f"item {number}" for number in range(17))]
    user = np.repeat([f"<i>{number}</i>" for number in range(40)], 30)
    frame = {
        "user_id": user,
        "item_id": random.choice(items, len(user)),
        "timestamp": 1_700_000_000 + 3600 * np.arange(len(user)),
    }
    pl.DataFrame(frame).write_csv(folder / "shop.csv")
    pl.DataFrame({"item_id": items[3:], "title": [f"Tea & <em>{name}</em>" for name in items[3:]]}).write_csv(
        folder / "titles.csv"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        api.fit("shop.csv", SMALL, out="grid", progress=False)
        api.report_page(["grid"], out="page.html", titles="titles.csv")
    return folder


@pytest.fixture(scope="module")
def text(place: Path) -> str:
    return (place / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Reader:
    return Reader(text)


def test_every_tag_is_closed_and_every_id_is_one_of_a_kind(page: Reader) -> None:
    assert page.open == []
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 100


def test_nothing_is_loaded_and_nothing_is_run(text: str, page: Reader) -> None:
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_it_says_nothing_of_the_machine(place: Path, text: str) -> None:
    assert str(place) not in text
    assert str(Path.home()) not in text
    assert "shop.csv" in text  # the name of the log, without its folder


def test_it_is_small_and_fits_phones_and_the_dark(text: str, page: Reader) -> None:
    assert len(text.encode()) < 1_500_000
    assert ("name", "viewport") in page.attributes
    assert "prefers-color-scheme:dark" in text


def runs_of(place: Path) -> list[Path]:
    return sorted(path.parent for path in (place / "grid").glob("*/run.json"))


def test_the_table_of_quality_is_that_of_the_runs(place: Path, page: Reader) -> None:
    head, *rows = page.tables["Test targets: means over seeds, with 95% intervals"]
    sides = {side.name: side for side in comparison.load(runs_of(place))}
    assert [row[0] for row in rows] == list(sides) == ["full", "recent", "compressed", "personal_frequency", "popular"]
    for name, _, *cells, seen in rows:
        found = json.loads((next((place / "grid").glob(f"{name}*")) / "metrics.json").read_text())
        for title, shown in zip(head[2:], cells, strict=False):
            value = found["metrics"][title.split()[0]]
            assert shown == f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"
        assert seen == f"{found['protocol']['seen_in_top_10']:.0%}"


def test_the_tables_of_pairs_and_groups_are_those_of_the_runs(place: Path, page: Reader) -> None:
    sides = comparison.load(runs_of(place))
    pairs = page.tables["Pairs in ndcg@10, on the same targets"][1:]
    expected = comparison.pairs(sides, "ndcg@10")
    assert [row[0] for row in pairs] == [f"{pair.over} / {pair.under}" for pair in expected]
    assert [row[1].split()[0] for row in pairs] == [f"{pair.ratio.mean:.3f}" for pair in expected]
    for by in (
        "history length",
        "last consumption of the item",
        "training events of the item",
        "hours since the last event",
    ):
        head, *rows = page.tables[f"By {by}"]
        assert head[2:5] == ["full", "recent", "compressed"]
        for name, history in (("full", "full-seed0"), ("compressed", "compressed-seed0")):
            groups = runs.load(place / "grid" / history).metrics["groups"][by]
            assert [row[0] for row in rows] == [group["group"] for group in groups]
            assert [row[1] for row in rows] == [f"{group['targets']:,}" for group in groups]
            column = [row[head.index(name)].split()[0] for row in rows]
            assert column == [f"{group['metrics']['ndcg@10']['mean']:.4f}" for group in groups]


@pytest.mark.parametrize(
    ("history", "key", "title"),
    [
        ("compressed", "memory", "ndcg@10 of the compressed model on the same targets, its memory"),
        ("full", "history", "ndcg@10 of the full model on the same targets, reading less"),
    ],
)
def test_what_old_events_are_worth_is_that_of_the_run(
    place: Path, page: Reader, history: str, key: str, title: str
) -> None:
    run = runs.load(place / "grid" / f"{history}-seed0")
    expected = [
        [test[key], f"{test['ndcg@10']['mean']:.4f}", "{mean:.4f} [{low:.3f}, {high:.3f}]".format(**test["ratio"])]
        for test in run.metrics[f"{key}_tests"]
    ]
    assert page.tables[title][1:] == expected


def test_data_and_protocol_are_those_of_the_run(place: Path, page: Reader) -> None:
    run = runs.load(place / "grid" / "compressed-seed0")
    assert "Figures in brackets are 95% intervals over users; of several seeds, means of their bounds." in page.text
    data = dict(page.tables["Data, as prepared"][1:])
    assert (data["users"], data["items"], data["events"]) == ("40", "20", "1,200")
    protocol = dict(page.tables["Protocol"][1:])
    assert protocol["split"] == run.metrics["protocol"]["split"]
    assert protocol["targets"] == "40"
    assert protocol["searched by"] == "flat"
    assert protocol["items seen before"] == "may be recommended"
    assert protocol["time known to the model"] == "that of the last event"
    assert dict(page.tables["Versions"][1:])["torch"] == run.versions["torch"]


def test_the_table_of_lists_is_that_of_the_runs(place: Path, page: Reader) -> None:
    for row in page.tables["Lists of ten as wholes, means over seeds, no intervals"][1:]:
        lists = runs.load(next((place / "grid").glob(f"{row[0]}*"))).metrics["lists"]
        keys = ("coverage", "gini", "novelty", "average_popularity", "diversity")
        assert row[1:] == [f"{lists[key]:.3g}" for key in keys]


def test_odd_ids_are_text(text: str, page: Reader) -> None:
    assert "<b>item" not in text
    assert "alert(1)</script>" not in text
    assert "&lt;i&gt;" in text
    assert "User <i>" in page.text
    assert any(name in page.text for name in ODD)
    assert "Tea & <em>item " in page.text


def test_a_hit_is_where_the_run_ranked_the_target(text: str) -> None:
    """A list's hit stands at the rank that the run's own evaluation gave the target, and a miss is beyond ten."""
    boxes = re.findall(r'<div class="user"><h3>User \S+: (hit|miss)(.*?)</div>', text, flags=re.DOTALL)
    assert len(boxes) == 3
    for said, body in boxes:
        listed = re.findall("<li(.*?)>.*?</li>", body)
        rank = re.findall(r"; compressed (.*?);", body)[0]
        hits = [place for place, style in enumerate(listed, start=1) if "hit" in style]
        assert hits == ([float(rank)] if said == "hit" else [])
        assert said == "hit" or rank == "beyond the list"


HISTORY = np.arange(1, 31)  # of one user, with S = 6 and R = 5: four closed segments


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"history": "full"}, [("clear", 30, range(23, 31))]),
        ({"history": "full", "length": 12}, [("unread", 18, []), ("clear", 12, range(23, 31))]),
        ({"history": "recent"}, [("unread", 24, []), ("clear", 6, range(25, 31))]),
        ({"history": "compressed"}, [("memory", 24, range(21, 25)), ("clear", 6, range(25, 31))]),
        (
            {"history": "compressed", "length": 20},
            [("unread", 10, []), ("memory", 12, range(19, 23)), ("clear", 8, range(23, 31))],
        ),
        (
            {"history": "compressed", "memory": {"segment": 6, "recent": 5, "tokens": 2, "cap": 3}},
            [("unread", 6, []), ("memory", 18, range(21, 25)), ("clear", 6, range(25, 31))],
        ),
        (
            {"history": "compressed", "memory": {"segment": 6, "recent": 15, "tokens": 2}},
            [("memory", 12, range(9, 13)), ("clear", 18, range(23, 31))],
        ),
        ({"history": "compressed", "length": 10}, [("unread", 20, []), ("clear", 10, range(23, 31))]),
    ],
)
def test_how_a_history_is_read(changes: dict[str, Any], expected: list[tuple[str, int, Iterable[int]]]) -> None:
    found = examples.stretches(HISTORY, recipe_of(Path("log.csv"), **changes))
    assert found == [(how, events, list(newest)) for how, events, newest in expected]


def test_users_are_shown_what_is_in_memory_and_where_clear_events_begin(place: Path, text: str) -> None:
    log = pl.read_csv(place / "shop.csv")
    titles = dict(pl.read_csv(place / "titles.csv").iter_rows())
    for body in re.findall(r'<div class="user">(.*?)</div>', text, flags=re.DOTALL):
        found = Reader(body).text
        user = re.findall(r"User (\S+):", found)[0]
        items = [titles.get(item, item) for item in log.filter(pl.col("user_id") == user)["item_id"]]
        parts = [" · ".join(part) for part in (items[20:24], items[24:29], items[29:])]
        lines = (
            "History, 29 events",
            f"From memory, 24: 20 older, then {parts[0]}",
            f"Clear from here, 5: {parts[1]}",
            f"Next: {parts[2]}",
        )
        assert "\n".join(lines) in found


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("full", "Events are read as they are."),
        ("recent", "nothing is read of those before them."),
        ("compressed", "of those before them the model has its memory alone."),
    ],
)
def test_a_history_is_shown_as_its_model_reads_it(tmp_path: Path, history: str, said: str) -> None:
    read = examples.stretches(HISTORY, recipe_of(Path("log.csv"), history=history))
    example = Example("someone", len(HISTORY), read, [1], [], {})
    one = Interval(1.0, 1.0, 1.0)
    closeup = Closeup(history, history, 1, one, 0.0, None, [example], [f"no. {item}" for item in range(31)])
    material = Material([Side(history, history, {"repeat": "none"}, {})], [], "ndcg@10", {}, [closeup], None)
    found = Reader(chapters.users(material, Gallery(tmp_path))).text
    assert said in found
    assert "repeat head" not in found
    material.sides[0].recipe["repeat"] = "head"
    assert "repeat head, beside that, counts what the user has had" in chapters.users(material, Gallery(tmp_path))
    assert ("Not read, 24\nClear from here, 6: no. 25 ·" in found) == (history == "recent")
    assert ("From memory, 24: 20 older, then no. 21 ·" in found) == (history == "compressed")
    assert ("History, 30 events\nClear from here, 30: 22 older, then no. 23 ·" in found) == (history == "full")


def test_every_figure_also_lies_beside_the_page(place: Path, page: Reader) -> None:
    folder = place / "page-figures"
    svg, png = ({path.stem for path in folder.glob(f"*.{form}")} for form in ("svg", "png"))
    assert svg == png
    assert len(svg) == page.tags.count("figure") == 13
    assert page.tags.count("figcaption") == 13 - len(GROUPS)  # what these show is said once, above them
    assert {path.suffix for path in folder.iterdir()} == {".svg", ".png"}


def test_no_claim_is_made_that_recent_events_do_not_refute(page: Reader) -> None:
    """Random data: nothing old helps, and the page says so and claims nothing for the memory."""
    assert "shop: no worth of old events is seen" in page.text
    assert "the compressed history is not ahead of recent events alone" in page.text
    assert "No history effect shown" in page.text


def test_baselines_take_part_in_tables_and_bars(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    alone = api.report_page([place / "grid" / "popular"], out=tmp_path / "one.html").read_text(encoding="utf-8")
    found = Reader(alone)
    assert found.open == []
    assert [row[0] for row in found.tables["Test targets: means over seeds, with 95% intervals"][1:]] == ["popular"]
    assert {path.stem for path in (tmp_path / "one-figures").iterdir()} == {
        "quality",
        "history-length",
        "last-consumption-of-the-item",
        "training-events-of-the-item",
        "hours-since-the-last-event",
    }


def test_without_the_log_the_rest_is_there(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    for manifest in Path("grid").glob("*/run.json"):
        found = json.loads(manifest.read_text())
        found["data"]["folder"] = "/elsewhere/gone"
        manifest.write_text(json.dumps(found))
    page = Reader(api.report_page(["grid"], out="page.html").read_text(encoding="utf-8"))
    assert "The report goes without data counts, reads, users and attention" in capsys.readouterr().err
    assert "Data, as prepared" not in page.tables
    assert "Protocol" in page.tables
    assert "Three users" not in page.text
    assert "/elsewhere" not in page.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file; expected an items table with item_id and title"),
        ("id,title\n1,a\n", "no column item_id; got id, title"),
        ("item_id,name\n1,a\n", "got the columns item_id, name, expected item_id and title"),
        ("item_id,title\n1,a\n1,b\n", "item_id '1' stands there more than once"),
    ],
)
def test_titles_that_cannot_be_read(place: Path, tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "titles.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match="--titles") as error:
        api.report_page([place / "grid"], out=tmp_path / "page.html", titles=file)
    assert words in str(error.value)
    assert not (tmp_path / "page.html").exists()


def test_titles_of_any_items_table(tmp_path: Path) -> None:
    frame = pl.DataFrame({"parent_asin": ["1", "2", "3"], "title": ["a", None, "c"]})
    frame.write_parquet(tmp_path / "meta.parquet")
    assert examples.titles(tmp_path / "meta.parquet") == {"1": "a", "3": "c"}
    (tmp_path / "movies.dat").write_text("1::Ché::Drama\n", encoding="latin-1")
    assert examples.titles(tmp_path / "movies.dat") == {"1": "Ché"}


def test_titles_of_the_recipes_own_table(place: Path, tmp_path: Path) -> None:
    """Of two titles of an item the more frequent one; none where the file is gone, and a word where it is another's."""
    run = runs.load(place / "grid" / "full-seed0")
    data = open_prepared(place / run.data["folder"], run.metrics["protocol"]["split"])
    items, said = tmp_path / "items.csv", []
    items.write_text("id,title\nitem 1,one\nitem 1,two\nitem 1,two\nitem 2,\nother,x\n", encoding="utf-8")
    recipe = {"items": {"path": str(items), "columns": {"item_id": "id"}}}
    assert examples.own_titles(recipe, data, said.append) == {"item 1": "two"}
    assert examples.own_titles({"items": {"path": str(tmp_path / "gone.csv")}}, data, said.append) == {}
    assert examples.own_titles({}, data, said.append) == {}
    assert said == []
    items.write_text("id,title\nelsewhere,x\n", encoding="utf-8")
    assert examples.own_titles(recipe, data, said.append) == {}
    assert "has no item of the log" in said[0]


def test_the_page_takes_the_recipes_own_table(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    run = runs.load("grid/recent-seed0")
    recipe = {**run.recipe, "items": {**run.recipe["items"], "path": "titles.csv"}}
    changed = replace(run, recipe=recipe)
    monkeypatch.setattr(runs, "load", lambda folder: changed)
    page = Reader(api.report_page(["grid/recent-seed0"], out="page.html").read_text(encoding="utf-8"))
    assert "Tea & <em>item " in page.text


def test_places_that_cannot_be_written(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--out .*page.pdf: got the ending '.pdf', expected .html"):
        api.report_page([place / "grid"], out=tmp_path / "page.pdf")
    with pytest.raises(UserError, match="does not exist; make it first"):
        api.report_page([place / "grid"], out=tmp_path / "no" / "page.html")


@pytest.mark.parametrize(("scheme", "paper"), [(1, 255), (0, 0x14)])
def test_a_browser_shows_it_by_day_and_night(place: Path, tmp_path: Path, scheme: int, paper: int) -> None:
    picture = tmp_path / "page.png"
    look = f"--blink-settings=preferredColorScheme={scheme}"
    browse(place / "page.html", tmp_path, "--window-size=390,3000", look, f"--screenshot={picture}")
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (3000, 390)
    assert round(255 * float(pixels[0, 0, 0])) == paper
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50  # not an empty sheet


def test_a_phone_shows_the_ratios_of_the_memory_tests_with_their_intervals(text: str, tmp_path: Path) -> None:
    """The table is no wider than a page of 390 pixels; a window has more, so the page stands in a frame."""
    chapter = text[text.index("<h2>Whether old events") : text.index("<h2>What memory tokens")]
    phone = html.escape(text[: text.index("<h1>")] + chapter)
    seen = "const box = this.contentDocument.querySelector('.wide'); document.title = box.scrollWidth - box.clientWidth"
    frame = tmp_path / "frame.html"
    frame.write_text(f'<title></title><iframe width="390" onload="{seen}" srcdoc="{phone}"></iframe>', encoding="utf-8")
    assert "<title>0</title>" in browse(frame, tmp_path, "--dump-dom")


def browse(page: Path, folder: Path, *options: str) -> str:
    """What a browser without a window says of a page; the test is skipped where there is none."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser to render the page with: none of {', '.join(BROWSERS)} is on the path")
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
    fixed += ["--disable-sync", f"--user-data-dir={folder / 'browser'}"]
    call = [browser, *fixed, *options, page.as_uri()]
    return subprocess.run(call, check=True, capture_output=True, timeout=120).stdout.decode("utf-8")
