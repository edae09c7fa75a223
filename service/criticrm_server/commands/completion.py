"""`criticrm completion`."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict


class Completion(BaseSettings):
    """Print a script with which the shell completes commands, options and files.

    For bash: criticrm completion bash > ~/.local/share/bash-completion/completions/criticrm

    For zsh: criticrm completion zsh > a folder of your fpath, as _criticrm
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_COMPLETION_", frozen=True, cli_kebab_case=True)

    shell: CliPositionalArg[Literal["bash", "zsh", "tcsh"]] = Field(description="The shell.")

    def run(self) -> int:
        import shtab

        sys.stdout.write(shtab.complete(_parser(), self.shell) + "\n")
        return 0


def _parser() -> argparse.ArgumentParser:
    """A parser with all commands whose packages are installed."""
    import shtab

    from ..command_line import all_actions, parser_of

    parser = argparse.ArgumentParser("criticrm")
    subparsers = parser.add_subparsers()
    for point in entry_points(group="criticrm.commands"):
        try:
            command = point.load()
        except ModuleNotFoundError:  # its extra is not installed
            continue
        its_own, _ = parser_of(point.name, command)
        summary = str(command.__doc__).splitlines()[0]
        subparsers.add_parser(point.name, parents=[its_own], add_help=False, help=summary.replace("%", "%%"))
    for action in all_actions(parser):
        if action.type in (Path, str) or (action.nargs != 0 and action.choices is None):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's
    return parser
