"""What vLLM's rewards are compared with."""

from __future__ import annotations

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel


def load_reference(checkpoint: Checkpoint) -> ReferenceModel:
    """The same checkpoint in transformers, in float32."""
    return ReferenceModel.load(
        checkpoint.folder, checkpoint.manifest.reward_token_id, checkpoint.renderer.stop_token_ids, dtype="float32"
    )
