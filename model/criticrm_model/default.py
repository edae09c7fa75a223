"""The embedded default: a published base under a trained adapter, assembled once into the user's cache.

The base is a file that is known by its digest (`base_files`), the LoRA adapter and the reward row are in
`default_adapter/` of this package (made by `criticrm train`; its README.md is the model card).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .base_files import QWEN_CODER_HALF_B, fetch
from .checkpoint import Checkpoint, assemble
from .errors import CheckpointError
from .files import whole
from .gguf import load_gguf
from .manifest import DEFAULT_BASE_NAME, DEFAULT_NAME
from .reward_vector import load_reward_vector

ADAPTER = Path(__file__).parent / "default_adapter"
BASE = QWEN_CODER_HALF_B
BASE_NAME = BASE.model

_VERSION = "2"  # raise it when the same files are to be joined into something else

logger = logging.getLogger(__name__)


def resolve(name_or_path: str, revision: str | None = None) -> Path:
    """`default`, `default-base`, a local folder, or a hub name -> its folder, assembled or downloaded as needed.

    Args:
        revision: branch, tag or commit of a hub name; its default branch unless given.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    path = Path(name_or_path).expanduser()
    if revision and (name_or_path in (DEFAULT_NAME, DEFAULT_BASE_NAME) or path.is_dir()):
        raise CheckpointError(f"{name_or_path} has no revision {revision}: only models by hub name (owner/name) have")
    if name_or_path == DEFAULT_NAME:
        return build_default()
    if name_or_path == DEFAULT_BASE_NAME:
        return build_base()
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
        return Path(snapshot_download(name_or_path, revision=revision))
    except HFValidationError as error:
        raise CheckpointError(neither) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(f"{name_or_path} is no local folder and can't be downloaded{at}: {error}") from error


def build_default(cache: Path | None = None) -> Path:
    """The default checkpoint's folder, assembled first if its inputs are new; safe between processes.

    Superseded ones (`default-*`) are left where they are: another installation may be serving one.

    Args:
        cache: where to keep it; the user's cache folder unless given, or `CRITICRM_CACHE`.

    Raises:
        CheckpointError: the base can't be downloaded.
    """

    def fill(folder: Path) -> None:
        base, tokenizer = load_default_base(cache=cache)
        dtype = base.config.dtype
        reward, card = load_reward_vector(ADAPTER)
        model = PeftModel.from_pretrained(base.float(), ADAPTER).merge_and_unload()
        assemble(model.to(dtype), tokenizer, reward, card, folder)
        Checkpoint.open(folder)

    return _built("default", "default checkpoint", "a few seconds beside its base", _adapter_files(), fill, cache)


def build_base(cache: Path | None = None) -> Path:
    """The default's unmodified base as a Hugging Face folder, for what takes one: critics, judges, other trainers.

    Args, Raises: as for `build_default`.
    """

    def fill(folder: Path) -> None:
        for part in _load_published(cache or cache_folder()):
            part.save_pretrained(folder)

    return _built("base", "base of the default", "two minutes with its download", [], fill, cache)


def cache_folder() -> Path:
    """Where what is built is kept: `CRITICRM_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("CRITICRM_CACHE") or platformdirs.user_cache_path("criticrm"))


def _built(
    name: str, label: str, takes: str, files: list[Path], fill: Callable[[Path], None], cache: Path | None
) -> Path:
    """The folder `NAME-DIGEST` in the cache, filled first unless it is there.

    The digest is that of the base's file and of `files`.
    """
    cache = cache or cache_folder()
    folder = cache / f"{name}-{_digest(files)}"
    if folder.is_dir():
        logger.info("%s: cached in %s", label, folder)
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if folder.is_dir():  # another process built it while this one waited
            return folder
        logger.info("%s: assembling in %s (once, %s)", label, folder, takes)
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
    """Remove what was not built to its end. All who build hold its lock, so nobody is at work on it."""
    for unfinished in cache.glob(f"{name}-????????????????.partial"):
        shutil.rmtree(unfinished)


def load_default_base(
    dtype: torch.dtype | None = None, cache: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The unmodified base, built first if need be, and its tokenizer.

    Args:
        dtype: that of its folder (bfloat16), unless given.

    Raises:
        CheckpointError: the base can't be downloaded.
    """
    folder = build_base(cache)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto"), AutoTokenizer.from_pretrained(folder)


def _load_published(cache: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_gguf(fetch(BASE, cache / "bases"), torch.bfloat16, tied=True)


def _adapter_files() -> list[Path]:
    """All but the model card."""
    return [path for path in sorted(ADAPTER.iterdir()) if path.suffix in (".json", ".safetensors")]


def _digest(files: list[Path]) -> str:
    """Changes with the base, with `files`, and with how they are joined."""
    digest = hashlib.sha256(f"{_VERSION} {BASE.sha256}".encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
