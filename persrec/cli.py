"""The commands; each only hands its arguments to persrec.api and prints what comes back.

Heavy imports are made inside the commands, so that `persrec --help` answers at once.
"""

import errno
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from persrec import __version__
from persrec.commands.datasets import datasets
from persrec.commands.items import items
from persrec.commands.serve import serve
from persrec.commands.store import adopt, compress, stores, update
from persrec.commands.training import export, tune
from persrec.errors import UserError, whole
from persrec.moments import milliseconds

if TYPE_CHECKING:
    import polars as pl

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143  # the last two are 128 and the number of the signal
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, or for a file of this size
WRITERS = {".csv": "write_csv", ".parquet": "write_parquet", ".jsonl": "write_ndjson"}

overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a recipe key, as in training.epochs=3; repeatable.",
)

out_file = click.option(
    "--out", type=click.Path(path_type=Path), help="A .csv, .parquet or .jsonl file.  [default: print csv]"
)


def main() -> NoReturn:
    """Run a command; faults of the user's input end in one message and exit code 2, Ctrl-C in 130, SIGTERM in 143."""
    try:
        status = commands.main(prog_name="persrec", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in FULL:
            if not error.filename:
                raise
            _fail(f"{error.filename}: {error.strerror}; expected a place that can be read and written here")
        _fail(f"the disk is full{f' ({error.filename})' if error.filename else ''}; make room and repeat the command")
    except (KeyboardInterrupt, click.Abort):
        _interrupted()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            _interrupted()
        if error.code == TERMINATED:
            _interrupted(TERMINATED)
        raise
    sys.exit(status if isinstance(status, int) else 0)


def _interrupted(status: int = INTERRUPTED) -> NoReturn:
    click.echo("persrec: interrupted; `persrec fit ... --resume` goes on with a fit", err=True)
    sys.exit(status)


def _fail(message: str) -> NoReturn:
    click.echo(f"persrec: {message}", err=True)
    sys.exit(USER_ERROR)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="persrec")
def commands() -> None:
    """Recommend the next item to users with histories of any length.

    Start with `persrec fit quickstart`, or with a log of your own: `persrec fit ratings.csv`.
    """


@commands.command()
@click.argument("recipe")
@overrides
@click.option("--check", is_flag=True, help="Only look: counts, ties, repeats, span, users with closed segments.")
def prepare(recipe: str, overrides: tuple[str, ...], check: bool) -> None:
    """Turn the raw log of RECIPE (a name, a .yaml file or a log) into prepared data."""
    from persrec import api

    _print(api.check(recipe, overrides) if check else api.prepare(recipe, overrides))


@commands.command()
@click.argument("log")
@overrides
@click.option(
    "--gap-hours",
    default=12.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Hours without an event that make a break.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the rows here.")
@click.option(
    "--figure", type=click.Path(path_type=Path, dir_okay=False), help="A .png or .svg file; both are written."
)
def probe(log: str, overrides: tuple[str, ...], gap_hours: float, json_file: Path | None, figure: Path | None) -> None:
    """Ask what old events of LOG (a recipe, a .yaml file or a log) are worth, before any training.

    Minutes: what events older than the last 20, 40 and 128 add to a linear model, for the next event and after breaks,
    beside what counting repeats does; and which S, R and K to try, or that recent events will do.
    """
    from persrec import api

    _print(api.probe(log, overrides, gap_hours=gap_hours, json_file=json_file, figure=figure))


@commands.command()
@click.argument("recipe", metavar="RECIPE|FILE")
@overrides
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/<name of the recipe>]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of an interrupted fit.")
@click.option("--overwrite", is_flag=True, help="Replace a complete run.")
@click.option("--from", "start", metavar="RUN", type=click.Path(path_type=Path), help="Start from a run's weights.")
def fit(
    recipe: str, overrides: tuple[str, ...], out: Path | None, resume: bool, overwrite: bool, start: Path | None
) -> None:
    """Do everything from the raw log to the metrics, and leave a run folder.

    RECIPE is a shipped name (see `persrec recipes`) or a .yaml file; a log as FILE is fitted with the default recipe.
    """
    from persrec import api

    _print(api.fit(recipe, overrides, out=out, resume=resume, overwrite=overwrite, start=start))


@commands.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--recommendations", type=click.Path(path_type=Path), help="Lists to score instead of RUN; with --log.")
@click.option("--log", metavar="RECIPE|FILE", help="The log and protocol that --recommendations are scored on.")
@click.option("--out", type=click.Path(path_type=Path), help="Leave --recommendations as a run, to compare and report.")
@overrides
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the rows here.")
def evaluate(
    run: Path | None,
    recommendations: Path | None,
    log: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Rank all items for the test events of RUN, a run folder, and print its metrics.

    --set takes keys of evaluation and retrieval, as in retrieval.kind=hnsw, for this table; RUN stays as it is.
    Or score anybody's lists under the same protocols: --recommendations takes a file with user_id, item_id and rank.
    """
    from persrec import api

    if run is not None and (recommendations, log, out) == (None, None, None):
        _print(api.evaluate(run, overrides, json_file=json_file))
    elif run is None and recommendations is not None and log is not None:
        _print(api.score_lists(recommendations, log, overrides, json_file=json_file, out=out))
    else:
        raise UserError("evaluate: expected a RUN, or --recommendations FILE with --log RECIPE|FILE, and not both")


@commands.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metric", help="As in ndcg@10.  [default: the primary metric of the first run]")
@click.option("--by", help="By groups of the targets: length, hours, cold or consumption.")
@click.option("--format", "form", type=click.Choice(["markdown", "latex", "html"]), help="Text instead of a table.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the rows here.")
def compare(
    runs: tuple[Path, ...], metric: str | None, by: str | None, form: str | None, json_file: Path | None
) -> None:
    """Hold RUNS, run folders or folders of grids, against each other: in pairs, over the same targets and seeds."""
    from persrec import api

    _print(api.compare(runs, metric=metric, by=by, form=form, json_file=json_file))


@commands.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    default=Path("report.html"),
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page; its figures go to a folder beside it.",
)
@click.option(
    "--titles",
    type=click.Path(path_type=Path),
    help="An items table with item_id and title.  [default: that of the recipe]",
)
def report_page(runs: tuple[Path, ...], out: Path, titles: Path | None) -> None:
    """Write one web page on RUNS, run folders or folders of grids: what was run, tables, figures, three users.

    The page loads nothing from anywhere; the figures also lie beside it as PNG and SVG.
    """
    from persrec import api

    _print(api.report_page(runs, out=out, titles=titles))


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("users", nargs=-1)
@click.option("--store", type=click.Path(path_type=Path), help="Users of this store.")
@click.option("--histories", type=click.Path(path_type=Path), help="A log of users who may be new, instead of USERS.")
@click.option("--all", "everybody", is_flag=True, help="Everybody of the log or store, instead of USERS.")
@click.option("--k", default=10, show_default=True, type=click.IntRange(min=1), help="Items per user.")
@click.option("--at", metavar="TIME", help="When they are asked: ISO 8601 or ms.  [default: the user's last event]")
@click.option("--allow", type=click.Path(path_type=Path), help="Only items of this file: .txt, or a table's item_id.")
@click.option("--block", type=click.Path(path_type=Path), help="No items of this file.")
@click.option(
    "--unknown",
    type=click.Choice(["popular"]),
    help="Answer USERS nobody knows, and histories without a known item.  [default: an error; these are left out]",
)
@click.option("--slots", is_flag=True, help="Tokens of a store's memories search as well (memory.future_set).")
@out_file
def recommend(
    run: Path,
    users: tuple[str, ...],
    histories: Path | None,
    everybody: bool,
    store: Path | None,
    k: int,
    at: str | None,
    allow: Path | None,
    block: Path | None,
    unknown: str | None,
    slots: bool,
    out: Path | None,
) -> None:
    """Recommend items to USERS (ids of the log that RUN was fitted on, or of a store; of a store all, if none is named)
    or to the users of a file of histories."""
    asked_for = bool(users) + (histories is not None) + everybody
    if asked_for > 1 or (asked_for == 0 and store is None):
        raise UserError("recommend: expected user ids, --histories FILE or --all, and one of them (of --store all)")
    if out is not None:
        check_format(out)
    moment = None if at is None else milliseconds(at, "--at")
    from persrec import api

    options: dict[str, Any] = {"allow": allow, "block": block, "unknown": unknown, "slots": slots}
    asked = list(users) or None
    write(api.recommend(run, users=asked, histories=histories, k=k, at=moment, store=store, **options), out)


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("pairs", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), help="Users of this store.")
@click.option("--at", metavar="TIME", help="When they are asked: ISO 8601 or ms.  [default: the user's last event]")
@click.option("--histories", type=click.Path(path_type=Path), help="A log of the users, who may be new.")
@out_file
def score(run: Path, pairs: Path, store: Path | None, at: str | None, histories: Path | None, out: Path | None) -> None:
    """Score candidates for a ranker: PAIRS is a table with the columns user_id and item_id, a row for each."""
    if out is not None:
        check_format(out)
    moment = None if at is None else milliseconds(at, "--at")
    from persrec import api

    write(api.score(run, pairs, histories=histories, at=moment, store=store), out)


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("items", nargs=-1, required=True)
@click.option("--k", default=10, show_default=True, type=click.IntRange(min=1), help="Similar items per item.")
@out_file
def similar(run: Path, items: tuple[str, ...], k: int, out: Path | None) -> None:
    """Find the items of RUN that are most like each of ITEMS, by the cosine of the vectors that queries meet."""
    if out is not None:
        check_format(out)
    from persrec import api

    write(api.similar(run, list(items), k=k), out)


@commands.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """The recipes that come with persrec."""
    if context.invoked_subcommand is None:
        context.invoke(list_recipes)


for command in (compress, update, adopt, stores, datasets, items, serve, tune, export):
    commands.add_command(command)


@recipes.command("list")
def list_recipes() -> None:
    """Names, and what each is about."""
    from persrec.recipe.file import read_yaml, shipped

    for name, path in shipped().items():
        click.echo(name)
        click.echo(textwrap.fill(read_yaml(path)["about"].strip(), 96, initial_indent="    ", subsequent_indent="    "))


@recipes.command("print")
@click.argument("name")
def print_recipe(name: str) -> None:
    """The text of a shipped recipe, to start one of your own from."""
    from persrec.recipe.file import shipped_path

    click.echo(shipped_path(name).read_text(encoding="utf-8"), nl=False)


def check_format(out: Path) -> None:
    if out.suffix not in WRITERS:
        raise UserError(f"--out {out}: got the ending {out.suffix!r}, expected one of {', '.join(WRITERS)}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; make it or choose another")


def write(frame: "pl.DataFrame", out: Path | None) -> None:
    """The frame as a file of the ending's format, whole or not at all; as csv on the terminal where `out` is None."""
    if out is None:
        click.echo(frame.write_csv(), nl=False)
        return
    from polars.exceptions import ComputeError

    with whole(out, "--out") as place:
        try:
            getattr(frame, WRITERS[out.suffix])(place)
        except ComputeError as error:  # what a parquet file meets on a full disk
            raise OSError(str(error)) from error


def _print(result: Any) -> None:
    """A table as rich draws it; a path, or a table in another form, as it is, for scripts."""
    from rich.console import Console

    if getattr(result, "text", None) is None and hasattr(result, "__rich__"):
        Console().print(result)
    else:
        click.echo(result)
