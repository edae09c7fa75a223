"""`criticrm report`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict


class Report(BaseSettings):
    """Draw one HTML page from finished evaluations and training runs."""

    model_config = SettingsConfigDict(env_prefix="CRITICRM_REPORT_", frozen=True, cli_kebab_case=True)

    out: CliPositionalArg[Path] = Field(description="The HTML file to write.")
    evaluations: dict[str, Path] = Field(
        default_factory=dict,
        description="Folders of `criticrm evaluate` and `judge`, by name: --evaluations critic=FOLDER, may be given "
        "several times. Those that are named SERIES@ANYTHING are drawn as one line against their training pairs.",
    )
    runs: dict[str, Path] = Field(
        default_factory=dict, description="Folders of `criticrm train`: --runs critic=FOLDER."
    )
    best_of_n: dict[str, Path] = Field(
        default_factory=dict, description="Folders of `criticrm best-of-n`: --best-of-n critic=FOLDER."
    )
    probes: dict[str, Path] = Field(
        default_factory=dict, description="Folders of `criticrm probe`: --probes critic=FOLDER."
    )

    def run(self) -> int:
        from ..reporting.report import write_report

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        write_report(self.out, self.evaluations, self.runs, self.best_of_n, self.probes)
        logging.getLogger(__name__).info("wrote %s", self.out)
        return 0
