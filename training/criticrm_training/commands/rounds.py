"""`criticrm rounds`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict


class Rounds(BaseSettings):
    """Train a Critic-RM in rounds: sample critiques, filter, refine, train, and again from the new critic.

    CONFIG is a YAML file, one an arm; `criticrm_training/configs/rounds-reasoning.yaml` is one to start from. Every
    step is a `criticrm` command of its own, which is printed before it runs. After each round a table says what was
    kept and what the critic is worth on the validation pairs. A second run with the same arguments continues where the
    first stopped, in the middle of a step too.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_ROUNDS_", frozen=True, cli_kebab_case=True)

    config: CliPositionalArg[Path] = Field(description="YAML file that describes the rounds.")
    out: Path = Field(description="Folder for all rounds: round-1/sampled, filtered, critic and so on.")

    def run(self) -> int:
        from ..rounds.config import RoundsConfig
        from ..rounds.run import rounds

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        rounds(RoundsConfig.read(self.config), self.out)
        return 0
