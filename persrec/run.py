"""A run folder: what a fit leaves behind, saved and loaded as one; no pickle, and loading runs no code from it.

run.json                the manifest, written last: format, versions, data, and size and SHA-256 of the files below
recipe.yaml             the recipe of this run; `persrec fit recipe.yaml` repeats it
weights.safetensors     the model's state; a baseline has none
items.arrow             the vocabulary: item_id, row i is item i+1
metrics.json            what the evaluation found
targets.arrow           every test target with its rank, from which runs are compared in pairs
checkpoints/            only while a fit is under way or interrupted
.written/               only while the files above are put in place, or where that was interrupted: the next one who
                        opens the run goes on with it
"""

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from persrec import __version__, figures_json
from persrec.errors import UserError
from persrec.prepared import ROOT, Prepared, open_prepared
from persrec.recipe.file import read_yaml

FORMAT: Final = 2
MANIFEST: Final = "run.json"
RECIPE: Final = "recipe.yaml"
WEIGHTS: Final = "weights.safetensors"
ITEMS: Final = "items.arrow"
METRICS: Final = "metrics.json"
TARGETS: Final = "targets.arrow"
FILES: Final = (RECIPE, ITEMS, METRICS, TARGETS)
CHECKPOINTS: Final = "checkpoints"
WRITTEN: Final = ".written"


@dataclass(frozen=True)
class Run:
    folder: Path
    recipe: dict[str, Any]  # as Recipe.dump() gives it
    data: dict[str, Any]  # the prepared data that it was fitted on: at least its hash
    metrics: dict[str, Any]
    versions: dict[str, str]

    def weights(self) -> dict[str, Tensor]:
        """The model's state; raises UserError where there is none, as in the run of a baseline."""
        if not (self.folder / WEIGHTS).exists():
            raise UserError(
                f"run folder {self.folder}: {self.metrics.get('history')} holds no model, as it is a baseline or lists "
                "made elsewhere; expected the run of a history (full, recent or compressed)"
            )
        return load_file(self.folder / WEIGHTS)

    def targets(self) -> pa.Table:
        """The test targets in the order of their queries, see `Evaluation.table`."""
        return _read_table(self.folder / TARGETS)

    def item_ids(self) -> pa.Array:
        """The user's own item ids (V,); entry i is item i+1."""
        return _read_table(self.folder / ITEMS).column("item_id").combine_chunks()


def save(
    folder: str | Path,
    *,
    recipe: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None,
    data: Mapping[str, Any],
    items: str | Path,
    metrics: Mapping[str, Any],
    targets: pa.Table,
    overwrite: bool = False,
) -> Run:
    """Write a complete run, or nothing; its checkpoints are deleted once it is complete.

    `items` is the items.arrow of the prepared folder, and is copied. Raises UserError for a complete run in the way
    (unless `overwrite`) and for a disk that cannot be written.
    """
    folder = Path(folder)
    check_free(folder, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            _write_table(Path(temporary) / TARGETS, targets)
            _write(Path(temporary), recipe, weights, data, Path(items), metrics)
            _move(Path(temporary), folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"run folder {folder}: cannot be written ({reason}); make room or choose another --out"
        ) from error
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return load(folder)


def with_items(run: Run, *, weights: Mapping[str, Tensor], item_ids: Sequence[Any]) -> Run:
    """The run with other weights and a longer vocabulary (items behind those of the log have no events)."""
    before = _read_table(run.folder / ITEMS)
    added = len(item_ids) - len(before)
    ids = pa.array(item_ids, before.schema.field("item_id").type)
    events = pa.concat_arrays([before.column("events").combine_chunks(), pa.array([0] * added, pa.int64())])
    try:
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=run.folder) as temporary:
            working = Path(temporary)
            save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, working / WEIGHTS)
            _write_table(working / ITEMS, pa.table({"item_id": ids, "events": events}))
            manifest = _manifest(run.folder)
            manifest["files"] |= {path.name: _fingerprint(path) for path in working.iterdir()}
            (working / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            _move(working, run.folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"run folder {run.folder}: cannot be written ({reason}); make room") from error
    return load(run.folder)


def check_free(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raise UserError where a complete run, or a file, stands in the way: for asking before the training as well."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run folder {folder}: is a file; choose another --out")
    if (folder / MANIFEST).exists() and not overwrite:
        raise UserError(f"run folder {folder}: holds a complete run; choose another --out or add --overwrite")


def load(folder: str | Path) -> Run:
    """Open a complete run; raises UserError where it is incomplete, altered or of another format."""
    folder = Path(folder)
    manifest = _manifest(folder)
    _check_files(folder, manifest["files"])
    return Run(
        folder=folder,
        recipe=read_yaml(folder / RECIPE),
        data=manifest["data"],
        metrics=figures_json.loads((folder / METRICS).read_text(encoding="utf-8")),
        versions=manifest["versions"],
    )


def open_log(data: Mapping[str, Any], split: str) -> Prepared:
    """The prepared log of a run, by its `data`: where it was, or below the working directory.

    Raises UserError where it is gone, damaged or of other data.
    """
    then = Path(data["folder"])
    now = ROOT / then.name
    folder = next((place for place in (then, now) if place.exists()), None)
    if folder is None:
        raise UserError(
            f"the prepared log of this run is gone (expected {then} or {now}); run `persrec prepare` with its "
            "recipe here, or give histories instead of user ids"
        )
    found = open_prepared(folder, split)
    if found.hash != data["hash"]:
        raise UserError(
            f"{folder}: is of other data: got hash {found.hash[:12]}, expected {data['hash'][:12]}, that of "
            "the log that this run was fitted on; delete the folder and run `persrec prepare` with the run's recipe"
        )
    return found


def _write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read_table(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _write(
    folder: Path,
    recipe: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None,
    data: Mapping[str, Any],
    items: Path,
    metrics: Mapping[str, Any],
) -> None:
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    (folder / RECIPE).write_text(text, encoding="utf-8")
    if weights is not None:  # copies, because safetensors refuses tensors that share memory, as tied weights do
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        save_file(copies, folder / WEIGHTS)
    shutil.copyfile(items, folder / ITEMS)
    (folder / METRICS).write_text(figures_json.dumps(metrics), encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "versions": _versions(),
        "data": dict(data),
        "files": {path.name: _fingerprint(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _move(source: Path, folder: Path) -> None:
    """Put the files of a new run, manifest and all, in the place of what the folder holds: all of them or none."""
    _finish(folder)
    source.rename(folder / WRITTEN)
    _finish(folder)


def _finish(folder: Path) -> None:
    """Take over files that are written as a whole, which whoever wrote them may have been killed before: the manifest
    last, so that what was interrupted is gone on with; several may do so at a time."""
    with suppress(FileNotFoundError):  # of what another process has just done
        if WEIGHTS not in json.loads((folder / WRITTEN / MANIFEST).read_text(encoding="utf-8"))["files"]:
            (folder / WEIGHTS).unlink(missing_ok=True)  # of a model, which a baseline replaces
    with suppress(FileNotFoundError):
        for path in sorted((folder / WRITTEN).iterdir(), key=lambda path: path.name == MANIFEST):
            with suppress(FileNotFoundError):
                path.replace(folder / path.name)
        (folder / WRITTEN).rmdir()


def _versions() -> dict[str, str]:
    packages = ("torch", "lightning", "numpy", "polars", "pyarrow", "faiss-cpu")
    return {"persrec": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    with suppress(OSError):  # a folder that only others may write is as they have left it
        _finish(folder)
    if not path.exists():
        raise UserError(f"run folder {folder}: {_why_no_manifest(folder)}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written, names = manifest["versions"]["persrec"], set(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not the manifest of a run, or was cut off; fit again") from error
    if manifest.get("format") != FORMAT:
        got = f"got run format {manifest.get('format')}, written by persrec {written}"
        raise UserError(f"{path}: {got}; expected format {FORMAT}; use that persrec or fit again")
    if names - {WEIGHTS} != set(FILES) or "data" not in manifest:
        raise UserError(f"{path}: was altered: expected the files {', '.join(FILES)}; fit again")
    return manifest


def _why_no_manifest(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder; expected one that `persrec fit` left"
    if (folder / CHECKPOINTS).is_dir():
        return "its fit was interrupted; finish it with `persrec fit ... --resume`"
    below = [str(path.parent) for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/{MANIFEST}"))]
    if below:
        more = f" and {len(below) - 6} more" * (len(below) > 6)
        return f"is no run but holds {len(below)}, expected one of them: {', '.join(below[:6])}{more}"
    if (folder / RECIPE).exists() or (folder / WEIGHTS).exists():
        return f"is incomplete: it has no {MANIFEST}; restore or fit again"
    return f"is not a run: it has no {MANIFEST}; expected a folder that `persrec fit` left"


def _check_files(folder: Path, fingerprints: Mapping[str, Any]) -> None:
    absent = [name for name in fingerprints if not (folder / name).is_file()]
    if absent:
        raise UserError(f"run folder {folder}: is incomplete: {', '.join(absent)} absent; restore or fit again")
    altered = [name for name in fingerprints if _fingerprint(folder / name) != fingerprints[name]]
    if altered:
        raise UserError(f"run folder {folder}: {', '.join(altered)} altered since the fit; restore or fit again")
