"""Where the real logs are: PERSREC_DATASETS, else ../shared/datasets beside the checkout."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("PERSREC_DATASETS", Path(__file__).parents[3] / "shared" / "datasets"))


def real(name: str) -> Path:
    """A file or folder of the real logs; the test is skipped where it is absent."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no {path}: set PERSREC_DATASETS to the folder of the real logs")
    return path
