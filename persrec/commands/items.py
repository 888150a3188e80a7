"""The commands on the items of a run."""

from pathlib import Path

import click


@click.group()
def items() -> None:
    """The items of a run that reads texts."""


@items.command("add")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def add_items(run: Path, file: Path) -> None:
    """Put the items of FILE, a table like that of the recipe of RUN, into RUN, so that they are recommended.

    They are read by the same text model; nothing is trained, and what is kept of users stays valid.
    """
    from persrec import api
    from persrec.items.add import add

    add(run, file, say=api.say)
