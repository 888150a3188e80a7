"""One history and one seed of a grid: trained, evaluated, saved as a run, and resumed."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from persrec import run as runs
from persrec.baselines import BASELINES
from persrec.errors import UserError, memory_for
from persrec.evaluation import recommendations as lists
from persrec.evaluation.evaluate import (
    LIST,
    Evaluation,
    evaluate_baseline,
    list_metrics,
    protocol,
    seen_share,
)
from persrec.evaluation.evaluate import evaluate as evaluate_model
from persrec.evaluation.memory_tests import history_tests, memory_tests
from persrec.interactions.schema import Say, log
from persrec.items import load as item_texts
from persrec.models.build import build, kept_weights
from persrec.models.model import Model
from persrec.prepared import ITEMS, Prepared
from persrec.recipe.file import check_overrides, override
from persrec.recipe.recipe import WITHOUT_EFFECT, Recipe, flat, parse
from persrec.retrieval.indexes import check_index
from persrec.serving.recommender import Recommender
from persrec.targets import targets_of
from persrec.training import module as training
from persrec.training import ranks
from persrec.training.loggers import FOLDERS
from persrec.training.settings import carrying, loss_settings, training_settings
from persrec.training.starting import start_from
from persrec.training.trainer import check_accelerator

ASKED = "evaluation", "retrieval"  # sections of a recipe that a trained model may be asked by otherwise
LISTS = "recommendations"  # in the metrics of lists made elsewhere: what of them did not fit the log
STARTED = "started.json"  # in checkpoints/: what an interrupted fit was about


def name_of(cell: Recipe) -> str:
    """Name of one history and seed of a grid, or of a baseline."""
    return f"{cell.histories[0]}-seed{cell.seeds[0]}" if cell.histories else cell.baselines[0].name


def fit(
    cell: Recipe,
    data: Prepared,
    folder: Path,
    *,
    resume: bool,
    overwrite: bool,
    progress: bool,
    start: str | Path | None = None,
    say: Say = log,
) -> dict[str, Any]:
    """Train (from the weights of the run `start`) and evaluate one history and seed; the row of its results."""
    data = data.asking(cell.evaluation.part)
    if resume and (folder / runs.MANIFEST).exists():
        return row(cell, _same_run(runs.load(folder), cell, data, start).metrics)
    if not cell.histories:
        return {} if ranks.rank() else _fit_baseline(cell, data, folder, overwrite=overwrite)
    model, fitted, notes = train(cell, data, folder, resume=resume, progress=progress, start=start, say=say)
    if ranks.rank():  # one process evaluates and saves
        return {}
    if fitted.best_epoch == cell.epochs > 1:
        say(
            f"Note: the last of {cell.epochs} epochs is the best by validation; more may be better "
            f"(training.{'tune_epochs' if cell.tuned else 'epochs'})."
        )
    found, summary = evaluate(model, data, cell)
    metrics = {
        "history": cell.history,
        "seed": cell.seeds[0],
        "reads": cell.memory.reads,
        "primary": cell.primary,
        "validation_ndcg@10": fitted.validation,
        "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs,
        "seconds": fitted.seconds,
        **notes,
        **summary,
    }
    return _save(cell, data, folder, found, metrics, model, overwrite=overwrite)


def train(
    cell: Recipe,
    data: Prepared,
    folder: Path,
    *,
    resume: bool = False,
    progress: bool = False,
    start: str | Path | None = None,
    minutes: float | None = None,
    say: Say = log,
) -> tuple[Model, training.Fitted, dict[str, Any]]:
    """A trained model of one history and seed, and notes on its items; the test targets are not looked at.

    After `minutes` training ends wherever it is.
    """
    data = carrying(data, cell)
    checkpoints = folder / runs.CHECKPOINTS
    goes_on = resume and (checkpoints / training.LAST).exists()
    if cell.training.threads is not None:
        torch.set_num_threads(cell.training.threads)
    model, notes = fresh(cell, data, say, start=start)
    asked_by = cell.retrieval.kind, cell.retrieval.options
    check_index(*asked_by, items=data.items_count, width=model.query_width)  # now, not when the model is evaluated
    check_accelerator(training_settings(cell))
    if start is not None:
        with ranks.first_rank_first():  # which may just have saved that run
            notes["start"] = started = start_from(model, start, data, recipe=cell, load=not goes_on)
        say(
            f"--from {start}: {started['matched']:,} items are known by their ids, {started['new']:,} are new and "
            f"start fresh, {started['vanished']:,} have vanished and are dropped."
            + (" The run had no memory: its tokens start fresh." if started["fresh_memory"] else "")
            + (" Its S + R differs: position biases are those of the same distances." * started["other_distances"])
        )
    with ranks.first_rank_first():
        if goes_on:
            _check_same(checkpoints / STARTED, cell, data, start)
        elif not ranks.rank():
            _start(checkpoints, cell, data, start)
    asked = replace(training_settings(cell), minutes=minutes)
    fitted = training.fit(model, data, loss_settings(cell), asked, folder=folder, resume=goes_on, progress=progress)
    return model, fitted, notes


def fresh(
    cell: Recipe, data: Prepared, say: Say = log, *, start: str | Path | None = None
) -> tuple[Model, dict[str, Any]]:
    """An untrained model, and notes on its items' texts where it reads these; texts are whitened as in the run `start`,
    whose weights it is to be given."""
    known = None
    if cell.items.use != "id":
        with ranks.first_rank_first(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(cell.seeds[0])  # adapters and the item token are drawn here
            options: dict[str, Any] = {"accelerator": cell.training.accelerator, "say": say}
            if start is not None and cell.items.whiten:
                options["whitened_by"] = runs.load(start).weights().get("items.whitening")
            known = item_texts.load(cell.items, data, **options)
    texts, live, counts = (None, None, None) if known is None else known
    model = build(cell, items=data.items_count, seed=cell.seeds[0], texts=texts, live=live)
    return model, {} if counts is None else {"items": counts}


def _fit_baseline(cell: Recipe, data: Prepared, folder: Path, *, overwrite: bool) -> dict[str, Any]:
    """Fit and evaluate a baseline; its run holds no weights, as it is fitted again where it is needed."""
    started = time.monotonic()
    if overwrite:
        _clear(folder)
    found = evaluate_fitted(cell, data)
    metrics = {
        "history": cell.baselines[0].name,
        "seed": cell.seeds[0],
        "primary": cell.primary,
        "epochs": 0,
        "seconds": time.monotonic() - started,
        **_summary(found, data),
    }
    return _save(cell, data, folder, found, metrics, None, overwrite=overwrite)


def _save(
    cell: Recipe,
    data: Prepared,
    folder: Path,
    found: Evaluation,
    metrics: dict[str, Any],
    model: Model | None,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Leave a run folder; the row of its results."""
    saved = runs.save(
        folder,
        recipe=cell.dump(),
        weights=None if model is None else kept_weights(model),
        data={"hash": data.hash, "folder": str(data.folder)},
        items=data.folder / ITEMS,
        metrics=metrics,
        targets=found.table(),
        overwrite=overwrite,
    )
    return row(cell, saved.metrics)


def evaluate_fitted(cell: Recipe, data: Prepared) -> Evaluation:
    """Fit the baseline of a cell and rank the test targets, with a bar on a terminal."""
    chosen = cell.baselines[0]
    baseline = BASELINES[chosen.kind](**chosen.options)
    baseline.fit(data)
    with _bar(chosen.name, len(data.test.user)) as advance:
        return evaluate_baseline(baseline, data, protocol(cell), on_queries=advance)


def score(
    recommendations: Any, data: Prepared, cell: Recipe, *, folder: Path | None = None
) -> tuple[dict[str, Any], dict[str, int]]:
    """The row of lists that anybody recommended, and what of them did not fit the log.

    With `folder` they are left there as a run without a model, which stands beside others under the folder's name.
    """
    data = data.asking(cell.evaluation.part)
    targets, settings = targets_of(data, data.test), protocol(cell).without_a_model()
    if settings.seen_odds is not None:
        raise UserError(
            f"--recommendations: got evaluation.seen_odds {settings.seen_odds}, but ranks made elsewhere stand as they "
            "are; add --set evaluation.seen_odds=null"
        )
    rows = lists.read(recommendations)
    k, hidden = max(settings.k), settings.exclude_seen
    scored = lists.score(rows, data, targets, k=k, exclude_seen=hidden, listed=min(LIST, data.items_count))
    best = scored.lists
    found = Evaluation(targets, scored.rank, best, seen_share(data, best), 0.0, settings)
    metrics = {
        "history": "lists" if folder is None else folder.name,
        "seed": cell.seeds[0],
        "primary": cell.primary,
        "epochs": 0,
        "seconds": 0.0,
        LISTS: scored.counts,
        **_summary(found, data),
    }
    if folder is None:
        return row(cell, metrics), scored.counts
    return _save(cell, data, folder, found, metrics, None, overwrite=False), scored.counts


def _start(checkpoints: Path, cell: Recipe, data: Prepared, start: str | Path | None) -> None:
    """An empty place for checkpoints and logs, with a note of what they are about.

    What `--overwrite` replaces stops being a run here, so that `--resume` goes on with the new one.
    """
    _clear(checkpoints.parent)
    checkpoints.mkdir(parents=True)
    (checkpoints / STARTED).write_text(json.dumps(_identity(cell, data, start)), encoding="utf-8")


def _clear(folder: Path) -> None:
    """Remove what an earlier fit left in a run folder beside the run itself, which is none without its manifest."""
    for name in (runs.CHECKPOINTS, *FOLDERS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("training.csv", "clear_events.csv", runs.MANIFEST):
        (folder / name).unlink(missing_ok=True)


def _identity(cell: Recipe, data: Prepared, start: str | Path | None) -> dict[str, Any]:
    """What must be the same for a resumed fit to repeat an unbroken one."""
    return {"recipe": cell.dump(), "data": data.hash, "start": None if start is None else str(Path(start).resolve())}


def _check_same(started: Path, cell: Recipe, data: Prepared, start: str | Path | None) -> None:
    before, now = json.loads(started.read_text(encoding="utf-8")), _identity(cell, data, start)
    if before.get("start") != now["start"]:
        raise _started_otherwise(started.parent.parent, before.get("start"), now["start"])
    if before["data"] != now["data"]:
        raise UserError(f"--resume: {started.parent.parent} was started on other data; start it anew without --resume")
    _refuse_difference(before["recipe"], now["recipe"], started.parent.parent)


def _started_otherwise(folder: Path, before: str | None, now: str | None) -> UserError:
    was, is_now = (one or "fresh weights" for one in (before, now))
    return UserError(
        f"--resume: {folder} was started from {was}, and --from now says {is_now}; give the --from that it was started "
        "with, or start it anew without --resume"
    )


def _same_run(run: runs.Run, cell: Recipe, data: Prepared, start: str | Path | None) -> runs.Run:
    """A complete run, if it is what the grid asks for; the one that it was started from may stand elsewhere by now."""
    before, now = run.metrics.get("start", {}).get("run"), None if start is None else str(start)
    if cell.histories and (before and Path(before).name) != (now and Path(now).name):
        raise _started_otherwise(run.folder, before, now)
    if run.data["hash"] != data.hash:
        raise UserError(
            f"--resume: the run {run.folder} is of other data; choose another --out, or give "
            "--overwrite in the place of --resume"
        )
    _refuse_difference(run.recipe, cell.dump(), run.folder)
    return run


def _refuse_difference(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse another recipe; keys that were not there yet have had their defaults. Data are compared by content."""
    old, new = (flat(json.loads(json.dumps(parse(tree, f"of {folder}").dump()))) for tree in (before, now))
    keys = sorted(key for key in old.keys() | new.keys() if not key.startswith("data.") and key not in WITHOUT_EFFECT)
    changed = [key for key in keys if old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key}: {old.get(key)!r} then, {new.get(key)!r} now" for key in changed)
        raise UserError(
            f"--resume: {folder} was started with another recipe ({listed}); start it anew without --resume"
        )


def evaluate_again(folder: Path, overrides: Sequence[str] = ()) -> tuple[runs.Run, Recipe, dict[str, Any]]:
    """A run, its recipe, and what its evaluation finds now, with keys of `evaluation` and `retrieval` as they are set;
    the folder stays as it is."""
    saved = runs.load(folder)
    cell = _asked_otherwise(saved, overrides)
    if LISTS in saved.metrics:
        if overrides:
            raise UserError(
                f"{folder}: got --set, but it holds the ranks of lists made elsewhere; score them again by "
                "--recommendations FILE --log RECIPE|FILE with this --set"
            )
        return saved, cell, {}
    data = runs.open_log(saved.data, cell.split.name).asking(cell.evaluation.part)
    if not cell.histories:
        return saved, cell, _summary(evaluate_fitted(cell, data), data)
    return saved, cell, evaluate(Recommender.load(folder).model, data, cell)[1]


def _asked_otherwise(saved: runs.Run, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run with other keys of its evaluation; where its primary metric's cutoff is no longer in
    `evaluation.k`, the largest one there takes its place."""
    check_overrides(overrides)
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key.split(".")[0] not in ASKED:
            raise UserError(
                f"--set {text}: got {key}, expected a key of {' or '.join(ASKED)}: a run is evaluated as it was "
                "trained, on its own data and split; to change these, fit with this --set and another --out"
            )
    tree = override(saved.recipe, overrides)
    asked = tree["evaluation"].get("k") if isinstance(tree["evaluation"], dict) else None
    cutoffs = [k for k in (asked if isinstance(asked, list | tuple) else [asked]) if isinstance(k, int)]
    name, _, cutoff = str(tree["primary"]).partition("@")
    if cutoffs and int(cutoff) not in cutoffs:
        tree["primary"] = f"{name}@{max(cutoffs)}"
    return parse(tree, f"of run {saved.folder}" + (f" with {' '.join(overrides)}" if overrides else ""))


def evaluate(model: Model, data: Prepared, cell: Recipe) -> tuple[Evaluation, dict[str, Any]]:
    """Ranks of the test targets and their summary, with what old events are worth to a compressed or full model; bars
    on a terminal."""
    data = carrying(data, cell)
    settings = protocol(cell)
    with memory_for("evaluating", lower="lower evaluation.users_per_chunk, or set a length"):
        with _bar("evaluating", len(data.test.user)) as advance:
            found = evaluate_model(model, data, settings, on_queries=advance)
        summary = _summary(found, data)
        if cell.history == "compressed":
            with _bar("evaluating without the memory", None) as advance:
                summary["memory_tests"] = memory_tests(model, data, settings, found, cell.primary, on_queries=advance)
        elif cell.history == "full":
            with _bar("evaluating on recent events", None) as advance:
                summary["history_tests"] = history_tests(
                    model, data, settings, found, cell.primary, segment=cell.memory.segment, on_queries=advance
                )
    return found, summary


def _summary(found: Evaluation, data: Prepared) -> dict[str, Any]:
    """What an evaluation found, and how many of the users and of the items that are asked for had no training."""
    summary, targets = found.summary(), found.targets
    users = int((data.train_end[np.unique(found.user)] == 0).sum())
    summary["protocol"] |= {"cold_users": users, "cold_items": len(np.unique(targets.item[targets.item_events == 0]))}
    return {**summary, "lists": list_metrics(found, data)}


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, as a function that is told how many more are done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def row(cell: Recipe, metrics: dict[str, Any]) -> dict[str, Any]:
    """What the tables and the JSON of a grid have of a cell."""
    return {"name": cell.name, **metrics}
