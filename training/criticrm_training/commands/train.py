"""`criticrm train`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, SettingsConfigDict


class Train(BaseSettings):
    """Train a Critic-RM on preference pairs and their critiques.

    CONFIG is a YAML file; `criticrm_training/configs/laptop.yaml` is one to start from. `critiques` are those
    that the model learns to write, `reward_critiques` those that the reward is read after: filtered ones for the
    first, a fresh sample for the second. A second run with the same arguments continues where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_TRAIN_", frozen=True, cli_kebab_case=True)

    config: CliPositionalArg[Path] = Field(description="YAML file that describes the run.")
    out: Path = Field(description="Folder for the checkpoint; a second run continues from its subfolder `trainer`.")
    scalar: CliImplicitFlag[bool] = Field(
        False,
        description="Train the matched scalar baseline: the same pairs, optimizer steps and weights of the reward "
        "loss, without critiques. OUT/summary.json of both says how much their reward was trained "
        "(reward_weight_times_rate); if these differ, the runs can't be compared.",
    )

    def run(self) -> int:
        from ..training.run import train
        from ..training.train_config import TrainConfig

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        train(TrainConfig.read(self.config), self.out, self.scalar)
        return 0
