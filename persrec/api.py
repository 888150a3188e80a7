"""What the commands do, from Python.

`score_lists` is `persrec evaluate --recommendations`. What needs torch is imported where it is used, so that preparing
a log does not wait for it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console, Group
from rich.text import Text

from persrec import figures_json, report
from persrec.errors import UserError, whole
from persrec.evaluation import sheets
from persrec.event_inputs import HIGHEST
from persrec.interactions import log as logs
from persrec.interactions import prepare as preparing
from persrec.interactions.facts import Facts
from persrec.prepared import ROOT, Prepared, open_prepared
from persrec.recipe import recipe as recipes
from persrec.recipe.file import override, read_yaml
from persrec.recipe.recipe import Recipe
from persrec.results import Table, results, shown
from persrec.training import ranks

if TYPE_CHECKING:
    from persrec.probing.ridge import Histories

RUNS_ROOT = Path("runs")
FRAME = "frame"  # name and path of a log that was given as a frame

console = Console(stderr=True)


def say(sentence: str) -> None:
    """Tell the person at the terminal what was understood; where several processes run, one does."""
    if ranks.rank():
        return
    console.print(sentence, style="dim", highlight=False, markup=False, soft_wrap=True)


def prepare(recipe: Any, overrides: Sequence[str] = (), *, frame: Any = None) -> Path:
    """The prepared folder of a log, written unless it is there already; see `fit` for what `recipe` may be."""
    loaded, frame = _recipe(recipe, overrides, frame)
    return preparing.prepare(loaded.data, loaded.name, ROOT, loaded.split, frame=frame, say=say)


def check(recipe: Any, overrides: Sequence[str] = (), *, frame: Any = None) -> Table:
    """Counts, ties, repeats, span, and the share of users with closed segments; nothing is written."""
    loaded, frame = _recipe(recipe, overrides, frame)
    memory = loaded.memory
    facts = preparing.check(
        loaded.data, segment=memory.segment, recent=memory.recent, length=loaded.length, frame=frame, say=say
    )
    return Table([facts.as_dict()], _facts_shown(loaded.name, facts))


def fit(
    recipe: Any,
    overrides: Sequence[str] = (),
    *,
    frame: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    start: str | Path | None = None,
) -> Table:
    """From raw log to metrics: prepare, train, evaluate, one run folder per history and seed.

    `recipe` is a shipped name, a file of a recipe or log, a Recipe, or a pandas or Polars frame of events; `frame`,
    beside a recipe, takes the place of its data. With `resume`, complete runs of the grid are kept and an interrupted
    one goes on from its last checkpoint; with `start`, training starts from the weights of that run (with
    `training.tune_epochs`, `recent` and `compressed` do from those of `full`, where that is in the grid). Raises
    UserError for what a person can put right.
    """
    loaded, frame = _recipe(recipe, overrides, frame)  # so that nobody waits for Lightning to be told of a typo
    from persrec import cells
    from persrec import run as runs

    grid = loaded.grid()
    if any(cell.tuned for cell in grid) and "full" not in loaded.histories and start is None:
        raise UserError(
            f"training.tune_epochs: got {loaded.training.tune_epochs} with history {', '.join(loaded.histories)}, "
            "expected a full model to start from: give a run of history full by --from, or put full first into history"
        )
    folder = Path(out) if out is not None else RUNS_ROOT / loaded.name
    several = len(grid) > 1
    places = {cells.name_of(cell): folder / cells.name_of(cell) if several else folder for cell in grid}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run folder {folder}: is a file; choose another --out")
    _check_apart(folder, several=several)
    for place in places.values():
        if not resume:
            runs.check_free(place, overwrite=overwrite)
    ranks.check(loaded.training.devices, loaded.training.nodes)
    with ranks.first_rank_first():
        data = open_prepared(prepare(loaded, frame=frame), loaded.split.name, verify=False)  # `prepare` has looked
    _check_fits(data, loaded)
    _warn_of_short_histories(data, loaded)
    _warn_of_far_ratings(data, loaded)
    _warn_of_unused_gpu(loaded)
    rows = []
    for cell in grid:
        place = places[cells.name_of(cell)]
        what = (
            f"history {cell.history}, seed {cell.seeds[0]}" if cell.histories else f"baseline {cell.baselines[0].name}"
        )
        say(f"{loaded.name}: {what} -> {place}")
        options: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "progress": progress}
        full = places.get(f"full-seed{cell.seeds[0]}") if cell.tuned else None
        rows.append(cells.fit(cell, data, place, start=full or start, say=say, **options))
    if ranks.rank():  # has only trained
        return Table([], Group(), folder)
    return results(loaded, rows, list(places.values()), folder)


def evaluate(run: str | Path, overrides: Sequence[str] = (), *, json_file: str | Path | None = None) -> Table:
    """Rank all items for the test events of a run folder, or of every complete run in the folder of a grid.

    Overrides of `evaluation` and `retrieval` count for this table, whose rows name them under `set`; run folders stay
    as they are. `json_file` receives the rows. Raises UserError for a run that is incomplete, altered or without its
    data.
    """
    from persrec import cells
    from persrec.evaluation import comparison

    if not isinstance(run, str | Path):
        raise UserError(f"evaluate: got {run!r}, expected the folder of a run, or of the runs of a grid")
    folder = Path(run)
    _check_folder("--json", json_file)
    places = _runs_below(folder)
    _check_one_grid(folder, places)
    rows = []
    for place in places:
        saved, cell, summary = cells.evaluate_again(place, overrides)
        found = cells.row(cell, saved.metrics | summary | {"primary": cell.primary})
        rows.append(found | ({"set": list(overrides)} if overrides else {}))
    rows.sort(key=lambda row: comparison.ORDER.index(row["history"]) if row["history"] in comparison.ORDER else 9)
    if json_file is not None:
        _write_json(Path(json_file), rows)
    return results(cell, rows, [] if overrides else places, folder, overrides)


def score_lists(
    recommendations: Any,
    recipe: Any,
    overrides: Sequence[str] = (),
    *,
    frame: Any = None,
    json_file: str | Path | None = None,
    out: str | Path | None = None,
) -> Table:
    """Anybody's lists, a file or frame of `user_id, item_id, rank`, on the log and under the protocol of a recipe.

    Of a user's list the targets' ranks are read; a user without one has missed them. Where seen items are excluded,
    those of a list take no rank, but targets that were seen before do, as in a model's own evaluation: so give lists
    with seen items in them, long enough to hold k others. `out` is left as a run folder without a model, for `compare`
    and `report`, where the lists go by its name. Raises UserError for lists that contradict themselves; what merely
    does not fit the log is counted and said.
    """
    from persrec import cells
    from persrec import run as runs

    folder = None if out is None else Path(out)
    if folder is not None:
        if folder.name in ("", "full", "recent", "compressed"):
            raise UserError(f"--out {folder}: got the name of a history, expected another: the lists go by it")
        if (folder / runs.MANIFEST).exists():
            raise UserError(f"--out {folder}: holds a complete run; choose another, or remove it first")
        runs.check_free(folder)

    loaded, frame = _recipe(recipe, overrides, frame)
    _check_folder("--json", json_file)
    data = open_prepared(prepare(loaded, frame=frame), loaded.split.name)
    row, counts = cells.score(recommendations, data, loaded, folder=folder)
    for what, count in counts.items():
        if count:
            say(f"{what}: {count:,}")
    missed = row["protocol"]["targets_seen_before"]
    if loaded.evaluation.exclude_seen and missed and not counts["seen items"]:
        say(
            f"No list has an item that its user had before, but {missed:,} of {row['protocol']['targets']:,} targets "
            "are such: these are missed whatever was recommended, where a model's own evaluation ranks them. Give "
            "lists that seen items were not left out of, so long that k others remain."
        )
    if json_file is not None:
        _write_json(Path(json_file), [row])
    return results(loaded, [row], [] if folder is None else [folder], folder or Path())


def _all_runs(folders: Any) -> list[Path]:
    """The runs of one folder, or of several."""
    several = [folders] if isinstance(folders, str | Path) else folders
    if not isinstance(several, Iterable) or not (found := list(several)):
        raise UserError(f"runs: got {folders!r}, expected folders of runs, one or more")
    if wrong := [one for one in found if not isinstance(one, str | Path)]:
        raise UserError(f"runs: got a {type(wrong[0]).__name__}, expected the folder of a run, or of a grid")
    return [place for folder in found for place in _runs_below(Path(folder))]


def _runs_below(folder: Path) -> list[Path]:
    """The run folder itself, or the complete ones of a grid; what is not complete is said."""
    from persrec import run as runs

    if (folder / runs.MANIFEST).exists():
        return [folder]
    unfinished = sorted(path.parent.name for path in folder.glob(f"*/{runs.CHECKPOINTS}"))
    if unfinished:
        say(f"{folder}: left out, as their fit was interrupted: {', '.join(unfinished)}; finish it with --resume")
    found = sorted(path.parent for path in folder.glob(f"*/{runs.MANIFEST}"))
    grids = sorted({path.parent.parent.name for path in folder.glob(f"*/*/{runs.MANIFEST}")})
    if found and grids:
        say(f"{folder}: left out, as they are grids of their own: {', '.join(grids)}")
    return found or [folder]


def _check_apart(folder: Path, *, several: bool) -> None:
    """Raise UserError where a single run and a grid would stand in one folder, in which one hides the other."""
    from persrec import run as runs

    if several and (folder / runs.MANIFEST).exists():
        raise UserError(
            f"run folder {folder}: holds a single run, and several were asked for; choose another --out, or remove it"
        )
    below = sorted(path.parent.name for path in folder.glob(f"*/{runs.MANIFEST}"))
    if not several and below:
        raise UserError(
            f"run folder {folder}: holds {len(below)} runs of a grid ({', '.join(below[:3])}), and a single one was "
            "asked for; choose another --out, or remove them"
        )


def _check_one_grid(folder: Path, places: Sequence[Path]) -> None:
    """Raise UserError where runs of several recipes stand in a folder, whose figures must not be averaged."""
    from persrec import run as runs

    names = {str(read_yaml(place / runs.RECIPE)["name"]) for place in places if (place / runs.RECIPE).exists()}
    if len(names) > 1:
        raise UserError(
            f"{folder}: holds runs of {len(names)} recipes ({', '.join(sorted(names))}), expected one run or the grid "
            "of one recipe; name one of its folders, or hold them against each other: persrec compare"
        )


def compare(
    folders: str | Path | Sequence[str | Path],
    *,
    metric: str | None = None,
    by: str | None = None,
    form: str | None = None,
    json_file: str | Path | None = None,
) -> Table:
    """Runs side by side and in pairs, over the same targets and seeds; see `persrec.evaluation.comparison`.

    `metric` defaults to the primary metric of the first run, `by` names a group of the targets, `form` (markdown,
    latex, html) asks for text instead of a table, and `json_file` receives the rows: for all targets or each group,
    one for each `run` (`mean` is that of the metric, with its interval), each `pair` (`mean` is the ratio, and there is
    a `difference`) and each recipe's `retention`. `by` is length, hours, cold or consumption. Raises UserError for runs
    that were not tested alike.
    """
    from persrec.evaluation import comparison

    _check_folder("--json", json_file)
    if form is not None and form not in sheets.FORMS:
        raise UserError(f"form: got {form!r}, expected one of {', '.join(sheets.FORMS)}, or None for a table")
    sides = comparison.load(_all_runs(folders))
    metric = metric or str(sides[0].recipe["primary"])
    comparison.check_metric(sides, metric)
    parts = [("all targets", None)] if by is None else comparison.groups(sides[0], by)
    by = comparison.SHORT.get(by, by) if by is not None else None
    found, sentences, rows = [], [], []
    for name, part in parts:
        means = [comparison.mean(side, metric, part) for side in sides]
        pairs = comparison.pairs(sides, metric, part)
        kept = comparison.retention(sides, metric, part)
        targets = len(comparison.targets_of(sides[0]).query) if part is None else int(part.sum())
        title = f"{metric}, {name if by is None else f'{by} {name}'}, {targets:,} targets"
        found.append(report.sides_sheet(title, sides, means, metric))
        found += [report.pairs_sheet(f"Pairs, {title}", pairs)] if pairs else []
        sentences += report.retention_sentences(kept, title, "" if by is None else f", {by} {name}")
        rows += report.comparison_rows({"group": name, "metric": metric}, sides, means, pairs, kept)
    if by == comparison.SHORT["consumption"]:
        sentences += comparison.recent_notes(sides)
    sentences += comparison.time_notes(sides) + comparison.seed_notes(sides)
    if json_file is not None:
        _write_json(Path(json_file), rows)
    text = None
    if form is not None:
        text = "\n".join([*map(sheets.FORMS[form], found), *map(sheets.SENTENCES[form], sentences)])
    return Table(rows, shown(found, sentences), text=text)


def report_page(
    folders: str | Path | Sequence[str | Path], *, out: str | Path = "report.html", titles: str | Path | None = None
) -> Path:
    """One self-contained web page on some runs, its figures as PNG and SVG in a folder beside it; see `persrec.page`.

    `titles` is an items table with item_id and title, by default that of the runs' recipe. Raises UserError for runs
    that were not tested alike.
    """
    from persrec.page import page

    out = Path(out)
    _check_folder("--out", out)
    if out.suffix != ".html":
        raise UserError(f"--out {out}: got the ending {out.suffix!r}, expected .html")
    return page.write(_all_runs(folders), out, titles_file=titles, say=say)


def probe(
    recipe: Any,
    overrides: Sequence[str] = (),
    *,
    frame: Any = None,
    gap_hours: float = 12.0,
    json_file: str | Path | None = None,
    figure: str | Path | None = None,
) -> Table:
    """What events older than the last R are worth to a linear model, before any training; see `persrec.probing`.

    What the test of the recipe's split asks for, and what follows it, is left out.
    `gap_hours` is what counts as a break; `json_file` receives the rows, `figure` (.png or .svg) both kinds of picture.
    """
    from persrec.probing import report as probe_report
    from persrec.probing import study as probing

    for option, path in (("--json", json_file), ("--figure", figure)):
        _check_folder(option, path)
    if figure is not None:
        probe_report.check_format(Path(figure))
    if isinstance(gap_hours, bool) or not isinstance(gap_hours, int | float) or not gap_hours > 0:
        raise UserError(f"gap_hours: got {gap_hours!r}, expected a number of hours above 0, as 12")
    loaded, frame = _recipe(recipe, overrides, frame)
    log = logs.load(preparing.data_section(loaded.data), frame=frame, say=say)
    histories = _histories(log, preparing.before_test(log, loaded.split))
    left_out = len(log.columns["items"]) - len(histories.items)
    say(
        f"Left out: the first event of each user that the test asks for and what follows, {left_out:,} events "
        f"(split {loaded.split.name})."
    )
    found = probing.probe(histories, name=loaded.name, gap_hours=gap_hours, say=say)
    if json_file is not None:
        _write_json(Path(json_file), found.as_rows())
    if figure is not None:
        probe_report.figure(found, Path(figure))
    return Table(found.as_rows(), probe_report.shown(found))


def _histories(log: logs.Log, events: npt.NDArray[np.int64]) -> "Histories":
    """The first events of each user, (U,) of them, as arrays."""
    from persrec.probing.ridge import Histories

    place = np.arange(len(log.columns["items"])) - np.repeat(log.offsets[:-1], np.diff(log.offsets))
    kept = place < np.repeat(events, np.diff(log.offsets))
    items, times = log.columns["items"][kept].astype(np.int64) - 1, log.columns.get("times")
    offsets = np.concatenate([[0], np.cumsum(events)])
    return Histories(offsets, items, None if times is None else times[kept], log.items.height)


def _check_folder(option: str, path: str | Path | None) -> None:
    if path is not None and not Path(path).parent.is_dir():
        raise UserError(f"{option} {path}: the folder {Path(path).parent} does not exist; make it first")


def recommend(
    run: str | Path,
    users: Sequence[Any] | None = None,
    *,
    histories: Any = None,
    k: int = 10,
    at: Any = None,
    store: str | Path | None = None,
    allow: Sequence[Any] | str | Path | None = None,
    block: Sequence[Any] | str | Path | None = None,
    unknown: str | None = None,
    slots: bool = False,
) -> pl.DataFrame:
    """The k best items of each user of a run, or of its `store`: a Polars frame `user_id, item_id, score, rank`.

    `users` are ids (None: everybody), or `histories` a file or frame of the events of users who may be new. `allow` and
    `block` are ids, or files of them. All else as in `Recommender.recommend`, which stays loaded between calls. Raises
    UserError for unknown users, lists that leave no item, and k above the catalogue.
    """
    from persrec.serving import lists
    from persrec.serving.recommender import Recommender

    allow, block = (lists.read(one) if lists.is_file(one) else one for one in (allow, block))
    options: dict[str, Any] = {"allow": allow, "block": block, "unknown": unknown, "slots": slots}
    with Recommender.load(run, store) as recommender:
        return recommender.recommend(users, k, histories=histories, at=at, **options, say=say)


def score(
    run: str | Path,
    candidates: Any,
    users: Sequence[Any] | None = None,
    *,
    histories: Any = None,
    at: Any = None,
    store: str | Path | None = None,
) -> pl.DataFrame:
    """The scores of candidates, in their order: a Polars frame `user_id, item_id, score`; see `Recommender.score`.

    `candidates` are a file or frame with a row for each pair of `user_id` and `item_id`, the items of each user as a
    mapping, or a list of items for all `users` (None: everybody). Raises UserError that names unknown users and items.
    """
    from persrec.serving.recommender import Recommender

    given = Path(candidates) if isinstance(candidates, str) else candidates
    with Recommender.load(run, store) as recommender:
        return recommender.score(users, given, histories=histories, at=at, say=say)


def similar(run: str | Path, items: Sequence[Any], *, k: int = 10) -> pl.DataFrame:
    """The k items of a run that are most like each of `items`: a Polars frame `item_id, similar, score, rank`.

    The score is the cosine of their vectors. Raises UserError for unknown items and k above the catalogue.
    """
    from persrec.serving.recommender import Recommender

    return Recommender.load(run).similar(items, k)


def _recipe(recipe: Any, overrides: Sequence[str], frame: Any) -> tuple[Recipe, Any]:
    """The recipe, and the frame that takes the place of its file, if there is one."""
    if isinstance(recipe, Recipe):
        loaded = recipes.parse(override(recipe.dump(), overrides), recipe.name) if overrides else recipe
    elif isinstance(recipe, str | Path):
        loaded = recipes.load(recipe, overrides)
    else:
        if frame is not None:
            raise UserError("frame: got two frames, as the recipe is one already; expected a recipe, or no `frame`")
        if recipe is None:
            raise UserError(
                "got None, expected a shipped recipe's name, a file of a recipe or log, a Recipe, or a pandas or "
                "Polars frame of events"
            )
        values = {"name": FRAME, "data": {"source": "table", "path": FRAME}}
        loaded, frame = recipes.parse(override(values, overrides), "on a frame"), recipe
    if frame is None and loaded.data.path == FRAME and not Path(FRAME).exists():
        raise UserError(
            f"data.path: got {FRAME}, as in the recipe of a run that was fitted on a frame; give that as `frame=`, or "
            "a file by --set data.path=FILE"
        )
    if frame is not None:  # so that the recipe in the run folder does not name other data
        loaded = loaded.model_copy(update={"data": loaded.data.model_copy(update={"source": "table", "path": FRAME})})
    return loaded, frame


def _write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    """The rows as a file, whole or not at all; null where a figure is not finite, as a ratio to nothing."""
    with whole(path, "--json") as place:
        place.write_text(figures_json.dumps(rows) + "\n", encoding="utf-8")


def _facts_shown(name: str, facts: Facts) -> Group:
    return Group(
        report.facts_table(name, facts.rows()), *[Text(f"Note: {text}", style="yellow") for text in facts.warnings]
    )


def _check_fits(data: Prepared, recipe: Recipe) -> None:
    """Raise UserError where a log cannot do what the recipe asks of it: now, not after hours of training."""
    if recipe.time != "none" and data.times is None:
        raise UserError(f"time: got {recipe.time}, expected none: the log of {recipe.name} has no times")
    if max(recipe.evaluation.k) > data.items_count:
        raise UserError(
            f"evaluation.k: got {max(recipe.evaluation.k)}, expected at most {data.items_count}, the number of items "
            "in the log; ask for fewer"
        )
    if not (data.train_end >= 2).any():
        raise UserError(
            f"the log of {recipe.name}: none of its {data.users:,} users has two events to train on under the split "
            f"{recipe.split.name}; expected {_wanted_by_split(data, recipe, 4)}, or another split"
        )
    for part, queries in (("validation", data.validation), ("test", data.test)):
        if not len(queries.user):
            raise UserError(
                f"the log of {recipe.name}: the split {recipe.split.name} leaves no {part} target of its "
                f"{data.users:,} users; expected {_wanted_by_split(data, recipe, 3)}, or another split"
            )


def _wanted_by_split(data: Prepared, recipe: Recipe, events: int) -> str:
    """What a split wants that leaves nothing to train on, or nothing to ask for."""
    if recipe.split.kind == "global-time" and data.times is not None:
        first, last = (
            np.datetime64(int(when), "ms").astype("datetime64[D]") for when in (data.times.min(), data.times.max())
        )
        return f"cuts within the log, which goes from {first} to {last}"
    if recipe.split.gap_hours is not None:
        return f"longer histories, or breaks shorter than split.gap_hours = {recipe.split.gap_hours:g}"
    return f"longer histories ({events} events under leave-one-out)"


def _warn_of_unused_gpu(recipe: Recipe) -> None:
    """Say so where a machine has a GPU and the recipe trains without it."""
    import torch

    if recipe.histories and recipe.training.accelerator == "cpu" and torch.cuda.is_available():
        say("Note: there is a GPU, and training.accelerator is cpu; --set training.accelerator=gpu trains on it.")


def _warn_of_far_ratings(data: Prepared, recipe: Recipe) -> None:
    """Say so where a model is to read ratings that have no bucket of their own."""
    if "rating" not in recipe.model.inputs or data.ratings is None:
        return
    known = data.ratings[np.isfinite(data.ratings)]
    if len(known) and (known.min() < 0 or known.max() > HIGHEST):
        say(
            f"Note: ratings go from {known.min():g} to {known.max():g}, of which model.inputs reads those below 0 as 0 "
            f"and those above {HIGHEST} as {HIGHEST}; bring them into this range."
        )


def _warn_of_short_histories(data: Prepared, recipe: Recipe) -> None:
    """Say so where hardly anybody has a history to compress."""
    lengths = data.test.end if recipe.length is None else data.test.end.clip(max=recipe.length)
    memory = recipe.memory
    share = float((lengths >= memory.segment + memory.recent).mean())
    if "compressed" in recipe.histories and share < 0.1:
        say(
            f"Note: {share:.1%} of the test queries have S + R = {memory.segment + memory.recent} events or more "
            "before them; for all others full, recent and compressed are the same computation."
        )
