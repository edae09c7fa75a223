"""The readout (docs/adr/0001), whoever runs vLLM: what its engine and each request are told, and how answers are read.

Knows no vLLM: the gateway, which has none, reads its servers' answers with the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from criticrm_model import CheckpointError, Completion, finite_reward

from ..errors import EngineFailed
from .base import Job

ENGINE_ARGUMENTS: dict[str, Any] = {
    "logprobs_mode": "raw_logits",
    # The base's defaults (a repetition penalty, say) would change critiques; stop tokens come from the renderer.
    "generation_config": "vllm",
}
# A seeded request whose prompt is prefilled in chunks kills the CPU worker ("CPU Generator does not use offset",
# vLLM 0.32 gpu_model_runner._bookkeeping_sync), so prompts are never chunked there.
CPU_ENGINE_ARGUMENTS: dict[str, Any] = {"enable_chunked_prefill": False}

_BAN = -1e4  # below any logit, and within every dtype


def sampling_parameters(job: Job, reward_token_id: int, stop_token_ids: Sequence[int]) -> dict[str, Any]:
    """Of vLLM's `SamplingParams`. The logit is read before biases, so the same request bans the token."""
    return {
        "n": job.n,
        "max_tokens": job.max_tokens,
        "temperature": job.temperature,
        "seed": job.seed,
        "stop_token_ids": list(stop_token_ids),
        "logprob_token_ids": [reward_token_id],
        "logit_bias": {reward_token_id: _BAN},
        "detokenize": False,
    }


def read_completion(
    token_ids: list[int], finish_reason: Any, rewards: Sequence[float], reward_token_id: int
) -> Completion:
    """A critique and the rewards around it.

    Args:
        token_ids: `[completion_len]`, as written.
        rewards: `[completion_len]`, the reward token's logit at each step.

    Raises:
        EngineFailed: it was not finished, or a step has no reward.
        NonFiniteReward
    """
    if finish_reason not in ("stop", "length") or not token_ids:
        raise EngineFailed(f"the engine ended a critique with {finish_reason!r}")
    if reward_token_id in token_ids:
        raise CheckpointError("the reward token was written although it is banned: its reward row is far too large")
    if len(rewards) != len(token_ids):
        raise EngineFailed("the engine did not return the reward logit of each step")
    return Completion(token_ids, finish_reason, finite_reward(rewards[0]), finite_reward(rewards[-1]))
