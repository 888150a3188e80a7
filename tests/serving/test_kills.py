"""An update that is killed at random moments and started again leaves what one leaves that was never disturbed."""

import shutil
from pathlib import Path

from tests.serving.killing import contents, finish, kill_and_resume, stores_of, update

ROWS = 10  # that are committed together


def test_an_update_that_is_killed_five_times(tmp_path: Path) -> None:
    run, store, file = stores_of(tmp_path, users=30, events=800)
    shutil.copytree(store, tmp_path / "undisturbed")
    undisturbed = update(run, tmp_path / "undisturbed", file, ROWS)
    found = kill_and_resume(run, store, file, ROWS, kills=5, seed=0)
    finish(undisturbed)
    assert found == (5, 0, 0)
    one, other = contents(store), contents(tmp_path / "undisturbed")
    assert one == other
    assert (one.rows, one.events) == (800, 1600)
