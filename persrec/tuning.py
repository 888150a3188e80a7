"""Finding settings on validation: a sweep of the learning rate, and a search with a time budget. No test is looked at.

A search leaves `trials.csv`, every trial, the bad ones too, and `best.yaml`, the recipe with the best values. (Sweep:
arXiv 1506.01186, section 3.3; the search is Optuna's TPE, an extra.)
"""

import csv
import math
import re
import shutil
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch.amp import GradScaler

from persrec import cells
from persrec.errors import UserError, whole
from persrec.interactions.schema import Say, log
from persrec.prepared import Prepared
from persrec.recipe.file import override
from persrec.recipe.recipe import Recipe, parse
from persrec.training.module import RATE_OF_ITS_OWN, Fitting, plan_of, target_counts
from persrec.training.settings import carrying, loss_settings, training_settings

TRIALS, BEST = "trials.csv", "best.yaml"
FIXED = ("name", "data", "split", "seeds", "evaluation", "primary", "baselines")  # what trials must share to compare
FUTILE = 50  # draws of which none makes a recipe, or trials of which none comes to a validation, before giving up
FORMS = "loguniform(a,b), uniform(a,b), int(a,b) or choice(a,b,...)"
SMOOTH = 0.9  # share of the past in a smoothed loss
WORSE = 1.25  # times the least smoothed loss, from where on a sweep has seen enough
HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # what layers compute in, by training.precision


class Sweep(NamedTuple):
    """Loss by learning rate."""

    rates: list[float]
    losses: list[float]  # smoothed
    suggested: float  # where the loss falls fastest


class Space(NamedTuple):
    """Values that a key may take."""

    key: str
    form: str
    bounds: tuple[Any, ...]

    def of(self, trial: Any) -> Any:
        """A trial's value."""
        if self.form == "choice":
            return self.bounds[trial.suggest_categorical(self.key, list(range(len(self.bounds))))]
        if self.form == "int":
            return trial.suggest_int(self.key, *self.bounds)
        return trial.suggest_float(self.key, *self.bounds, log=self.form == "loguniform")


class Trial(NamedTuple):
    """A row of the table."""

    number: int
    values: dict[str, Any]
    validation: float | None  # NDCG@10
    epochs: int | None
    seconds: float
    fault: str  # why there is no validation


def sweep(
    cell: Recipe, data: Prepared, *, low: float = 1e-5, high: float = 1.0, steps: int = 120, say: Say = log
) -> Sweep:
    """Train with a rate that grows from `low` to `high`, a step each; ends where the loss has become much worse.

    A step is the recipe's, of `training.accumulate` batches in its precision; a text model that is trained keeps its
    own rate. Raises UserError for several devices, and where the loss falls nowhere.
    """
    settings, loss = training_settings(cell), loss_settings(cell)
    if settings.ranks > 1:
        raise UserError(
            f"tune --lr: got training.devices {settings.devices} and training.nodes {settings.nodes}, expected one "
            "device; steps of the same size on one are those of --set training.devices=1 --set training.nodes=1 --set "
            f"training.accumulate={settings.batches_per_step}"
        )
    data = carrying(data, cell)
    if cell.training.threads is not None:
        torch.set_num_threads(cell.training.threads)
    model = cells.fresh(cell, data, say)[0].train()
    counts = target_counts(data) if loss.needs_counts else None
    device = "cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    fitting = Fitting(model, loss, settings, total_steps=steps, counts=counts).to(device)
    optimizer = fitting.configure_optimizers()["optimizer"]
    half, scaler = HALVES.get(settings.precision), GradScaler(device, enabled=settings.precision == "16-mixed")
    plan = plan_of(model, data, settings)
    windows = list(plan)
    rates, losses, smooth = [], [], 0.0
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        for group in optimizer.param_groups:
            if not group[RATE_OF_ITS_OWN]:
                group["lr"] = rate
        optimizer.zero_grad()
        mean = 0.0
        for number in range(step * settings.accumulate, (step + 1) * settings.accumulate):
            with torch.autocast(device, dtype=half, enabled=half is not None):
                found = fitting.loss_of(plan[windows[number % len(windows)]].to(device), number=number)
            scaler.scale(found.loss / settings.accumulate).backward()
            mean += float(found.rows) / settings.accumulate
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
        scaler.step(optimizer)
        scaler.update()
        model.bound_temperature()
        if mean == 0:  # of targets that count nothing
            continue
        smooth = SMOOTH * smooth + (1 - SMOOTH) * mean
        rates.append(rate)
        losses.append(smooth / (1 - SMOOTH ** len(rates)))
        if not losses[-1] <= WORSE * min(losses):
            break
    if not losses or not min(losses) < losses[0]:
        first, last = (losses[0], losses[-1]) if losses else (0, 0)
        raise UserError(
            f"tune --lr: got a loss that falls nowhere: from {first:g} at a rate of {low:g} to {last:g} at {rate:g}; "
            "expected one that falls: look for weights that are all 0 (loss.weight_by), or give more events"
        )
    return Sweep(rates, losses, _steepest(rates, losses))


def _steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the loss falls fastest, of those before its least value."""
    least = min(range(len(losses)), key=losses.__getitem__)
    falls = [losses[step + 1] - losses[step] for step in range(max(1, least))]
    return rates[min(range(len(falls)), key=falls.__getitem__)]


def spaces(texts: Sequence[str]) -> list[Space]:
    """The spaces of `key=form(bounds)` texts; raises UserError for what cannot be read."""
    found = []
    for text in texts:
        parts = re.fullmatch(r"\s*([\w.]+)\s*=\s*(loguniform|uniform|int|choice)\s*\((.*)\)\s*", text)
        bounds = _bounds(parts.group(3)) if parts else ()
        if parts is None or not _sound(parts.group(2), bounds):
            example = "training.learning_rate=loguniform(1e-4,1e-2)"
            raise UserError(f"--search {text}: expected key={FORMS}, a below b, as in {example}")
        if parts.group(1).split(".")[0] in FIXED:
            raise UserError(f"--search {text}: trials only compare where they share {', '.join(FIXED)}; set it instead")
        found.append(Space(parts.group(1), parts.group(2), bounds))
    keys = [space.key for space in found]
    twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if twice:
        raise UserError(f"--search: got {', '.join(twice)} more than once, expected one space for each key")
    return found


def _bounds(text: str) -> tuple[Any, ...]:
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        return ()
    return tuple(_number(value) for value in values)


def _number(value: Any) -> Any:
    """YAML takes 1e-4 for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _sound(form: str, bounds: Sequence[Any]) -> bool:
    if form == "choice":
        return len(bounds) > 0
    kinds = (int,) if form == "int" else (int, float)
    numbers = len(bounds) == 2 and all(isinstance(value, kinds) and math.isfinite(value) for value in bounds)
    return numbers and bounds[0] < bounds[1] and (form != "loguniform" or bounds[0] > 0)


def search(
    recipe: Recipe,
    data: Prepared,
    wanted: Sequence[Space],
    out: Path,
    *,
    minutes: float,
    trials: int | None = None,
    overwrite: bool = False,
    say: Say = log,
) -> list[Trial]:
    """Trials until the time is up, the last one cut short; the best ones first, then those without a validation.

    Raises UserError where Optuna is missing, where `out` holds a search already (unless `overwrite`), where no values
    of the spaces make a recipe, and where no trial came to a validation, of which FUTILE are enough.
    """
    if find_spec("optuna") is None:
        raise UserError("tune --search needs the package optuna: run `pip install 'persrec[tune]'`")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _check(recipe, wanted, optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)))
    _make_free(out, overwrite=overwrite)
    deadline = time.monotonic() + 60 * minutes
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=recipe.seeds[0]))
    done: list[Trial] = []
    while time.monotonic() < deadline and (trials is None or len(done) < trials) and not _futile(done):
        asked = study.ask()
        values = {space.key: space.of(asked) for space in wanted}
        trial = _tried(recipe, data, values, out / "trial", number=len(done), deadline=deadline)
        if trial.validation is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, trial.validation)
        done.append(trial)
        _leave(recipe, done, [space.key for space in wanted], out)
        say(_sentence(trial))
    ranked = sorted(done, key=lambda trial: -math.inf if trial.validation is None else trial.validation, reverse=True)
    if not ranked or ranked[0].validation is None:
        reason = f"; the first one: {ranked[0].fault}" if ranked else ""
        raise UserError(f"tune: none of {len(done)} trials came to a validation in {minutes:g} minutes{reason}")
    return ranked


def _check(recipe: Recipe, wanted: Sequence[Space], study: Any) -> None:
    """Raise UserError where none of some drawn values makes a recipe, as with a key that there is not."""
    faults = []
    for _ in range(FUTILE):
        drawn = study.ask()
        try:
            with_values(recipe, {space.key: space.of(drawn) for space in wanted})
        except UserError as error:
            faults.append(error)
        else:
            return
    raise UserError(f"--search: none of {FUTILE} draws makes a recipe; the first one: {faults[0]}")


def _futile(done: Sequence[Trial]) -> bool:
    """Whether so many trials have failed that no other one is expected to come to anything."""
    return len(done) >= FUTILE and all(trial.validation is None for trial in done)


def _make_free(out: Path, *, overwrite: bool) -> None:
    """Remove an earlier search, where that is wanted; raise UserError where one stands in the way, or a file."""
    if out.exists() and not out.is_dir():
        raise UserError(f"tune: --out {out} is a file; choose another --out")
    earlier = [path for path in (out / TRIALS, out / BEST) if path.exists()]
    if earlier and not overwrite:
        raise UserError(f"tune: {out} holds {earlier[0].name} of a search; choose another --out or add --overwrite")
    for path in earlier:
        path.unlink()


def _tried(
    recipe: Recipe, data: Prepared, values: dict[str, Any], folder: Path, *, number: int, deadline: float
) -> Trial:
    """Train with some values; what becomes of it is the trial's, so that the search goes on."""
    started = time.monotonic()
    try:
        cell = with_values(recipe, values)
        _, fitted, _ = cells.train(cell, data, folder, minutes=max(0.01, (deadline - started) / 60))
        found: tuple[float | None, int | None, str] = fitted.validation, fitted.epochs, ""
    except (UserError, RuntimeError) as error:
        found = None, None, " ".join(str(error).split())[:300]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Trial(number, values, found[0], found[1], time.monotonic() - started, found[2])


def with_values(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with other values."""
    texts = [f"{key}={yaml.safe_dump(value)}" for key, value in values.items()]
    return parse(override(recipe.dump(), texts), "of a trial")


def _leave(recipe: Recipe, done: Sequence[Trial], keys: Sequence[str], out: Path) -> None:
    """The table so far, and the recipe of the best trial."""
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / TRIALS, "--out") as path:
        _write_table(path, done, keys)
    best = max((trial for trial in done if trial.validation is not None), key=_validation, default=None)
    if best is not None:
        text = yaml.safe_dump(with_values(recipe, best.values).dump(), sort_keys=False, allow_unicode=True)
        with whole(out / BEST, "--out") as path:
            path.write_text(text, encoding="utf-8")


def _validation(trial: Trial) -> float:
    assert trial.validation is not None
    return trial.validation


def _write_table(path: Path, done: Sequence[Trial], keys: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *keys, "validation_ndcg@10", "epochs", "seconds", "fault"])
        for trial in done:
            values = [trial.values[key] for key in keys]
            rest = [trial.validation, trial.epochs, f"{trial.seconds:.1f}", trial.fault]
            writer.writerow([trial.number, *values, *("" if value is None else value for value in rest)])


def _sentence(trial: Trial) -> str:
    values = ", ".join(f"{key} {_shown(value)}" for key, value in trial.values.items())
    end = trial.fault if trial.validation is None else f"validation ndcg@10 {trial.validation:.4f}"
    return f"trial {trial.number}: {values}: {end} ({trial.seconds:.0f} s)"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
