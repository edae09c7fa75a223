"""verl's `reward.custom_reward_function`: `path=pkg://criticrm_client.rewards.verl`, `name=compute_score`.

verl tells a reward function no prompt (verl/experimental/reward_loop/reward_manager/naive.py, `run_single`), so the
data set carries it in `extra_info`. verl before 0.8 calls a reward function without awaiting it
(verl/workers/reward_manager/naive.py, `NaiveRewardManager`): `name=compute_score_sync` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from criticrm_client.rewards.core import (  # absolute: verl may load this file by its path
    scorer_of_environment,
    sync_scorer_of_environment,
)
from criticrm_client.rewards.samples import Sample

PROMPT_KEYS = ("prompt", "raw_prompt", "question")  # of `extra_info`; verl's own GSM8K script writes `question`


async def compute_score(
    data_source: str,  # noqa: ARG001  # verl passes all four by name
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    prompt_key: str | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Score one response, with the service that the variables name (`rewards.environment`).

    Args:
        solution_str: the response, without special tokens.
        ground_truth: a column that the variables may name, beside those of `extra_info`.
        extra_info: of the row; the prompt in it is a text or messages.
        prompt_key: where in `extra_info` (`reward_kwargs.prompt_key`); unless given, the first of `PROMPT_KEYS`.

    Returns:
        Always `score`, `direct_score`, `truncated` and `critique`: verl builds its arrays from the first sample's
        keys. `critique` is a text, empty without critiques.

    Raises:
        APIError: no reward. verl has no way to leave a sample out, and a number would be trained on.
        ValueError: no prompt, or a variable that is missing or wrong.
    """
    pair = _sample(solution_str, ground_truth, extra_info or {}, prompt_key)
    return (await scorer_of_environment().one(pair)).as_dict()


def compute_score_sync(
    data_source: str,  # noqa: ARG001
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    prompt_key: str | None = None,
    **_: Any,
) -> dict[str, Any]:
    """As `compute_score`, for versions of verl that do not await it. Takes, returns and raises what it does."""
    pair = _sample(solution_str, ground_truth, extra_info or {}, prompt_key)
    return sync_scorer_of_environment().one(pair).as_dict()


def _sample(response: str, ground_truth: Any, extra_info: Mapping[str, Any], prompt_key: str | None) -> Sample:
    row = {**extra_info, "ground_truth": ground_truth}
    return Sample(_prompt(extra_info, prompt_key), response, row=row)


def _prompt(extra_info: Mapping[str, Any], prompt_key: str | None) -> Any:
    for name in (prompt_key,) if prompt_key else PROMPT_KEYS:
        if extra_info.get(name) is not None:
            return extra_info[name]
    told = prompt_key or ", ".join(PROMPT_KEYS)
    raise ValueError(f"extra_info has no prompt ({told}): put it there, or name its key in reward_kwargs.prompt_key")
