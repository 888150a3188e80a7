"""The commands on stores of users; each only hands its arguments to a Recommender and prints what comes back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from persrec.serving.writing import Done

folder = click.option("--store", required=True, type=click.Path(path_type=Path), help="The folder of the store.")
run_folder = click.argument("run", type=click.Path(path_type=Path))


@click.command()
@run_folder
@folder
@click.option("--log", type=click.Path(path_type=Path), help="Another log.  [default: the one that RUN was fitted on]")
@click.option("--raw", is_flag=True, help="Keep the events and no memory: exact, but folded again at each read.")
@click.option(
    "--seen-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Keep seen items as a filter that takes this share of others for seen; for millions of items.",
)
def compress(run: Path, store: Path, log: Path | None, raw: bool, seen_rate: float | None) -> None:
    """Fold the histories of everybody in a log into memories, and keep them in a store.

    An interrupted command goes on where it was when it is repeated.
    """
    from persrec.api import say
    from persrec.serving.recommender import Recommender

    with Recommender.load(run, store) as recommender, _bar("users") as done:
        found = recommender.compress(log, raw=raw, seen_rate=seen_rate, say=say, done=done)
    if found.already and not found.applied:
        say(f"{store}: is complete already; nothing was done.")
        return
    say(f"{store}: {found.new_users:,} users, {found.applied:,} events, {found.folded:,} segments folded.")


@click.command()
@run_folder
@folder
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--rows", default=20_000, show_default=True, type=click.IntRange(min=1), help="Events that are committed together."
)
def update(run: Path, store: Path, file: Path, rows: int) -> None:
    """Put the new events of FILE, a log, into a store, and say what became of them as JSON.

    A command that was interrupted, however hard, goes on where it was when it is repeated: no event of a file is
    applied twice.
    """
    from dataclasses import asdict

    from persrec.api import say
    from persrec.serving.recommender import Recommender

    with Recommender.load(run, store) as recommender, _bar("events") as done:
        found = recommender.update(file, rows=rows, say=say, done=done)
    click.echo(json.dumps(asdict(found)))


@click.command()
@run_folder
@folder
@click.option("--old", required=True, type=click.Path(path_type=Path), help="The run before.")
@click.option("--old-store", required=True, type=click.Path(path_type=Path), help="Its store.")
@click.option("--users", default=2000, show_default=True, type=click.IntRange(min=10), help="To learn the map from.")
def adopt(run: Path, store: Path, old: Path, old_store: Path, users: int) -> None:
    """Make the store of a retrained RUN from that of the run before, without folding all histories again.

    A linear map from old memories to new ones is learned from some users of the log; what it loses is said.
    """
    from persrec.api import say
    from persrec.serving.recommender import Recommender

    with Recommender.load(old, old_store) as before, Recommender.load(run, store) as after, _bar("users") as done:
        found = after.adopt(before, users=users, say=say, done=done)
        count = after.stats()["users"]
    say(
        f"{store}: {count:,} users. On users not learned from, the map explains {found.explained:.0%} of what the new "
        f"memories hold, with a mean cosine of {found.cosine:.3f}; `persrec compress` instead is exact."
    )


@click.group("store")
def stores() -> None:
    """Look at a store of users, or tidy it."""


@stores.command()
@click.argument("store", type=click.Path(path_type=Path))
def stats(store: Path) -> None:
    """Users, events and bytes of a store by what they are for, and the size of its file, as JSON."""
    from persrec.serving.store import Store
    from persrec.serving.users import stats

    with Store.open(store) as opened:
        click.echo(json.dumps(stats(opened), indent=1))


@stores.command()
@click.argument("store", type=click.Path(path_type=Path))
def compact(store: Path) -> None:
    """Write the file of a store anew without what is free in it, as after many updates or a `forget`."""
    from persrec.serving.store import Store

    with Store.open(store, write=True) as opened:
        before = opened.file_bytes()
        opened.compact()
        click.echo(f"{store}: {before:,} -> {opened.file_bytes():,} bytes")


@contextmanager
def _bar(what: str) -> Iterator["Done"]:
    """What a person sees while it goes on: a bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
