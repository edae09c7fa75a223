"""The readout (docs/adr/0001), whoever runs vLLM: what its engine and each request are told, and how answers are read.

Knows no vLLM: the gateway, which has none, reads its servers' answers with the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from criticrm_model import CheckpointError, Completion, RewardTokens

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


def sampling_parameters(job: Job, tokens: RewardTokens, stop_token_ids: Sequence[int]) -> dict[str, Any]:
    """A job's arguments of vLLM's `SamplingParams`. Logits are read before biases, so it can ban the reward tokens."""
    parameters: dict[str, Any] = {
        "n": job.n,
        "max_tokens": job.max_tokens,
        "temperature": job.temperature,
        "seed": job.seed,
        "logprob_token_ids": list(tokens.ids),
        "detokenize": False,
    }
    if job.ban is None:  # biases and stop tokens cost a one-token job 5 to 8 % of its time
        return parameters
    return parameters | {"stop_token_ids": list(stop_token_ids), "logit_bias": dict.fromkeys(tokens.ids, job.ban)}


@dataclass(frozen=True, slots=True)
class Steps:
    """For each step of a completion, the entry that should be one reward's.

    Attributes:
        token_ids, logits: `[completion_len]`.
    """

    token_ids: Sequence[int]
    logits: Sequence[float]


def read_completion(
    token_ids: list[int], finish_reason: Any, entries: Sequence[Steps], tokens: RewardTokens, job: Job
) -> Completion:
    """A critique and the rewards around it.

    Args:
        token_ids: `[completion_len]`, as written.
        entries: `[rewards]`.
        job: what was asked for.

    Raises:
        EngineFailed: it was not finished, a step has no reward, or the ban is part of a reward.
        NonFiniteReward
    """
    if finish_reason not in ("stop", "length", "settled") or not token_ids:
        raise EngineFailed(f"the engine ended a critique with {finish_reason!r}")
    ban, traced = job.ban, job.trace or job.settle is not None
    if ban is not None and not set(tokens.ids).isdisjoint(token_ids):
        raise CheckpointError("a reward token was written although it is banned: its reward row is far too large")
    for token_id, steps in zip(tokens.ids, entries, strict=True):
        if len(steps.token_ids) != len(token_ids) or any(one != token_id for one in steps.token_ids):
            raise EngineFailed("the engine did not return the reward logits of each step")
        lowest = min(steps.logits if traced else (steps.logits[0], steps.logits[-1]))
        if ban is not None and lowest <= ban / 2:
            raise EngineFailed(f"a reward is {lowest:g}: the ban of {ban:g} is in it, so it is no raw logit")
    before, after = [steps.logits[0] for steps in entries], [steps.logits[-1] for steps in entries]
    trace = list(zip(*(steps.logits for steps in entries), strict=True)) if traced else ()
    return tokens.completion(token_ids, finish_reason, before, after, trace, job.settle)
