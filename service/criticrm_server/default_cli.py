"""`criticrm default build`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict


class Default(BaseSettings):
    """Assemble the embedded default checkpoint in the cache folder, and print where it is.

    `criticrm serve` does this by itself; build images and offline machines do it beforehand.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_", env_ignore_empty=True, frozen=True, cli_kebab_case=True)

    action: CliPositionalArg[Literal["build"]] = Field(description="What to do.")
    cache: Path | None = Field(None, description="Cache folder; the user's own unless given.")

    def run(self) -> int:
        from criticrm_model.default import build_default

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        sys.stdout.write(f"{build_default(self.cache)}\n")
        return 0
