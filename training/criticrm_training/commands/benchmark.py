"""`criticrm benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from .options import SAMPLES, ServiceOptions


class Benchmark(ServiceOptions):
    """Run a published benchmark: RewardBench, RewardBench 2, RM-Bench or JudgeBench, with its own metrics.

    --model is served for the time of the run; --url uses a service that runs already. A second run with the same
    inputs continues where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_BENCHMARK_", frozen=True, cli_kebab_case=True)

    format: CliPositionalArg[Literal["rewardbench", "rewardbench2", "rm-bench", "judgebench"]] = Field(
        description="Name of the benchmark; it sets the fields of a row and the metrics."
    )
    data: CliPositionalArg[str | None] = Field(
        None,
        description="Rows of the benchmark: a .jsonl, .json or .parquet file, a folder, or a dataset "
        "owner/name[:subset][@split]. Default: the published dataset (for JudgeBench its split gpt; the other is "
        "ScalerLab/JudgeBench@claude).",
    )
    out: Path = Field(description="Folder for the scores and benchmark.json.")
    samples: tuple[PositiveInt, ...] = Field((), description=SAMPLES)
    limit: NonNegativeInt = Field(0, description="Use only this many prompts, chosen by their hash (0: all).")

    def run(self) -> int:
        from ..evaluation.benchmarks.benchmark import benchmark

        benchmark(self.format, self.data, self.out, **self.service(), samples=self.samples, limit=self.limit)
        return 0
