"""`criticrm fit-head`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, SettingsConfigDict

from criticrm_model.instruction import DEFAULT_CRITIQUE_INSTRUCTION
from criticrm_model.manifest import DEFAULT_NAME

from ..data.overlong import OVERLONG, Overlong
from .options import PAIRS


class FitHead(BaseSettings):
    """Fit a reward row on the frozen hidden states of any causal LM, and write a Critic-RM checkpoint.

    The model's own greedy critique is written for each response; the row is fitted with Bradley-Terry before and
    after it. Takes minutes on a GPU, an hour or more on a CPU; a second run with the same inputs continues where
    the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_FIT_", frozen=True, cli_kebab_case=True)

    data: CliPositionalArg[str] = Field(description=PAIRS)
    out: Path = Field(description="Folder for the checkpoint (or for the row alone, with --head-only).")
    base: str = Field(
        DEFAULT_NAME,
        description="Folder or hub name of an instruction-tuned causal LM; 'default' is the embedded checkpoint's.",
    )
    heldout: str | None = Field(None, description="Pairs for reporting only; never fitted on.")
    instruction: str = Field(DEFAULT_CRITIQUE_INSTRUCTION, description="Instruction for a critique.")
    max_critique_tokens: PositiveInt = Field(
        64, description="Longest critique, in tokens; becomes the service's default for this checkpoint."
    )
    critique_pairs: int = Field(
        0,
        ge=0,
        description="Write critiques for only this many pairs of each set (0: all); the others only fit the direct "
        "score.",
    )
    folds: int = Field(
        10,
        ge=2,
        description="Splits of the questions, for choosing the ridge and for the accuracy on unseen questions.",
    )
    batch_size: PositiveInt = Field(32, description="Responses in one batch.")
    max_model_len: PositiveInt = Field(
        4096, description="Longest prompt with its response and critique, in tokens; the service's default."
    )
    overlong: Overlong = Field("drop", description=f"{OVERLONG} Held-out pairs are always truncated.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Precision of the frozen body.")
    work_dir: Path | None = Field(
        None, description="Folder for finished batches, from which a second run resumes. Default: OUT/features."
    )
    head_only: CliImplicitFlag[bool] = Field(
        False, description="Write reward.safetensors and reward.json, not the model."
    )

    def run(self) -> int:
        from ..linear_probe.fit import FitSettings, fit

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        fit(FitSettings(**dict(self)))
        return 0
