"""`criticrm verify`."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from criticrm_model import Dtype

from ..agreement import agreement, format_table, summarize
from ..conversations import read_conversations
from ..engines.factory import require_engine
from ..logs import configure_logging
from ..settings import Settings
from ..verify import APART, find_faults, has_gpu, pair_rewards, run_passes, score_by_reference
from ..verify_original import score_by_original


class Verify(Settings):
    """Score conversations with critiques through vLLM and transformers, and print the differences.

    vLLM writes each critique; transformers scores the same tokens. Then vLLM reads every prompt again, from its prefix
    cache, and writes several critiques of some. Takes the options of `serve`, so that what is verified is what will be
    served.
    """

    # `json` is an alias, for it is taken by pydantic; without this its variable would be JSON, not CRITICRM_JSON.
    model_config = SettingsConfigDict(env_prefix_target="all")

    engine: Literal["vllm"] = Field("vllm", description="Engine that is compared with transformers; only vLLM.")
    dtype: Dtype = Field(
        "auto", description="Precision of both runs. 'auto': float32 on a CPU, the served precision on a GPU."
    )
    conversations: Path | None = Field(
        None, description="JSONL with prompt and responses (or chosen and rejected). Default: the embedded set."
    )
    limit: PositiveInt = Field(64, description="Number of conversations; the first response of each is scored.")
    samples: PositiveInt = Field(
        2,
        description="Sampled critiques of each conversation in the sampled pass, which has a quarter of the "
        "conversations.",
    )
    tolerance: PositiveFloat = Field(
        1e-4,
        description="In float32, a larger difference fails the command (exit 1). In others a root mean square above "
        f"{APART} standard deviations of the score does.",
    )
    original: str | None = Field(
        None,
        description="Folder or hub name of the reward model that an imported checkpoint was made from, whose own class "
        "is compared too. Default: the one that the manifest names; 'none' leaves it out.",
    )
    report: Path | None = Field(
        None, description="Also write a page with plots of the differences to this file (.html)."
    )
    json_line: CliImplicitFlag[bool] = Field(False, alias="json", description="Print one line of JSON at the end.")

    @field_validator("engine", mode="before")
    @classmethod
    def _vllm_alone(cls, engine: object) -> object:
        if engine != "vllm":
            raise ValueError(f"verify compares vLLM with transformers; with {engine} there is nothing to compare")
        return engine

    @field_validator("report")
    @classmethod
    def _drawable(cls, report: Path | None) -> Path | None:
        if report is not None and find_spec("matplotlib") is None:
            raise ValueError("the pictures need matplotlib: pip install matplotlib")
        return report

    def run(self) -> int:
        from criticrm_model.checkpoint import Checkpoint
        from criticrm_model.default import resolve

        configure_logging("warning", self.log_format)
        require_engine(self.engine)
        settings = self if self.dtype != "auto" or has_gpu() else self.model_copy(update={"dtype": "float32"})
        checkpoint = Checkpoint.open(resolve(self.model, self.revision), trust_remote_code=self.trust_remote_code)
        conversations = read_conversations(self.conversations, self.limit)
        passes, facts = asyncio.run(run_passes(checkpoint, settings, conversations, samples=self.samples))
        dtype = facts.described.get("dtype", settings.dtype)
        compared = pair_rewards(checkpoint, passes, score_by_reference(checkpoint, settings, passes))
        if checkpoint.manifest.origin is not None and self.original != "none":
            served = passes["cached"]
            compared["original"] = score_by_original(checkpoint, self.original, dtype, conversations, served)
        found = {name: agreement(rewards) for name, rewards in compared.items()}
        critiques = [c for _, c in passes["greedy"]]
        ended = sum(c.finish_reason == "stop" for c in critiques)
        tokens = sum(len(c.token_ids) for c in critiques)
        _print(f"{found['score'].n} conversations, {tokens} critique tokens, {ended} critiques ended by themselves")
        for line in format_table(dtype, found):
            _print(line)
        faults = find_faults(checkpoint, found, exact=facts.exact, tolerance=self.tolerance)
        for fault in faults:
            _print(f"FAILED: {fault}")
        if self.report is not None:
            from ..verify_report import write_report

            write_report(self.report, checkpoint, facts, compared, [*format_table(dtype, found), *faults])
            _print(f"wrote {self.report}")
        if self.json_line:
            _print(json.dumps(summarize(found, dtype) | {"model_version": checkpoint.manifest.version}))
        return int(bool(faults))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
