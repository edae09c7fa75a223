"""`criticrm control`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from .options import RULE


class Control(BaseSettings):
    """Check a training configuration with critiques whose worth is known, before a long experiment.

    CONFIG is a file of `criticrm train`, whose pairs have a `reference` that ends in an answer; its critiques are not
    used. Runs five trainings: without critiques (scalar), with correct critiques (oracle), with the same ones shuffled
    (shuffled), and with random verdicts of which those that agree with the label are kept, for both losses (coupled)
    or for the critique loss alone (decoupled). Prints
    accuracies on training pairs (seen), on held-out ones (unseen), and on these after critiques kept by label
    (unseen-kept). Exit status 1 if a check fails. A second run continues where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_CONTROL_", frozen=True, cli_kebab_case=True)

    config: CliPositionalArg[Path] = Field(description="YAML file of `criticrm train`.")
    out: Path = Field(description="Folder for the five runs and control.json.")
    task: list[str] = Field(["reasoning"], description=RULE)

    def run(self) -> int:
        from ..control import control
        from ..critiques.critique_task import load_tasks
        from ..training.train_config import TrainConfig

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        report = control(TrainConfig.read(self.config), self.out, load_tasks(self.task))
        return 0 if all(report["checks"].values()) else 1
