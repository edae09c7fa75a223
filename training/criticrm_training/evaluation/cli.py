"""The settings of `criticrm benchmark` and `criticrm probe`. Light: what needs torch is imported when one runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from criticrm_model.manifest import DEFAULT_NAME


class _Asking(BaseSettings):
    """Whom is asked."""

    model: str = Field(DEFAULT_NAME, description="The checkpoint: 'default', a folder or a hub name.")
    url: str | None = Field(None, description="A service that runs already, instead of --model.")
    key: SecretStr | None = Field(None, description="Its key.")
    concurrency: PositiveInt = Field(32, description="Requests in flight.")

    def service(self) -> dict[str, Any]:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        key = self.key.get_secret_value() if self.key else None
        return {"model": self.model, "url": self.url, "key": key, "concurrency": self.concurrency}


class Benchmark(_Asking):
    """Run a published benchmark: RewardBench, RewardBench 2, RM-Bench or JudgeBench, with its own metrics.

    The model is served for as long as it takes, or a service that runs is asked (--url). A second run with the same
    inputs goes on where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_BENCHMARK_", frozen=True, cli_kebab_case=True)

    format: CliPositionalArg[Literal["rewardbench", "rewardbench2", "rm-bench", "judgebench"]] = Field(
        description="Which one, and so the fields of its rows and its metrics."
    )
    data: CliPositionalArg[str | None] = Field(
        None,
        description="Its rows: a .jsonl, .json or .parquet file, a folder, or a dataset owner/name[:subset][@split]; "
        "the published dataset unless given (of JudgeBench the split gpt; ScalerLab/JudgeBench@claude is the other).",
    )
    out: Path = Field(description="Folder for the scores and benchmark.json.")
    samples: tuple[PositiveInt, ...] = Field(
        (), description="Also report the mean over so many sampled critiques, for each number given (1,4,8)."
    )
    limit: NonNegativeInt = Field(0, description="Only so many prompts, drawn by their hash (0: all).")

    def run(self) -> int:
        from .benchmarks import benchmark

        benchmark(self.format, self.data, self.out, **self.service(), samples=self.samples, limit=self.limit)
        return 0


class Probe(_Asking):
    """Probe a Critic-RM for bias: length, responses without content, padding.

    The model is served for as long as it takes, or a service that runs is asked (--url). A second run with the same
    inputs goes on where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_PROBE_", frozen=True, cli_kebab_case=True)

    data: CliPositionalArg[str] = Field(
        description="Preference pairs: a .jsonl or .parquet file, a folder, or a Hugging Face dataset "
        "owner/name[:subset][@split], with prompt, chosen and rejected."
    )
    out: Path = Field(description="Folder for the scores and probe.json.")
    limit: NonNegativeInt = Field(
        0, description="Only so many pairs, drawn by the hash of their question (0: all). Each takes 17 critiques."
    )

    def run(self) -> int:
        from ..data import in_question_order, read_pairs
        from .probes import probe

        pairs = in_question_order(read_pairs(self.data))
        probe(pairs[: self.limit] if self.limit else pairs, self.out, **self.service())
        return 0
