"""`criticrm default`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict


class Default(BaseSettings):
    """Assemble the embedded default checkpoint, or the base that it was trained from, and print where it is.

    `criticrm serve` builds by itself; where there will be no network, do it beforehand. The base is an ordinary
    instruction-tuned model, for whatever takes one: `criticrm critiques sample --model default-base`.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_", env_ignore_empty=True, frozen=True, cli_kebab_case=True)

    action: CliPositionalArg[Literal["build", "base"]] = Field(
        description="What to build: 'build' is the checkpoint, 'base' its base model."
    )
    cache: Path | None = Field(None, description="Cache folder. Default: the user's cache folder.")

    def run(self) -> int:
        from criticrm_model.default import build_base, build_default

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        build = {"build": build_default, "base": build_base}[self.action]
        sys.stdout.write(f"{build(self.cache)}\n")
        return 0
