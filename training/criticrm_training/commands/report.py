"""`criticrm report`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from .options import NamedFolders, by_name


class Report(BaseSettings):
    """Draw one HTML page from finished evaluations and training runs."""

    model_config = SettingsConfigDict(env_prefix="CRITICRM_REPORT_", frozen=True, cli_kebab_case=True)

    out: CliPositionalArg[Path] = Field(description="The HTML file to write.")
    evaluations: NamedFolders = Field(
        (),
        description="Folders of `criticrm evaluate` and `judge`, by the name of their arm: --evaluations "
        "critic=FOLDER. Repeatable. Folders with one name are training runs of one arm, and its intervals then cover "
        "runs as well as questions. Every arm is compared with the first. Arms named SERIES@ANYTHING are drawn as one "
        "line over the number of their training pairs.",
    )
    runs: NamedFolders = Field(
        (),
        description="Folders of `criticrm train`, by the name of their arm: --runs critic=FOLDER. Where arms were not "
        "trained on the same pairs, for the same steps, and with the same sum of reward weight times learning rate, "
        "the report says so.",
    )
    best_of_n: NamedFolders = Field((), description="Folders of `criticrm best-of-n`: --best-of-n critic=FOLDER.")
    probes: NamedFolders = Field((), description="Folders of `criticrm probe`: --probes critic=FOLDER.")

    @field_validator("best_of_n", "probes")
    @classmethod
    def _check_one_each(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        if several := sorted(name for name, paths in by_name(folders).items() if len(paths) > 1):
            raise ValueError(f"{', '.join(several)}: several folders under one name; give each its own")
        return folders

    def run(self) -> int:
        from ..reporting.report import write_report

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        best_of_n, probes = ({n: p for n, (p,) in by_name(f).items()} for f in (self.best_of_n, self.probes))
        write_report(self.out, by_name(self.evaluations), by_name(self.runs), best_of_n, probes)
        logging.getLogger(__name__).info("wrote %s", self.out)
        return 0
