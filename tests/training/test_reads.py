"""Which rows training scores: as they would be served, on their own segment and the memory, or from these to those."""

from pathlib import Path

import pytest

from persrec.prepared import Prepared
from persrec.recipe.recipe import Recipe, parse
from persrec.training.settings import training_settings
from tests.small import events, prepared_of
from tests.training.test_stages import FULL, trained

ALL, NONE, RISING = (1.0, 1.0), (0.0, 0.0), (0.0, 1.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Prepared]:
    model = {"layers": 2, "width": 8, "heads": 2, "dropout": 0.0}
    return prepared_of(tmp_path_factory.mktemp("log"), events(), model=model)


def rows(world: tuple[Recipe, Prepared], folder: Path, reads: tuple[float, float]) -> list[list[str]]:
    """By epoch, of one batch each, which numbers of clear events rows had, and how many rows had them."""
    trained(world, folder, FULL, epochs=5, reads=reads)
    found: list[list[str]] = [[] for _ in range(5)]
    for line in (folder / "clear_events.csv").read_text().splitlines()[1:]:
        epoch, counted = line.split(",", 1)
        found[int(epoch)].append(counted.rpartition(",")[0])
    return found


def test_a_rising_share_goes_from_own_segments_to_rows_as_served(
    world: tuple[Recipe, Prepared], tmp_path: Path
) -> None:
    every, none, rising = (
        rows(world, tmp_path / name, reads) for name, reads in (("all", ALL), ("none", NONE), ("rising", RISING))
    )
    assert every[0] != none[0]
    assert rising[0] == none[0]
    assert rising[-1] == every[-1]


def test_what_has_no_memory_is_trained_as_it_is_served(world: tuple[Recipe, Prepared]) -> None:
    values = world[0].dump()
    for history, expected in (("compressed", (0.3, 0.3)), ("recent", ALL), ("full", ALL)):
        cell = parse(values | {"history": history, "memory": values["memory"] | {"reads": 0.3}}, "of a test")
        assert training_settings(cell).reads == expected
    cell = parse(values | {"memory": values["memory"] | {"reads": "rising"}}, "of a test")
    assert training_settings(cell).reads == RISING
