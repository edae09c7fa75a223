"""`criticrm benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from .options import SAMPLES, ServiceOptions


class Benchmark(ServiceOptions):
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
    samples: tuple[PositiveInt, ...] = Field((), description=SAMPLES)
    limit: NonNegativeInt = Field(0, description="Only so many prompts, drawn by their hash (0: all).")

    def run(self) -> int:
        from ..evaluation.benchmarks.benchmark import benchmark

        benchmark(self.format, self.data, self.out, **self.service(), samples=self.samples, limit=self.limit)
        return 0
