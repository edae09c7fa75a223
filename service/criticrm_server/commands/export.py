"""`criticrm export`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, SettingsConfigDict


class Export(BaseSettings):
    """Write a checkpoint's direct score as a model that other tools load (docs/import.md).

    TRL, vLLM's `/classify` and the `rewardbench` command take a sequence classifier with one label. Its chat template
    renders what the checkpoint reads, a critic's request for a critique included.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_EXPORT_", frozen=True, cli_kebab_case=True)

    checkpoint: CliPositionalArg[str] = Field(description="Folder, hub name, or 'default'.")
    out: Path = Field(description="Folder for what is written.")
    sequence_classification: CliImplicitFlag[bool] = Field(
        False, description="As transformers' AutoModelForSequenceClassification: the only form, so far."
    )
    drop_offset: CliImplicitFlag[bool] = Field(
        False, description="Leave out the offset of an imported reward: all rewards change by the same constant."
    )

    @model_validator(mode="after")
    def _has_a_form(self) -> Self:
        if not self.sequence_classification:
            raise ValueError("choose a format: --sequence-classification")
        return self

    def run(self) -> int:
        from transformers.utils.logging import set_verbosity_error

        from criticrm_model.checkpoint import Checkpoint
        from criticrm_model.default import resolve
        from criticrm_model.importing.exporter import export_classifier

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        set_verbosity_error()  # a table of the weights that a classifier has and a causal LM has not
        largest = export_classifier(Checkpoint.open(resolve(self.checkpoint)), self.out, drop_offset=self.drop_offset)
        sys.stdout.write(f"wrote {self.out}: its rewards differ from the checkpoint's by {largest:.1e} at the most\n")
        return 0
