"""persrec: recommend the next item to users whose history can be arbitrarily long.

The public names are resolved when they are first used, so `import persrec` loads neither torch nor polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persrec.api import compare, evaluate, fit, prepare, probe, recommend, score, score_lists, similar
    from persrec.serving.recommender import Recommender

__version__ = "0.1.0"

__all__ = [
    "Recommender",
    "__version__",
    "compare",
    "evaluate",
    "fit",
    "prepare",
    "probe",
    "recommend",
    "score",
    "score_lists",
    "similar",
]

_HOMES = dict.fromkeys(__all__, "persrec.api") | {"Recommender": "persrec.serving.recommender"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'persrec' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
