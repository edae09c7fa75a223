"""The joint objective: how the critique loss and the reward loss are weighed (arXiv 2411.16646)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Schedule = Literal["paper", "constant", "additive", "critique"]


class Objective(BaseModel):
    """The weights of the losses over a run.

    - `paper`: `lambda * L_c + (1 - lambda) * L_r`, lambda 1 until the last epoch, then down to `1 - beta` over it; over
      the whole run where that is shorter than an epoch. The reward overfits within an epoch while writing critiques
      takes several.
    - `constant`: the same with lambda `weight` throughout.
    - `additive`: `L_r + weight * L_c`, the form of CLoud (arXiv 2408.11791).
    - `critique`: `L_c` alone. What comes out writes critiques and has no reward that was trained: a first round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schedule: Schedule = "paper"
    beta: float = Field(0.9, ge=0, le=1)
    weight: float = Field(
        0.5, ge=0, description="Weight of the critique loss, for 'constant' (at most 1; the reward loss has the rest) "
        "and 'additive'."
    )  # fmt: skip
    direct_weight: float = Field(
        0.1,
        ge=0,
        description="Weight of the reward loss before the critique, relative to the one after it; not in the paper.",
    )
    distill_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance of both rewards from their teacher: the reward before the critique of the "
        "frozen base with `head`. Not in the paper. For few or noisy labels, which alone do not train the "
        "reward after the critique and make the one before it worse.",
    )
    center_rewards_coefficient: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean of `(r(x, y+) + r(x, y-))^2`, added to each reward loss (Eisenstein et al., "
        "arXiv 2312.09244). It keeps rewards around zero; Bradley-Terry leaves their offset free. 0.01 is "
        "usual.",
    )

    rewards: dict[str, float] = Field(
        default_factory=dict,
        description="Several rewards, and what each weighs in the score: `{helpfulness: 0.7, correctness: 0.3}`. Each "
        "is the name of a column with its labels: 'chosen', 'rejected', 'tie', the probability that the chosen "
        "response is the better one, or null where it is not known. The reward loss of a pair is the mean over those "
        "that have one. Empty: one reward, of the chosen response over the rejected one.",
    )

    @model_validator(mode="after")
    def _leave_the_reward_a_share(self) -> Objective:
        if self.schedule == "constant" and self.weight > 1:
            raise ValueError(f"weight {self.weight}: with 'constant' the reward loss has 1 - weight, which is below 0")
        if len(self.rewards) == 1:
            raise ValueError(f"rewards: one reward has no name; leave {next(iter(self.rewards))!r} out, or give others")
        if self.rewards and not any(self.rewards.values()):
            raise ValueError("rewards: all weights are 0")
        if self.rewards and self.distill_weight:
            raise ValueError("distill_weight: the teacher has one reward, and `rewards` are several")
        return self

    @property
    def trains_reward(self) -> bool:
        """Whether the reward loss is meant to have a weight."""
        return self.schedule != "critique" and not (self.schedule == "constant" and self.weight == 1)

    def weights(self, done: float, epochs: float) -> tuple[float, float]:
        """`(of the critique loss, of the reward loss)`.

        Args:
            done: share of the run's optimizer steps that is done, 0 to 1.
            epochs: how many epochs the run has; a fraction where it ends within one.
        """
        if self.schedule == "additive":
            return self.weight, 1.0
        if self.schedule == "critique":
            return 1.0, 0.0
        if self.schedule == "constant":
            return self.weight, 1 - self.weight
        start = self.reward_starts(epochs)
        critique = 1 - self.beta * min(max((done - start) / (1 - start), 0.0), 1.0)
        return critique, 1 - critique

    def reward_starts(self, epochs: float) -> float:
        """The share of the run after which the reward has weight: 0, but for the schedules that begin without."""
        if not self.trains_reward:
            return 1.0
        return 1 - 1 / epochs if self.schedule == "paper" and epochs > 1 else 0.0

    def reward_weight_sum(self, steps: int, epochs: float) -> float:
        """The sum of the reward loss's weights over a run of so many optimizer steps."""
        return sum(self.weights(step / steps, epochs)[1] for step in range(steps))
