"""EasyR1's `worker.reward.reward_function=.../criticrm_client/rewards/easyr1.py:compute_score`.

EasyR1 loads the file by its path and calls the function without awaiting it, with a list of responses
(`reward_type: batch`) or with one (`sequential`). It passes no prompt, only the response and what the data set's
`answer_key` names (verl/workers/reward/function.py), so that column carries the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from criticrm_client.rewards.core import Reward, raise_failure, sync_scorer_of_environment
from criticrm_client.rewards.samples import Sample

REWARD_NAME = "critic_rm"  # newer versions of EasyR1 read both
REWARD_TYPE = "batch"
PROMPT_KEYS = ("prompt", "question", "problem")  # of `ground_truth`, or of the input where a fork passes it


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]] | Mapping[str, Any], prompt_key: str | None = None, **_: Any
) -> list[dict[str, float]] | dict[str, float]:
    """Score responses, with the service that the variables name (`rewards.environment`).

    Args:
        reward_inputs: `{"response", "response_length", "ground_truth"}`, or a list of these. The ground truth holds
            the prompt, a text or messages, under a name: as an object, or as JSON of one.
        prompt_key: that name (`reward_function_kwargs`); unless given, the first of `PROMPT_KEYS`.

    Returns:
        Always `overall`, which EasyR1 trains on, `direct_score` and `truncated`, all of which it logs as means; one
        for each input, in order.

    Raises:
        APIError: a sample has no reward. EasyR1 has no way to leave one out.
        ValueError: no prompt, or a variable that is missing or wrong.
    """
    inputs = [reward_inputs] if isinstance(reward_inputs, Mapping) else reward_inputs
    pairs = [Sample(_prompt(one, prompt_key), one["response"], row=_row(one)) for one in inputs]
    scores = [_score(raise_failure(reward)) for reward in sync_scorer_of_environment()(pairs)]
    return scores[0] if isinstance(reward_inputs, Mapping) else scores


def _score(reward: Reward) -> dict[str, float]:
    return {
        "overall": reward.score,
        "direct_score": reward.direct_score,
        "truncated": float(reward.truncated),
    }


def _prompt(reward_input: Mapping[str, Any], prompt_key: str | None) -> Any:
    names = (prompt_key,) if prompt_key else PROMPT_KEYS
    row = _row(reward_input)
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(
        f"ground_truth has no prompt ({', '.join(names)}): let the column that data.answer_key names hold JSON such as "
        '{"prompt": "Why is the sky blue?"}, or name its key in reward_function_kwargs.prompt_key'
    )


def _row(reward_input: Mapping[str, Any]) -> dict[str, Any]:
    """What the input holds by a name, the ground truth's object included."""
    truth = reward_input.get("ground_truth")
    if isinstance(truth, str):
        try:
            truth = json.loads(truth)
        except ValueError:
            truth = None
    return {**(truth if isinstance(truth, Mapping) else {}), **reward_input}
