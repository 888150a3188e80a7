"""The one error that is meant for the person at the keyboard, and what becomes one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NO_MEMORY: Final = ("out of memory", "not enough memory", "can't allocate memory", "_alloc_failed")  # of torch, CUDA


class UserError(ValueError):
    """A fault in the user's input: says what was got, what was expected and what to do; shown without a traceback."""


@contextmanager
def memory_for(doing: str, *, lower: str) -> Iterator[None]:
    """Say which settings to `lower` where there is not enough memory, of the machine or of a device, for `doing` this.

    Raises:
        UserError: in the place of what Python, numpy or torch raise then.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if isinstance(error, RuntimeError) and not any(sign in said.lower() for sign in NO_MEMORY):
            raise
        reason = said.strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"out of memory while {doing} ({reason}); {lower}") from error


@contextmanager
def whole(path: Path, option: str) -> Iterator[Path]:
    """A name under which to write a file, which takes its place at the end: it is there whole or not at all.

    Raises:
        UserError: it cannot be written; names the option that asked for it.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        why = f"cannot be written ({error.strerror or error}); make room or choose another"
        raise UserError(f"{option} {path}: {why}") from error
    finally:
        temporary.unlink(missing_ok=True)
