"""From settings to a checkpoint and the engine that runs it."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from criticrm_model import CriticRMError

from ..critique_limit import critique_limit
from ..settings import Settings
from .base import Engine

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


def require_engine(name: str) -> None:
    """Raises CriticRMError if the engine's package is not installed; cheap, so asked before anything is loaded."""
    if name == "vllm" and find_spec("vllm") is None:
        raise CriticRMError(
            "vLLM is not installed: install the extra 'serve' (GPU) or 'serve-cpu', or use --engine transformers, or "
            "--engine remote with servers elsewhere"
        )


def open_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint that the settings name, verified.

    Raises:
        CheckpointError: it is no Critic-RM, or damaged.
        CriticRMError: lengths with which every request would fail, or which would be cut down in silence.
    """
    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.default import resolve

    logger.info("1/4 reading the checkpoint %r", settings.model)
    checkpoint = Checkpoint.open(
        resolve(settings.model, settings.revision), trust_remote_code=settings.trust_remote_code
    )
    logger.info(
        "2/4 checkpoint %s verified: base %s, version %s",
        checkpoint.folder.name,
        checkpoint.manifest.base_model,
        checkpoint.manifest.version,
    )
    longest = checkpoint.max_model_len
    if settings.max_model_len and settings.max_model_len > longest:
        raise CriticRMError(f"max_model_len {settings.max_model_len} exceeds the model's limit of {longest} tokens")
    critique_limit(settings, checkpoint.manifest, settings.max_model_len or longest)
    return checkpoint


def create_engine(checkpoint: Checkpoint, settings: Settings) -> Engine:
    """The engine that the settings name, to be started.

    Raises:
        CriticRMError: it can't run here, or not as the settings want it.
    """
    if settings.engine == "remote":
        from .remote import RemoteEngine

        return RemoteEngine(checkpoint, settings)
    if settings.engine == "vllm":
        from .vllm_engine import VLLMEngine

        return VLLMEngine(checkpoint, settings)
    if settings.engine == "transformers":
        from .transformers_engine import TransformersEngine

        return TransformersEngine(checkpoint, settings)
    from .fake import FakeEngine

    logger.warning("the fake engine returns made-up rewards")
    max_model_len = settings.max_model_len or checkpoint.max_model_len
    return FakeEngine(
        checkpoint.renderer.stop_token_ids[0], max_model_len=max_model_len, tokens=checkpoint.manifest.reward_tokens
    )
