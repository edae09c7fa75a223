"""ms-swift's reward function; a plugin registers it: `orms["critic_rm"] = CriticRMORM`.

swift tells an asynchronous one by its `async __call__`, so this needs no base class of swift's, and runs it in a new
event loop every time (swift/rl_core/grpo_algorithm.py, `compute_rewards_per_func`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from criticrm_client.rewards.core import Reward, scorer_of_environment
from criticrm_client.rewards.samples import Sample


class CriticRMORM:
    """Scores completions, with the service that the variables name (`rewards.environment`).

    swift sums rewards by `nansum`, so a NaN for one sample would count as 0 (swift/rl_core/advantage.py). A sample
    without a reward is therefore an exception here.
    """

    def __init__(self, args: Any = None, **_: Any) -> None:
        self.args = args

    async def __call__(
        self, completions: Sequence[str], messages: Sequence[Sequence[Any]] | None = None, **_: Any
    ) -> list[float]:
        """One reward a completion.

        Args:
            completions: the last messages' contents.
            messages: of each, the whole conversation with the completion at its end.

        Raises:
            APIError: a sample has no reward.
            ValueError: no messages, one that is no text, or a variable that is missing or wrong.
        """
        if messages is None:
            raise ValueError("swift passed no messages: the prompts are unknown")
        pairs = [Sample(told[:-1], completion) for told, completion in zip(messages, completions, strict=True)]
        return [_score(reward) for reward in await scorer_of_environment()(pairs)]


def _score(reward: Reward | Exception) -> float:
    if isinstance(reward, Exception):
        raise reward
    return reward.score
