"""The `criticrm` command: each subcommand is a settings class with a `run`, found by its entry point."""

from __future__ import annotations

import gc
import os
import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import NoReturn

from pydantic import ValidationError

from criticrm_client.fields import nearest
from criticrm_model import CriticRMError

from .command_groups import usage

# The hundreds of thousands of objects that a command imports live as long as its process: looking through them for
# garbage every 700 new ones is a seventh of its start. vLLM's processes import this module too.
gc.set_threshold(10_000, 10, 10)


def main() -> NoReturn:
    """Run one subcommand and exit with its code: 2 for a wrong call, 1 for a failure that is explained."""
    commands = {point.name: point for point in entry_points(group="criticrm.commands")}
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        _write(usage({name: _summary(point) for name, point in commands.items()}))
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        _write(version("critic-rm"))
        sys.exit(0)
    name, rest = arguments[0], arguments[1:]
    if name not in commands:
        hint = nearest(name, commands) or f"; there are: {', '.join(sorted(commands))}"
        _fail(name, f"no such command{hint}. `criticrm --help` describes them", code=2)
    try:
        # Here, for the base install brings this command but not what its subcommands are made of.
        from pydantic_settings import SettingsError

        from .command_line import parser_of

        command = commands[name].load()
    except ModuleNotFoundError as error:
        _fail_missing(commands[name], error)
    from .setting_sources import origin_of, unknown_variables

    settings, faults = None, unknown_variables(command, os.environ)
    try:
        _, source = parser_of(name, command)
        settings = command(_cli_settings_source=source(args=rest))
    except ValidationError as error:
        for fault in error.errors():
            origin = f"{origin_of(fault['loc'], command, rest, os.environ)}: " if fault["loc"] else ""
            faults.append(f"{origin}{fault['msg'].removeprefix('Value error, ')}")
    except SettingsError as error:
        faults.append(str(error))
    if settings is None or faults:
        _fail(name, "\n  ".join(["invalid settings", *faults]), code=2)
    try:
        code = settings.run()
    except CriticRMError as error:
        _fail(name, str(error), code=1)
    except ModuleNotFoundError as error:  # heavy packages are imported by `run`
        _fail_missing(commands[name], error)
    except OSError as error:
        _fail(name, f"{error.filename}: {error.strerror}" if error.filename else str(error), code=1)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _summary(command: EntryPoint) -> str:
    try:
        return str(command.load().__doc__).splitlines()[0]
    except ModuleNotFoundError:
        return f"(not installed: pip install {_extras(command)})"


def _extras(command: EntryPoint) -> str:
    """What brings the packages that the command imports."""
    if command.module.startswith("criticrm_training."):
        return "'critic-rm[train]'"
    if command.name == "score":
        return "'critic-rm[score]', for --offline also [serve] (GPU) or [serve-cpu]"
    if command.name in ("doctor", "serve", "verify"):
        return "'critic-rm[serve]' (GPU) or [serve-cpu]"
    return "'critic-rm[serve]' (GPU), [serve-cpu] or [train]"


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail_missing(command: EntryPoint, error: ModuleNotFoundError) -> NoReturn:
    needs = f"this command needs an extra that is not installed: pip install {_extras(command)}"
    _fail(command.name, f"{error}; {needs}", code=1)


def _fail(name: str, message: str, code: int) -> NoReturn:
    sys.stderr.write(f"criticrm {name}: {message}\n")
    sys.exit(code)
