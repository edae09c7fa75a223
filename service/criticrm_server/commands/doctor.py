"""`criticrm doctor`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from pydantic import Field
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from ..doctor import examine
from ..findings import Finding
from ..settings import Settings


class Doctor(Settings):
    """Check this machine, this installation and this checkpoint before serving.

    Takes the options and variables of `serve`, and checks what they would start. Exits with 1 if there is a problem.
    """

    # `json` is an alias, for it is taken by pydantic; without this its variable would be JSON, not CRITICRM_JSON.
    model_config = SettingsConfigDict(env_prefix_target="all")

    as_json: CliImplicitFlag[bool] = Field(False, alias="json", description="Print one JSON object instead of lines.")
    start: CliImplicitFlag[bool] = Field(
        False, description="Also start the engine and run its self-check, which takes half a minute or more."
    )

    def run(self) -> int:
        findings = list(examine(self, start=self.start))
        worst = "problem" if any(finding.level == "problem" for finding in findings) else "ok"
        if self.as_json:
            sys.stdout.write(json.dumps({"verdict": worst, "findings": [asdict(f) for f in findings]}, indent=2) + "\n")
        else:
            show(findings)
        return int(worst == "problem")


def show(findings: Sequence[Finding]) -> None:
    """A line for each, and one for its advice."""
    for finding in findings:
        mark = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}[finding.level]
        sys.stdout.write(f"{mark}  {finding.subject:<14}{finding.text}\n")
        if finding.advice:
            sys.stdout.write(f"{'':<23}-> {finding.advice}\n")
