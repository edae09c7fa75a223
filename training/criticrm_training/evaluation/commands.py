"""The settings of the commands that grade a policy's answers. Light: the work is imported when one runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from criticrm_model.manifest import DEFAULT_NAME

if TYPE_CHECKING:
    from .policy import PolicySettings

_QUESTIONS = (
    "Questions: a .jsonl or .parquet file, a folder, or a Hugging Face dataset owner/name[:subset][@split]; rows with "
    "prompt and reference, a solution that ends in its answer; optional id. Others are left out."
)


class _Graded(BaseSettings):
    """Who answers, and who judges."""

    data: CliPositionalArg[str] = Field(description=_QUESTIONS)
    out: Path = Field(description="Folder for every stage and the report; a second run goes on where the first ended.")
    policy_endpoint: str | None = Field(
        None, description="OpenAI-style address up to /v1 that serves the policy, instead of vLLM on this machine."
    )
    policy_key: SecretStr | None = Field(None, description="Key for it.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the policy.")
    max_model_len: PositiveInt = Field(4096, description="Longest conversation of the policy, in tokens.")
    max_tokens: PositiveInt = Field(512, description="Longest answer, in tokens.")
    model: str = Field(DEFAULT_NAME, description="The Critic-RM: 'default', a folder or a hub name.")
    url: str | None = Field(None, description="A Critic-RM service that runs already, instead of --model.")
    key: SecretStr | None = Field(None, description="Its key.")
    concurrency: PositiveInt = Field(32, description="Requests in flight.")
    limit: NonNegativeInt = Field(0, description="Only so many questions, drawn by hash (0: all).")

    def settings_of(self, policy: str) -> PolicySettings:
        from .policy import PolicySettings

        return PolicySettings(
            policy,
            endpoint=self.policy_endpoint,
            key=self.policy_key.get_secret_value() if self.policy_key else None,
            concurrency=self.concurrency,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
        )

    def service(self) -> dict[str, Any]:
        key = self.key.get_secret_value() if self.key else None
        return {"model": self.model, "url": self.url, "key": key, "concurrency": self.concurrency}


class BestOfN(_Graded):
    """Let a Critic-RM choose among a policy's answers to questions that have a reference, and grade its choice.

    Beside it: one answer at random, the majority vote, and the best possible choice, for 1, 2, 4, .. n answers.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_BEST_OF_N_", frozen=True, cli_kebab_case=True)

    policy: str | None = Field(
        None,
        description="The model that answers: a folder or a hub name; with --policy-endpoint, its name. Without one, "
        "each row has its answers, in `responses`.",
    )
    n: PositiveInt = Field(8, description="Answers to a question.")
    temperature: PositiveFloat = Field(0.8, description="Of the answers.")
    seed: int = Field(0, description="Of the answers.")

    def run(self) -> int:
        from ..critiques.critics import Sampling
        from .best_of_n import best_of_n
        from .questions import read_questions

        _log()
        best_of_n(
            read_questions(self.data, limit=self.limit, with_responses=self.policy is None),
            self.out,
            policy=None if self.policy is None else self.settings_of(self.policy),
            sampling=Sampling(self.n, self.temperature, self.max_tokens),
            seed=self.seed,
            **self.service(),
        )
        return 0


class Correct(_Graded):
    """Hand a policy the critiques of its answers, and grade what it makes of them.

    Beside it, the control: the same request to revise, without a critique.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_CORRECT_", frozen=True, cli_kebab_case=True)

    policy: str = Field(description="The model that answers: a folder or a hub name; with --policy-endpoint, its name.")

    def run(self) -> int:
        from .correction import correct
        from .questions import read_questions

        _log()
        correct(
            read_questions(self.data, limit=self.limit),
            self.out,
            policy=self.settings_of(self.policy),
            max_tokens=self.max_tokens,
            **self.service(),
        )
        return 0


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
