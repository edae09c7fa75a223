"""`criticrm best-of-n`."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from .options import FRONTIER, SAMPLES_ONE, PolicyOptions


class BestOfN(PolicyOptions):
    """Let a Critic-RM choose among a policy's answers to questions that have a reference, and grade its choice.

    Beside it: one answer at random, the majority vote, and the best possible choice, for 1, 2, 4, .. n answers.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_BEST_OF_N_", frozen=True, cli_kebab_case=True)

    policy: str | None = Field(
        None,
        description="The model that answers: a folder or a hub name; with --policy-endpoint, its name. Without one, "
        "each row has its answers, in `responses`.",
    )
    n: PositiveInt = Field(8, description="Answers of the policy to each question.")
    temperature: PositiveFloat = Field(0.8, description="Sampling temperature of the answers.")
    seed: int = Field(0, description="Seed of the answers; each question draws from its own.")

    samples: NonNegativeInt = Field(0, description=SAMPLES_ONE)
    frontier: CliImplicitFlag[bool] = Field(False, description=FRONTIER)

    def run(self) -> int:
        from ..critiques.writers import Sampling
        from ..evaluation.policies.best_of_n import best_of_n
        from ..evaluation.policies.questions import read_questions

        best_of_n(
            read_questions(self.data, limit=self.limit, with_responses=self.policy is None),
            self.out,
            policy=None if self.policy is None else self.settings_of(self.policy),
            sampling=Sampling(self.n, self.temperature, self.max_tokens),
            seed=self.seed,
            samples=self.samples,
            with_frontier=self.frontier,
            **self.service(),
        )
        return 0
