"""The part of `criticrm verify` for imported checkpoints: what is served against the original model's own class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from criticrm_model import Completion, CriticRMError

from .agreement import Rewards
from .engines.base import Job

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

_ANY_LENGTH = 10**9  # tokens


def score_by_original(
    checkpoint: Checkpoint,
    name: str | None,
    dtype: str,
    conversations: Sequence[tuple[Any, str]],
    served: Sequence[tuple[Job, Completion]],
) -> Rewards:
    """Rewards as served, and by the original, of the conversations that were not cut; of several rewards all.

    Args:
        name: of the original; the manifest's, if None.
        dtype: both compute in, such as "float32".
        served: of the same conversations, in their order.

    Raises:
        CriticRMError: the original can't be loaded.
    """
    import torch
    from transformers.utils.logging import set_verbosity_error

    from criticrm_model import CheckpointError
    from criticrm_model.default import resolve
    from criticrm_model.importing.original import Original

    set_verbosity_error()  # a table of the head's weights, which a decoder does not have
    manifest = checkpoint.manifest
    assert manifest.origin is not None
    token_id = manifest.reward_token_id if manifest.reads_existing_token else None
    several = {reward.name: reward.weight for reward in manifest.rewards} if len(manifest.rewards) > 1 else None
    try:
        folder = resolve(name or manifest.origin.name, None if name else manifest.origin.revision)
        original = Original(
            folder,
            checkpoint.tokenizer,
            reward_token_id=token_id,
            objectives=several,
            dtype=getattr(torch, dtype),
        )
    except CheckpointError as error:
        raise CriticRMError(f"the original can't be loaded: {error}\n  say where it is: --original") from error
    ours, theirs = [], []
    both = list(zip(conversations, served, strict=True))
    for (messages, response), (job, completion) in tqdm(both, desc="the original", unit="conversation"):
        opened = checkpoint.renderer.open(messages)
        if opened.render(response, max_model_len=_ANY_LENGTH, max_critique_tokens=1).token_ids == job.token_ids:
            logits = [before for before, _ in completion.logits]
            ours += [logit + reward.offset for logit, reward in zip(logits, manifest.rewards, strict=True)]
            theirs += original.rewards(messages, response)
    if not ours:
        raise CriticRMError("every conversation is longer than the engine takes: raise --max-model-len")
    return Rewards(ours, theirs)
