"""The command that starts the service."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--store", required=True, type=click.Path(path_type=Path), help="The folder of the store.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--waiting", default=256, show_default=True, type=click.IntRange(1), help="Requests that may wait.")
@click.option(
    "--timeout", default=5.0, show_default=True, type=click.FloatRange(0.01), help="Seconds that one may wait."
)
@click.option("--together", default=64, show_default=True, type=click.IntRange(1), help="Requests answered together.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads of torch and faiss.")
def serve(
    run: Path, store: Path, host: str, port: int, waiting: int, timeout: float, together: int, threads: int
) -> None:
    """Answer recommend, score and update over HTTP, from a run and its store of users, with /metrics for Prometheus.

    It asks nobody who they are: it listens to this machine only unless --host says otherwise.
    """
    from persrec.errors import UserError

    try:
        import uvicorn

        from persrec.service.app import Limits, app_of
    except ImportError as error:
        raise UserError(f"serve: needs {error.name}, which is not installed; pip install 'persrec[serve]'") from error
    import faiss
    import torch

    from persrec.api import say
    from persrec.serving.recommender import Recommender

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    recommender = Recommender.load(run, store)
    users = recommender.stats()["users"]
    say(f"{store}: {users:,} users; listening on http://{host}:{port}, described at /docs.")
    if host not in ("127.0.0.1", "localhost", "::1"):
        say(f"{host} can be reached by others, and nobody is asked who they are: put it behind something that does.")
    uvicorn.run(app_of(recommender, Limits(waiting, timeout, together)), host=host, port=port, log_level="warning")
