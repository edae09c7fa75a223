"""Where the reward is read: the one definition that training, evaluation and serving share.

The reward is the raw logit of the reward token (docs/adr/0001). With `prompt` and `completion` the token ids of
a rendered prompt and of the critique written after it (its end-of-turn token included, if it was emitted):

- `direct_score`: the logit at the position that predicts the first token of the completion;
- `score`: the logit at the position that predicts the last emitted token of the completion.

A completion may be ended early, once the reward has settled (`Settle`): its last token is then the last one kept.

Where a checkpoint has several rewards, each has a token of its own, read at the same positions, and the score is the
weighted sum of their logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import NonFiniteReward

FinishReason = Literal["stop", "length", "settled"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def reward_positions(prompt_len: int, completion_len: int) -> tuple[int, int]:
    """Indexes into the logits of `prompt + completion`: before any critique, and after it.

    Raises:
        ValueError: an empty prompt or completion has no reward.
    """
    if prompt_len < 1 or completion_len < 1:
        raise ValueError(f"prompt and completion need at least one token, got {prompt_len} and {completion_len}")
    return prompt_len - 1, prompt_len + completion_len - 2


def finite_reward(value: float) -> float:
    """`value`, or NonFiniteReward."""
    if not math.isfinite(value):
        raise NonFiniteReward(f"the reward logit is {value}")
    return value


@dataclass(frozen=True, slots=True)
class Settle:
    """When a critique is ended: its score has stayed within a range.

    Attributes:
        within: the largest difference between two scores of the range, in reward units, itself included.
        tokens: length of the range, in tokens: `tokens + 1` scores are compared.
    """

    within: float
    tokens: int

    def position(self, scores: Sequence[float], begin: int = 0) -> int | None:
        """The first that has settled, an index into `scores`; None where none has.

        Args:
            scores: `[steps]`, before each token.
            begin: positions before this one are known not to have settled.
        """
        for last in range(max(begin, self.tokens), len(scores)):
            window = scores[last - self.tokens : last + 1]
            if max(window) - min(window) <= self.within:
                return last
        return None


@dataclass(frozen=True, slots=True)
class Completion:
    """One critique and the rewards around it.

    Attributes:
        token_ids: `[completion_len]`, the end-of-turn token included when `finish_reason` is "stop".
        finish_reason: "stop" where the model ended it, "length" at the limit, "settled" where `Settle` did.
        direct_score: reward logit before the critique; of several rewards, their weighted sum.
        score: the same after it.
        rewards: `[rewards]`, the logit before and after of each, where there are several; else empty.
        trace: `[completion_len]`, the score before each token, from `direct_score` to `score`; empty where it was not
            requested.
    """

    token_ids: list[int]
    finish_reason: FinishReason
    direct_score: float
    score: float
    rewards: tuple[tuple[float, float], ...] = ()
    trace: tuple[float, ...] = ()

    @property
    def logits(self) -> tuple[tuple[float, float], ...]:
        """`[rewards]`, before and after, as the model gives them."""
        return self.rewards or ((self.direct_score, self.score),)


@dataclass(frozen=True, slots=True)
class RewardTokens:
    """The tokens whose logits are rewards.

    Attributes:
        ids: `[rewards]`.
        weights: `[rewards]`, what each weighs in the score; 1 where there is one.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)

    def completion(
        self,
        token_ids: list[int],
        finish_reason: FinishReason,
        before: Sequence[float],
        after: Sequence[float],
        trace: Sequence[Sequence[float]] = (),
        settle: Settle | None = None,
    ) -> Completion:
        """From the logits of a completion's first and last step, `[rewards]` each.

        Args:
            trace: of all steps, where they are wanted; needed for `settle`.
            settle: what is written after that position is not kept.

        Raises:
            NonFiniteReward
        """
        scores = tuple(finite_reward(self.score(logits)) for logits in trace)
        last = None if settle is None else settle.position(scores)
        if last is not None and last + 1 < len(token_ids):
            token_ids, finish_reason, after, scores = token_ids[: last + 1], "settled", trace[last], scores[: last + 1]
        direct, final = tuple(map(finite_reward, before)), tuple(map(finite_reward, after))
        rewards = tuple(zip(direct, final, strict=True)) if len(self.ids) > 1 else ()
        return Completion(token_ids, finish_reason, self.score(direct), self.score(final), rewards, scores)

    def score(self, logits: Sequence[float]) -> float:
        """The score of `[rewards]` logits."""
        if len(self.ids) == 1:
            return logits[0]
        return sum(weight * logit for weight, logit in zip(self.weights, logits, strict=True))
