"""slime's `--custom-rm-path criticrm_client.rewards.slime.custom_rm`, with `--group-rm` or without.

slime calls it with one sample, or with a group (slime/rollout/rm_hub/__init__.py, `async_rm`, `batched_async_rm`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from criticrm_client.rewards.core import Reward, scorer_of_environment
from criticrm_client.rewards.samples import Sample


async def custom_rm(args: Any, sample: Any, **_: Any) -> Any:
    """Score a sample, or each of a list, with the service that the variables name (`rewards.environment`).

    Args:
        args: slime's; only `reward_key` is read.
        sample: with `prompt`, a text (in the policy's template or not) or messages, and `response`.

    Returns:
        The score; with `--reward-key score` (or `direct_score`) a dict `{"score", "direct_score", "truncated",
        "critique"}`, which slime keeps as `sample.reward`. A list of these for a list.

    Raises:
        APIError: a sample has no reward; slime's run stops.
        ValueError: a message that is no text, or a variable that is missing or wrong.
    """
    samples = sample if isinstance(sample, list) else [sample]
    found = await scorer_of_environment()([Sample(one.prompt, one.response, templated=True) for one in samples])
    rewards = [_told(args, reward) for reward in found]
    return rewards if isinstance(sample, list) else rewards[0]


def _told(args: Any, reward: Reward | Exception) -> float | dict[str, Any]:
    if isinstance(reward, Exception):
        raise reward
    return asdict(reward) if getattr(args, "reward_key", None) else reward.score
