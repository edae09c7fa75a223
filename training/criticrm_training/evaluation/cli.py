"""The settings of the commands that measure. Light: what needs torch is imported when one runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, SettingsConfigDict

from criticrm_model.manifest import DEFAULT_NAME

if TYPE_CHECKING:
    from ..data import PreferencePair
    from .policies.policy import PolicySettings

PAIRS = (
    "Preference pairs: a .jsonl or .parquet file, a folder, or a Hugging Face dataset owner/name[:subset][@split], "
    "with prompt, chosen and rejected; optional id and category."
)
_QUESTIONS = (
    "Questions: a .jsonl or .parquet file, a folder, or a Hugging Face dataset owner/name[:subset][@split]; rows with "
    "prompt and reference, a solution that ends in its answer; optional id. Others are left out."
)
_SAMPLES = "Also report the mean reward over m sampled critiques of a response, for each m given: --samples 1,4,8."
_AGAINST = (
    "A finished `evaluate` or `judge` of the same pairs to compare with pair by pair, under a name: "
    "--against scalar=FOLDER; may be given several times."
)


class _Asking(BaseSettings):
    """Whom is asked."""

    model: str = Field(DEFAULT_NAME, description="The Critic-RM: 'default', a checkpoint folder or a hub name.")
    url: str | None = Field(None, description="Address of a `criticrm serve` that runs already, instead of --model.")
    key: SecretStr | None = Field(None, description="API key for the service at --url.")
    concurrency: PositiveInt = Field(32, description="Requests to a service at a time.")

    def service(self) -> dict[str, Any]:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        key = self.key.get_secret_value() if self.key else None
        return {"model": self.model, "url": self.url, "key": key, "concurrency": self.concurrency}


class _OnPairs(_Asking):
    """On preference pairs."""

    data: CliPositionalArg[str] = Field(description=PAIRS)
    out: Path = Field(description="Folder for the scores and the report.")
    limit: NonNegativeInt = Field(0, description="Only so many pairs, drawn by the hash of their question (0: all).")

    def pairs(self) -> list[PreferencePair]:
        from ..data import in_question_order, read_pairs

        pairs = in_question_order(read_pairs(self.data))
        return pairs[: self.limit] if self.limit else pairs


class Evaluate(_OnPairs):
    """Measure a Critic-RM on preference pairs it has not seen: before a critique, after it, and over several.

    The model is served for as long as it takes, or a service that runs is asked (--url). A second run with the same
    inputs goes on where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_EVALUATE_", frozen=True, cli_kebab_case=True)

    samples: tuple[PositiveInt, ...] = Field((), description=_SAMPLES)
    teacher_forced: Path | None = Field(
        None,
        description="A finished `critiques sample` of these pairs by another model: also report the reward after its "
        "critiques. Needs --model, not --url.",
    )
    direct_only: CliImplicitFlag[bool] = Field(
        False, description="No critiques: all that there is to a scalar baseline, and much faster."
    )
    against: dict[str, Path] = Field(default_factory=dict, description=_AGAINST)

    def run(self) -> int:
        from .evaluate import evaluate

        evaluate(
            pairs=self.pairs(),
            out=self.out,
            **self.service(),
            samples=self.samples,
            against=self.against,
            teacher_forced=self.teacher_forced,
            critiques=not self.direct_only,
        )
        return 0


class Judge(BaseSettings):
    """Measure a language model as the judge of preference pairs, by the scores that its sampled critiques give.

    What a Critic-RM must beat: `criticrm critiques sample DATA --model BASE`, then this.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_JUDGE_", frozen=True, cli_kebab_case=True)

    data: CliPositionalArg[str] = Field(description=PAIRS)
    critiques: Path = Field(description="A finished `critiques sample` of these pairs by the judge.")
    out: Path = Field(description="Folder for evaluation.json and margins.parquet.")
    against: dict[str, Path] = Field(default_factory=dict, description=_AGAINST)

    def run(self) -> int:
        from ..data import in_question_order, read_pairs
        from .judge import judge

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        judge(in_question_order(read_pairs(self.data)), self.critiques, self.out, self.against)
        return 0


class Benchmark(_Asking):
    """Run a published benchmark: RewardBench, RewardBench 2, RM-Bench or JudgeBench, with its own metrics.

    The model is served for as long as it takes, or a service that runs is asked (--url). A second run with the same
    inputs goes on where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_BENCHMARK_", frozen=True, cli_kebab_case=True)

    format: CliPositionalArg[Literal["rewardbench", "rewardbench2", "rm-bench", "judgebench"]] = Field(
        description="Which benchmark; it decides what fields a row has, and the metrics."
    )
    data: CliPositionalArg[str | None] = Field(
        None,
        description="Its rows: a .jsonl, .json or .parquet file, a folder, or a dataset owner/name[:subset][@split]; "
        "the published dataset unless given (of JudgeBench the split gpt; ScalerLab/JudgeBench@claude is the other).",
    )
    out: Path = Field(description="Folder for the scores and benchmark.json.")
    samples: tuple[PositiveInt, ...] = Field((), description=_SAMPLES)
    limit: NonNegativeInt = Field(0, description="Only so many prompts, drawn by their hash (0: all).")

    def run(self) -> int:
        from .benchmarks.benchmark import benchmark

        benchmark(self.format, self.data, self.out, **self.service(), samples=self.samples, limit=self.limit)
        return 0


class Probe(_OnPairs):
    """Probe a Critic-RM for bias: length, responses without content, padding. Each pair takes 17 critiques.

    The model is served for as long as it takes, or a service that runs is asked (--url). A second run with the same
    inputs goes on where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_PROBE_", frozen=True, cli_kebab_case=True)

    def run(self) -> int:
        from .probes import probe

        probe(self.pairs(), self.out, **self.service())
        return 0


class _Graded(_Asking):
    """Who answers, and who judges."""

    data: CliPositionalArg[str] = Field(description=_QUESTIONS)
    out: Path = Field(description="Folder for every stage and the report; a second run goes on where the first ended.")
    policy_endpoint: str | None = Field(
        None, description="OpenAI-style address up to /v1 that serves the policy, instead of vLLM on this machine."
    )
    policy_key: SecretStr | None = Field(None, description="API key for --policy-endpoint.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the policy.")
    max_model_len: PositiveInt = Field(4096, description="Longest conversation of the policy, in tokens.")
    max_tokens: PositiveInt = Field(512, description="Longest answer of the policy, in tokens.")
    limit: NonNegativeInt = Field(0, description="Only so many questions, drawn by hash (0: all).")

    def settings_of(self, policy: str) -> PolicySettings:
        from .policies.policy import PolicySettings

        return PolicySettings(
            policy,
            endpoint=self.policy_endpoint,
            key=self.policy_key.get_secret_value() if self.policy_key else None,
            concurrency=self.concurrency,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
        )


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
    n: PositiveInt = Field(8, description="Answers of the policy to each question.")
    temperature: PositiveFloat = Field(0.8, description="Sampling temperature of the answers.")
    seed: int = Field(0, description="Seed of the answers; each question draws from its own.")

    def run(self) -> int:
        from ..critiques.critics import Sampling
        from .policies.best_of_n import best_of_n
        from .policies.questions import read_questions

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
        from .policies.correction import correct
        from .policies.questions import read_questions

        correct(
            read_questions(self.data, limit=self.limit),
            self.out,
            policy=self.settings_of(self.policy),
            max_tokens=self.max_tokens,
            **self.service(),
        )
        return 0
