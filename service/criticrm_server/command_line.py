"""The parser of each command, which says what it takes and what was probably meant."""

from __future__ import annotations

import argparse
from inspect import cleandoc
from typing import NoReturn

from pydantic_settings import BaseSettings, CliSettingsSource

from criticrm_client.fields import nearest


class Parser(argparse.ArgumentParser):
    """The parser of a command; its errors fit on two lines and name the next step."""

    def error(self, message: str) -> NoReturn:
        words, _, unknown = message.partition("unrecognized arguments: ")
        if not words and unknown:
            name = unknown.split()[0].partition("=")[0]
            message += nearest(name, [flag for action in all_actions(self) for flag in action.option_strings])
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` lists what it takes\n")


def parser_of(name: str, command: type[BaseSettings]) -> tuple[Parser, CliSettingsSource[Parser]]:
    """The parser of `criticrm NAME`, and the source of settings that reads by it."""
    parser = Parser(
        prog=f"criticrm {name}",
        description=cleandoc(str(command.__doc__)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source: CliSettingsSource[Parser] = CliSettingsSource(command, root_parser=parser, cli_hide_none_type=True)
    for action in all_actions(parser):  # its own text says what happens then
        action.help = (action.help or "").removesuffix(" (default: null)") or None
    return parser, source


def all_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The actions of a parser and of its subcommands."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            found += [inner for one in action.choices.values() for inner in all_actions(one)]
    return found
