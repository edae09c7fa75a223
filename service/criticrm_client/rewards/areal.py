"""AReaL's reward function: `RLVRWorkflow(reward_fn="criticrm_client.rewards.areal.reward_fn", ...)`.

AReaL calls it in a pool of processes and gives it 15 s, the wait for a free process included; the fourth time-out is a
reward of 0, the fourth exception a rejected rollout (areal/api/reward_api.py, `AsyncRewardWrapper`;
areal/infra/workflow_executor.py). `reward_fn` therefore gives up, with an exception, before AReaL does. Where samples
may wait longer, let the workflow await `async_reward_fn`: it needs no pool and has no such limit.

The row's columns come as keywords, whatever their names; so the functions' own parameters are positional only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from criticrm_client.arguments import Options
from criticrm_client.client import CriticRM
from criticrm_client.rewards import environment
from criticrm_client.rewards.core import scorer_of_environment
from criticrm_client.rewards.samples import Sample, item_of

DEADLINE_S = 12.0


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: Any,  # noqa: ARG001  # AReaL passes both
    completion_ids: Any,  # noqa: ARG001
    /,
    messages: Any = None,
    **columns: Any,
) -> float:
    """Score one response, with the service that the variables name (`rewards.environment`).

    Args:
        prompt: in the policy's chat template.
        completions: the response, with the token that ended it.
        messages: of the data set's row; the prompt before any template, where it is there.
        columns: the others of the row, of which the variables may name two.

    Raises:
        APIError: no reward, within `DEADLINE_S`.
        ValueError: a message that is no text, or a variable that is missing or wrong.
    """
    client, options = _client()
    item = item_of(_pair(prompt, completions, messages, columns))
    return client.score_items([item], **options).rewards[0]


async def async_reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: Any,  # noqa: ARG001
    completion_ids: Any,  # noqa: ARG001
    /,
    messages: Any = None,
    **columns: Any,
) -> float:
    """As `reward_fn`, awaited, and as patient as the client is. For a workflow's `async_reward_fn`.

    Raises:
        APIError: no reward.
        ValueError: as `reward_fn`.
    """
    return (await scorer_of_environment().one(_pair(prompt, completions, messages, columns))).score


def _pair(prompt: str, completions: str, messages: Any, columns: dict[str, Any]) -> Sample:
    return Sample(prompt if messages is None else messages, completions, templated=True, row=columns)


@cache
def _client() -> tuple[CriticRM, Options]:
    """One a process, also where the process is a fork of one that has it."""
    urls, key, version = environment.urls(), environment.key(), environment.model_version()
    return CriticRM(urls, key=key, deadline_s=DEADLINE_S, model_version=version), environment.options()
