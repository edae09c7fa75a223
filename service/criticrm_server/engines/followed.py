"""A completion of a running job, followed token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from criticrm_model import RewardTokens, finite_reward

from .base import Job


class Followed:
    """Shows what was written to whoever watches, and says when the job may end it.

    Args:
        k: which of the job's completions it is.
    """

    def __init__(self, job: Job, k: int, tokens: RewardTokens) -> None:
        self._watch = job.watch
        self._settle = job.settle
        self._k = k
        self._tokens = tokens
        self._width = 1 + len(tokens.ids)  # entries of a step: the written token's, then each reward token's
        self._scores: list[float] = []

    def grown(self, token_ids: Sequence[int], logprobs: Any) -> bool:
        """It has these tokens now, with vLLM's flat log-probabilities. Returns whether its score has settled.

        Raises:
            NonFiniteReward: one that `settle` would have to compare.
        """
        shown, width = len(self._scores), self._width
        for step in range(shown, len(token_ids)):
            score = self._tokens.score(logprobs.logprobs[step * width + 1 : (step + 1) * width])
            self._scores.append(finite_reward(score) if self._settle else score)
        settled = None if self._settle is None else self._settle.position(self._scores, begin=shown)
        end = len(token_ids) if settled is None else settled + 1
        if self._watch is not None:
            self._watch(self._k, list(token_ids)[shown:end], self._scores[shown:end])
        return settled is not None
