"""Text models of Hugging Face: where they are, whether they are whole, and loading one; foreign code only by leave."""

import hashlib
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from persrec.errors import UserError, memory_for

KEY: Final = "items.encoder"  # of a recipe, that names a text model
PACKAGE: Final = "package:"  # a folder of an installed Python package, package:NAME/FOLDER
HUB_NAME: Final = r"[\w.\-]+/[\w.\-]+"
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
SHARDS: Final = "model.safetensors.index.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
HUB_FILES: Final = [
    CONFIG,
    "*.safetensors",
    SHARDS,
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
    "*.py",  # to be read; it is run only where the recipe says so
]
NO_PART: Final = (".md", ".bin", ".h5", ".msgpack", ".onnx", ".ot")  # of what a model computes, as it is loaded here
FAULTS: Final = (OSError, ValueError, KeyError, RuntimeError, ImportError)  # of a folder, raised where it is loaded
EXTRA: Final = "install persrec with its extra: pip install 'persrec[text]'"


def locate(name: str, *, key: str = KEY) -> Path:
    """The folder of a text model, which is whole: a folder, `package:NAME/FOLDER`, or a name on the hub; `key` is the
    recipe's that names it.

    Raises:
        UserError: it is not there, cannot be fetched, or lacks a part.
    """
    if name.startswith(PACKAGE):
        folder = _of_package(name, key)
    elif Path(name).is_dir():
        folder = Path(name)
    elif re.fullmatch(HUB_NAME, name) and not Path(name).parent.is_dir():
        folder = _of_hub(name, key)
    else:
        raise UserError(
            f"{key}: {name} is no folder (looked from {Path.cwd()}); expected that of a text model, or a name on the "
            "hub with its organisation, as in ORGANISATION/NAME"
        )
    _check_whole(folder, key)
    return folder


def _of_package(name: str, key: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    found = find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        hint = package.replace("_", "-")
        raise UserError(f"{key}: {name}: no package {package} is installed; pip install {hint}, or give a folder")
    folder = Path(found.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise UserError(f"{key}: {name}: the package {package} has no folder {inside!r}")
    return folder


def _of_hub(name: str, key: str) -> Path:
    """The folder of a name on the hub: from the local cache, else fetched."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{key}: {name} is a name on the hub; to fetch it, {EXTRA}") from error

    def whole(*, cached: bool) -> Path:
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=cached))
        _check_whole(folder, key)
        return folder

    try:
        return whole(cached=True)
    except (OSError, ValueError, UserError):
        pass
    try:
        return whole(cached=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{key}: {name} is neither a folder nor, as a whole, in the hub's local cache, and cannot be fetched "
            f"({reason}). Without a network: on a machine that has one run `hf download {name} --local-dir FOLDER`, "
            f"copy FOLDER ({CONFIG}, {WEIGHTS}, tokenizer.json and what else is in it, code included) here, "
            f"and set {key} to its path"
        ) from None


def _check_whole(folder: Path, key: str) -> None:
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{key}: {folder} has no {CONFIG}; expected the folder of a text model, as saved by save_pretrained"
        )
    try:
        code = own_code(folder)
        shards = [WEIGHTS]
        if (folder / SHARDS).is_file():
            shards = sorted(set(json.loads((folder / SHARDS).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{key}: {folder}: {CONFIG}, {TOKENIZER_CONFIG} or {SHARDS} is damaged ({error}); copy it again"
        ) from error
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        pickled = list(folder.glob("*.bin"))
        advice = (
            f"its weights are pickled ({pickled[0].name}), and no pickle is loaded: save the model anew by "
            "save_pretrained, which writes safetensors"
            if pickled
            else "copy the whole folder again"
        )
        raise UserError(f"{key}: {folder} is incomplete: no {', '.join(absent)}; {advice}")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(
            f"{key}: {folder} is incomplete: none of {', '.join(TOKENIZERS)}; save the tokenizer beside the model"
        )
    _check_code(folder, code, key)


def _check_code(folder: Path, code: list[str], key: str) -> None:
    """Raise UserError where code that a model asks for is not in its folder, where it can be read before it is run."""
    for file in code:
        repository, elsewhere, own = file.rpartition("--")
        if elsewhere:
            raise UserError(
                f"{key}: {folder} asks for code of another repository ({repository}), expected its own; put {own} and "
                f"what it imports from there into the folder, and remove {repository}-- from auto_map in {CONFIG} and "
                f"{TOKENIZER_CONFIG}"
            )
        if not (folder / file).is_file():
            raise UserError(
                f"{key}: {folder} is incomplete: no {file}, code that it asks for; copy the whole folder again"
            )


def config(folder: Path) -> dict[str, Any]:
    """The configuration of a model folder."""
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def own_code(folder: Path) -> list[str]:
    """The files of code that a model and its tokenizer ask for."""
    found: set[str] = set()
    for name in (CONFIG, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            asked = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map") or {}
            classes = asked.values() if isinstance(asked, dict) else [asked]
            every = [part for one in classes for part in ([one] if isinstance(one, str) else one)]
            found |= {f"{part.rpartition('.')[0]}.py" for part in every if part}  # of a tokenizer, one may be null
    return sorted(found)


def fingerprint(folder: Path) -> str:
    """SHA-256 of all files of a model folder that it computes with, names included."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.suffix not in NO_PART:
            state = file.stat()
            digest.update(file.name.encode() + _digest(file, state.st_size, state.st_mtime_ns))
    return digest.hexdigest()


@cache
def _digest(file: Path, size: int, changed: int) -> bytes:
    """SHA-256 of a file that has this size and was changed then: gigabytes, for every model of a grid the same."""
    with file.open("rb") as contents:
        return hashlib.file_digest(contents, "sha256").digest()


def load(
    name: str, *, remote_code: str | None = None, key: str = KEY, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """Model, in `dtype`, and tokenizer; `remote_code` is the name once more where its own code may run.

    Raises:
        UserError: see `locate`; or it asks for code of its own, or is of a kind that cannot be used.
    """
    folder = locate(name, key=key)
    code = own_code(folder)
    if code and remote_code != name:
        where = f"read {', '.join(code)} in {folder}, and what is imported there"
        raise UserError(
            f"{key}: {name} comes with code of its own, which is not run unasked; "
            + (f"{where}, then set items.remote_code: {name}" if key == KEY else "expected one without")
        )
    try:
        with memory_for(f"loading {folder}", lower="choose a smaller model"):
            model, tokenizer = _loaded(folder, key, dtype, code=bool(code))
    except UserError:
        raise
    except Exception as error:
        if not code and not isinstance(error, FAULTS):  # code of its own may raise anything
            raise
        kind = config(folder).get("model_type")
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f"{key}: {folder}: cannot be loaded as a text model of kind {kind!r}: {reason}; expected an "
            "encoder (BERT family) or decoder (Llama, Qwen, Mistral families) that the installed transformers knows"
            + (f", or code of its own that works with it ({type(error).__name__})" if code else "")
        ) from error
    if getattr(model.config, "is_encoder_decoder", False):
        kind = model.config.model_type
        raise UserError(f"{key}: {folder}: got an encoder-decoder ({kind}), expected an encoder or a decoder")
    model.config.use_cache = False
    return model, tokenizer


def _loaded(folder: Path, key: str, dtype: torch.dtype, *, code: bool) -> tuple[Any, Any]:
    """Model and tokenizer, by the `code` in their folder where they have some; nothing is fetched or said."""
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(f"{key}: to load text models, {EXTRA}") from error
    bars, logging_level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    given: dict[str, Any] = {"trust_remote_code": code, "local_files_only": True}
    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=dtype, **given)
        return model, AutoTokenizer.from_pretrained(folder, **given)
    finally:
        logging.set_verbosity(logging_level)
        if bars:
            logging.enable_progress_bar()
