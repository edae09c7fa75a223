"""`criticrm correct`."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt
from pydantic_settings import SettingsConfigDict

from .options import PolicyOptions


class Correct(PolicyOptions):
    """Let a policy revise its answers after their critiques, and grade the revisions.

    The control is the same request to revise, without a critique.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_CORRECT_", frozen=True, cli_kebab_case=True)

    policy: str = Field(description="The model that answers: a folder or a hub name; with --policy-endpoint, its name.")

    samples: NonNegativeInt = Field(
        0,
        description="Also revise after each of this many sampled critiques of an answer, and report the mean, which "
        "depends less on chance than one critique does. Each costs one more revision.",
    )

    def run(self) -> int:
        from ..evaluation.policies.correction import correct
        from ..evaluation.policies.questions import read_questions

        correct(
            read_questions(self.data, limit=self.limit),
            self.out,
            policy=self.settings_of(self.policy),
            max_tokens=self.max_tokens,
            samples=self.samples,
            **self.service(),
        )
        return 0
