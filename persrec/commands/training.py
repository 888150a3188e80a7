"""The commands around training: settings found on validation, and a run's vectors and read step for others to use."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from persrec.errors import UserError

if TYPE_CHECKING:
    from persrec.evaluation.sheets import Sheet
    from persrec.prepared import Prepared
    from persrec.recipe.recipe import Recipe
    from persrec.tuning import Sweep, Trial

SHOWN = 14  # rates of a sweep, and trials of a search
MINUTES = 10.0  # of a search, where no others are given


@click.command()
@click.argument("recipe", metavar="RECIPE|FILE")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a recipe key; repeatable.")
@click.option("--lr", is_flag=True, help="Sweep the learning rate over one short training; looks at the loss alone.")
@click.option(
    "--search",
    "wanted",
    multiple=True,
    metavar="KEY=SPACE",
    help="A key to search, as in training.learning_rate=loguniform(1e-4,1e-2); also uniform, int, choice; repeatable.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Of a search, in all.  [default: {MINUTES:g}]",
)
@click.option("--trials", type=click.IntRange(min=1), help="At most so many.  [default: until the time is up]")
@click.option("--out", type=click.Path(path_type=Path), help="Of a search.  [default: tuning/<name of the recipe>]")
@click.option("--overwrite", is_flag=True, help="Replace the search that the folder holds.")
def tune(
    recipe: str,
    overrides: tuple[str, ...],
    lr: bool,
    wanted: tuple[str, ...],
    minutes: float | None,
    trials: int | None,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Find settings of RECIPE on validation; the test set is not looked at.

    A search leaves best.yaml, the recipe with the best values, and trials.csv, all that was tried.
    """
    if lr == bool(wanted):
        raise UserError("tune: expected either --lr or --search KEY=SPACE, and one of them")
    given = {"--minutes": minutes, "--trials": trials, "--out": out, "--overwrite": overwrite or None}
    foreign = [name for name, value in given.items() if value is not None]
    if lr and foreign:
        raise UserError(
            f"tune --lr: got {', '.join(foreign)}, which a search has: a sweep is one short training, and writes "
            "nothing; leave it out"
        )
    from rich.console import Console

    from persrec import tuning
    from persrec.api import say
    from persrec.evaluation import sheets

    found = tuning.spaces(wanted)
    cell, data = _opened(recipe, overrides)
    if lr:
        sweep = tuning.sweep(cell, data, say=say)
        Console().print(sheets.rich(_rates(sweep)))
        click.echo(f"suggested: --set training.learning_rate={sweep.suggested:.2g}")
        return
    folder = out or Path("tuning") / cell.name
    limits: dict[str, Any] = {"minutes": minutes or MINUTES, "trials": trials}
    done = tuning.search(cell, data, found, folder, **limits, overwrite=overwrite, say=say)
    Console().print(sheets.rich(_trials(done)))
    click.echo(f"{folder / tuning.BEST}: the recipe of trial {done[0].number}; {folder / tuning.TRIALS}: all trials")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder.")
@click.option(
    "--length",
    type=click.IntRange(min=1),
    help="Events that the read step takes with history full.  [default: the recipe's length, or the longest history]",
)
def export(run: Path, out: Path, length: int | None) -> None:
    """Write what others use of RUN: item vectors and user queries as parquet, the read step for torch.export.

    A product of a query and an item's vector is the score of `recommend`; where more adds to that, or the read step
    has to be left out, it is said, here and in export.json.
    """
    from persrec.api import say
    from persrec.export import export as write

    click.echo(write(run, out, length=length, say=say))


def _opened(recipe: str, overrides: tuple[str, ...]) -> tuple["Recipe", "Prepared"]:
    """The one history and seed of a recipe, and its log."""
    from persrec import api
    from persrec.prepared import open_prepared
    from persrec.recipe import recipe as recipes

    loaded = recipes.load(recipe, overrides)
    if len(loaded.histories) != 1 or len(loaded.seeds) != 1:
        raise UserError(
            f"tune: got history {list(loaded.histories)} and seeds {list(loaded.seeds)}, expected one of each; add "
            "--set history=compressed --set seeds=0"
        )
    if loaded.tuned:
        raise UserError(
            f"tune: got training.tune_epochs {loaded.training.tune_epochs} with history {loaded.history}, which starts "
            "from a full model, and here everything starts afresh; add --set training.tune_epochs=null"
        )
    return loaded, open_prepared(api.prepare(loaded), loaded.split.name)


def _rates(sweep: "Sweep") -> "Sheet":
    from persrec.evaluation.sheets import Sheet

    every = max(1, len(sweep.rates) // SHOWN)
    rows = [(f"{rate:.2g}", f"{loss:.4f}") for rate, loss in zip(sweep.rates, sweep.losses, strict=True)][::every]
    return Sheet("Loss by learning rate", ("rate", "smoothed loss"), rows)


def _trials(done: list["Trial"]) -> "Sheet":
    from persrec.evaluation.sheets import Sheet

    keys = tuple(done[0].values)
    rows = [
        (
            str(trial.number),
            *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in trial.values.values()),
            trial.fault if trial.validation is None else f"{trial.validation:.4f}",
            f"{trial.seconds:.0f}",
        )
        for trial in done[:SHOWN]
    ]
    return Sheet("Trials, the best ones first", ("trial", *keys, "validation ndcg@10", "seconds"), rows)
