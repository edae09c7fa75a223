"""ms-swift's reward function; a plugin registers it: `orms["critic_rm"] = CriticRMORM`.

swift tells an asynchronous one by its `async __call__`, so this needs no base class of swift's, and runs it in a new
event loop every time (swift/rl_core/grpo_algorithm.py, `compute_rewards_per_func`). Versions that await none call
`SyncCriticRMORM`. swift names the turns of tools itself: `tool_call` is the assistant's, `tool_response` the tool's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from criticrm_client.rewards.core import raise_failure, scorer_of_environment, sync_scorer_of_environment
from criticrm_client.rewards.samples import Sample, rows

_ROLES = {"tool_call": "assistant", "tool_response": "tool"}


class CriticRMORM:
    """Scores completions, with the service that the variables name (`rewards.environment`).

    swift sums rewards by `nansum`, so a NaN for one sample would count as 0 (swift/rl_core/advantage.py). A sample
    without a reward is therefore an exception here.
    """

    def __init__(self, args: Any = None, **_: Any) -> None:
        self.args = args

    async def __call__(
        self, completions: Sequence[str], messages: Sequence[Sequence[Any]] | None = None, **columns: Any
    ) -> list[float]:
        """One reward a completion.

        Args:
            completions: the last messages' contents.
            messages: of each, the whole conversation with the completion at its end.
            columns: of the data set, of which the variables may name two.

        Raises:
            APIError: a sample has no reward.
            ValueError: no messages, one that is no text, or a variable that is missing or wrong.
        """
        rewards = await scorer_of_environment()(_pairs(completions, messages, columns))
        return [raise_failure(reward).score for reward in rewards]


class SyncCriticRMORM:
    """As `CriticRMORM`, for versions of swift that call reward functions without awaiting them."""

    def __init__(self, args: Any = None, **_: Any) -> None:
        self.args = args

    def __call__(
        self, completions: Sequence[str], messages: Sequence[Sequence[Any]] | None = None, **columns: Any
    ) -> list[float]:
        """One reward a completion. Takes and raises what `CriticRMORM` does."""
        rewards = sync_scorer_of_environment()(_pairs(completions, messages, columns))
        return [raise_failure(reward).score for reward in rewards]


def _pairs(
    completions: Sequence[str], messages: Sequence[Sequence[Any]] | None, columns: Mapping[str, Any]
) -> list[Sample]:
    if messages is None:
        raise ValueError("swift passed no messages: the prompts are unknown")
    return [
        Sample(_prompt(conversation), completion, row=row)
        for conversation, completion, row in zip(messages, completions, rows(columns, len(completions)), strict=True)
    ]


def _prompt(conversation: Sequence[Any]) -> list[Any]:
    """The conversation without its last turn, which is the completion."""
    *prompt, last = map(_with_known_role, conversation)
    if isinstance(last, Mapping) and last.get("role") != "assistant":
        raise ValueError(f"messages end with a turn of the {last.get('role')}, not with the completion")
    return prompt


def _with_known_role(message: Any) -> Any:
    if isinstance(message, Mapping) and message.get("role") in _ROLES:
        return {**message, "role": _ROLES[message["role"]]}
    return message
