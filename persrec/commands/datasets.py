"""The commands on known data sets: list them, and get one."""

from pathlib import Path

import click


@click.group(invoke_without_command=True)
@click.pass_context
def datasets(context: click.Context) -> None:
    """Known data sets: where they come from, on which terms, what they hold, and which file goes where."""
    if context.invoked_subcommand is None:
        context.invoke(list_data_sets)


@datasets.command("list")
def list_data_sets() -> None:
    """Every data set that we know, and whether it is there."""
    from persrec.datasets import catalogue

    root = catalogue.root()
    for data in catalogue.DATA_SETS:
        path, table = data.path(root), data.table(root)
        if data.is_there(root):
            state = "there"
        else:
            state = f"`persrec datasets get {data.name}`" if data.url else f"by hand: {data.by_hand}"
        click.echo(data.name)
        click.echo(f"    {data.about}")
        click.echo(f"    {data.size}; terms: {data.terms}")
        click.echo(f"    from {data.page}")
        click.echo(f"    data.source {data.source}, {path}: {state}")
        if table is not None:
            click.echo(f"    data.source table, {table}: there")


@datasets.command("get")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where all data sets are.  [default: data/raw]")
def get_data_set(name: str, folder: Path | None) -> None:
    """Download the data set NAME, going on where an earlier try stopped, and verify its checksum and counts.

    Where that is not possible, say which file to put where; the exit code is then 2.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from persrec.datasets import catalogue, download

    data = catalogue.find(name)
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        path = download.get(
            data,
            folder or catalogue.root(),
            say=lambda sentence: console.print(sentence, highlight=False, soft_wrap=True),
            progress=lambda there, total: bar.update(task, completed=there, total=total),
        )
    click.echo(f"data: {{source: {data.source}, path: {path}}}")
