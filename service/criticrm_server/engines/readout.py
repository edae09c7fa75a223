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
#
# Blocks of 32 tokens: whole blocks alone are kept of a prompt, and vLLM's 128 are more than prompts commonly share.
# Measured with the embedded default (docs/capacity.md): nothing gets slower, and repeated prompts are twice as fast.
CPU_ENGINE_ARGUMENTS: dict[str, Any] = {"enable_chunked_prefill": False, "block_size": 32}


def sampling_parameters(job: Job, reward_token_id: int, stop_token_ids: Sequence[int]) -> dict[str, Any]:
    """Of vLLM's `SamplingParams`. The logit is read before biases, so the same request bans the token."""
    parameters: dict[str, Any] = {
        "n": job.n,
        "max_tokens": job.max_tokens,
        "temperature": job.temperature,
        "seed": job.seed,
        "logprob_token_ids": [reward_token_id],
        "detokenize": False,
    }
    if job.ban is None:  # biases and stop tokens cost a one-token job 5 to 8 % of its time
        return parameters
    return parameters | {"stop_token_ids": list(stop_token_ids), "logit_bias": {reward_token_id: job.ban}}


def read_completion(
    token_ids: list[int],
    finish_reason: Any,
    entries: Sequence[tuple[int, float]],
    reward_token_id: int,
    ban: float | None,
) -> Completion:
    """A critique and the rewards around it.

    Args:
        token_ids: `[completion_len]`, as written.
        entries: `[completion_len]`, of each step the token id of the entry that should be the reward's, and its logit.
        ban: that of the job.

    Raises:
        EngineFailed: it was not finished, a step has no reward, or the ban is part of a reward.
        NonFiniteReward
    """
    if finish_reason not in ("stop", "length") or not token_ids:
        raise EngineFailed(f"the engine ended a critique with {finish_reason!r}")
    if ban is not None and reward_token_id in token_ids:
        raise CheckpointError("the reward token was written although it is banned: its reward row is far too large")
    if len(entries) != len(token_ids) or any(token_id != reward_token_id for token_id, _ in entries):
        raise EngineFailed("the engine did not return the reward logit of each step")
    rewards = [logit for _, logit in entries]
    if ban is not None and min(rewards[0], rewards[-1]) <= ban / 2:
        raise EngineFailed(
            f"a reward is {min(rewards[0], rewards[-1]):g}: the ban of {ban:g} is in it, so it is no raw logit"
        )
    return Completion(token_ids, finish_reason, finite_reward(rewards[0]), finite_reward(rewards[-1]))
