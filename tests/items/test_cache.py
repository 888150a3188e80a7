"""The cache of vectors: what was kept is found again, by whatever way its writing ended."""

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from persrec.errors import UserError
from persrec.items.cache import INDEX, VECTORS, VectorCache

FACTS = {"encoder": "e", "dtype": "float16", "width": 3}


def cache(root: Path, **changes: object) -> VectorCache:
    return VectorCache(root, FACTS | changes)


def filled(root: Path) -> VectorCache:
    with cache(root).open() as opened:
        opened.append(["a", "b"], np.array([[1, 2, 3], [4, 5, 6]]), [True, False])
    return opened


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    filled(tmp_path)
    with cache(tmp_path).open() as opened:
        assert opened.missing(["b", "c", "a", "c"]) == ["c"]
        opened.append(["c"], np.array([[7, 8, 9]]), [True])
        assert opened.vectors(["c", "a", "c"]).tolist() == [[7, 8, 9], [1, 2, 3], [7, 8, 9]]
        assert opened.vectors(["c"]).dtype == np.float16
        assert (opened.cut(["a", "b", "c"]), opened.cut(["b"])) == (2, 0)


def test_another_way_of_encoding_has_another_folder(tmp_path: Path) -> None:
    filled(tmp_path)
    with cache(tmp_path, encoder="other").open() as opened:
        assert opened.missing(["a"]) == ["a"]
        assert opened.vectors([]).shape == (0, 3)


@pytest.mark.parametrize(("name", "cut"), [(VECTORS, 1), (VECTORS, 6), (INDEX, 1), (INDEX, 33)])
def test_a_row_that_is_half_written_is_made_again(tmp_path: Path, name: str, cut: int) -> None:
    path = filled(tmp_path).folder / name
    path.write_bytes(path.read_bytes()[:-cut])
    with cache(tmp_path).open() as opened:
        assert opened.missing(["a", "b"]) == ["b"]
        opened.append(["b"], np.array([[4, 5, 6]]), [False])
        assert opened.vectors(["b", "a"]).tolist() == [[4, 5, 6], [1, 2, 3]]


def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    facts = filled(tmp_path).folder / "cache.json"
    facts.write_text(json.dumps(FACTS | {"encoder": "other"}))
    message = r"holds the vectors of something else \(encoder differ\); delete the folder, it is made again"
    with pytest.raises(UserError, match=message), cache(tmp_path).open():
        pass
    facts.write_text("{")
    with pytest.raises(UserError, match="something else"), cache(tmp_path).open():
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = "cannot be written .*; make room: a text takes 6 bytes here; what is written already is kept"
    with pytest.raises(UserError, match=message), cache(tmp_path / "file").open():
        pass


def _hold(root: Path, seconds: float) -> None:
    with cache(root).open() as opened:
        (root / "held").touch()
        time.sleep(seconds)
        opened.append(["late"], np.ones((1, 3)), [False])


def test_whoever_comes_second_waits(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path, 0.5))
    other.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with cache(tmp_path).open() as opened:
        assert opened.missing(["late"]) == []
    other.join()
