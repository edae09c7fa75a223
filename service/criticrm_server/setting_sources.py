"""Where settings come from: flags, then `CRITICRM_` variables, then the file that `--config` names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from criticrm_client.fields import field_name, nearest

PREFIX = "CRITICRM_"
# Of the SDK and of reward functions (criticrm_client), of the cache folder; the Makefile's are names of `serve`.
OTHER_VARIABLES = frozenset(
    {
        "CRITICRM_CACHE",
        "CRITICRM_CRITERIA_COLUMN",
        "CRITICRM_KEY",
        "CRITICRM_MODEL_VERSION",
        "CRITICRM_REFERENCE_COLUMN",
        "CRITICRM_REWARD_OPTIONS",
        "CRITICRM_URL",
    }
)
# Of commands whose variables have a prefix of their own, which they check themselves.
OTHER_PREFIXES = (
    "CRITICRM_BENCHMARK_",
    "CRITICRM_BEST_OF_N_",
    "CRITICRM_COMPLETION_",
    "CRITICRM_CONTROL_",
    "CRITICRM_CORRECT_",
    "CRITICRM_CRITIQUES_",
    "CRITICRM_DECONTAMINATE_",
    "CRITICRM_EVALUATE_",
    "CRITICRM_EXPORT_",
    "CRITICRM_FIT_",
    "CRITICRM_IMPORT_",
    "CRITICRM_JUDGE_",
    "CRITICRM_PROBE_",
    "CRITICRM_REPORT_",
    "CRITICRM_ROUNDS_",
    "CRITICRM_SCORE_",
    "CRITICRM_TRAIN_",
)
_OF_KUBERNETES = re.compile(r"CRITICRM_(.*_)?(SERVICE_(HOST|PORT)(_.+)?|PORT_\d+_(TCP|UDP)(_.+)?)")


class ConfigFile(PydanticBaseSettingsSource):
    """The settings of a YAML or TOML file. Its keys are the names of the flags, with hyphens or underscores."""

    def get_field_value(self, *_: Any) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole file is read at once

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if not path:
            return {}
        found = self._read(Path(path))
        settings = {str(key).replace("-", "_"): value for key, value in found.items()}
        if len(settings) < len(found):
            twice = sorted(key for key in found if "-" in str(key) and str(key).replace("-", "_") in found)
            raise SettingsError(f"{path}: set twice, with hyphens and with underscores: {', '.join(twice)}")
        known = field_names(self.settings_cls) - {"config"}
        if unknown := [f"{name}{nearest(name, known)}" for name in settings if name not in known]:
            raise SettingsError(f"{path}: unknown settings: {', '.join(unknown)}")
        return settings

    def _read(self, path: Path) -> dict[str, Any]:
        if path.suffix not in (".toml", ".yaml", ".yml"):
            raise SettingsError(f"{path}: a file of settings is named .yaml, .yml or .toml")
        if not path.is_file():  # pydantic-settings passes over it
            raise SettingsError(f"{path}: there is no such file")
        try:
            if path.suffix == ".toml":
                return TomlConfigSettingsSource(self.settings_cls, path).toml_data
            return YamlConfigSettingsSource(self.settings_cls, path).yaml_data
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from error
        except Exception as error:  # YAML's and TOML's errors, and what a list or a lone word leads to
            raise SettingsError(f"{path} is not a file of settings: {error}") from error


def field_names(command: type[BaseSettings]) -> set[str]:
    """What its settings are called in a file and, in capitals after the prefix, in the environment."""
    return {field.alias or name for name, field in command.model_fields.items()}


def unknown_variables(command: type[BaseSettings], environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable under the command's prefix that nothing reads."""
    prefix = str(command.model_config.get("env_prefix"))
    if not prefix.startswith(PREFIX):
        return []
    known = {f"{prefix}{name}".upper() for name in field_names(command)}
    passed: tuple[str, ...] = ()
    if prefix == PREFIX:
        known |= OTHER_VARIABLES | _variables_of_the_other_commands()
        passed = OTHER_PREFIXES
    names = sorted(name for name in environment if name.upper().startswith(prefix))
    return [
        f"{name}: there is no such variable{_hint(name.upper(), known)}"
        for name in names
        if name.upper() not in known and not name.upper().startswith(passed)
    ]


def origin_of(
    location: Sequence[str | int],
    command: type[BaseSettings],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    config: str | None = None,
) -> str:
    """Where the value of a setting came from: its flag, its variable, or its key in the file.

    Args:
        location: of the fault, as pydantic gives it; its first part is the setting.
        arguments: of the command line.
    """
    name = str(location[0])
    flag = f"--{name.replace('_', '-')}"
    rest = field_name(tuple(location)).removeprefix(name)
    if any(argument.partition("=")[0] in (flag, f"--no-{flag[2:]}") for argument in arguments):
        return flag + rest.replace("_", "-")
    variable = f"{command.model_config.get('env_prefix')}{name}".upper()
    found = next((given for given in environment if given.upper() == variable), None)
    if found is not None:
        return found + rest
    if not config and command.model_config.get("env_prefix") == PREFIX:
        config = _config_file(arguments, environment)
    if config:
        return f"{name}{rest} in {config}"
    return flag + rest.replace("_", "-")


def _config_file(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--config":
            return value if equals else next(iter(arguments[position + 1 :]), None)
    return environment.get(f"{PREFIX}CONFIG")


def _variables_of_the_other_commands() -> set[str]:
    """The variables of all commands with this prefix: `serve`, `verify`, `doctor` and `default`."""
    names: set[str] = set()
    for point in entry_points(group="criticrm.commands"):
        if not point.module.startswith("criticrm_server."):
            continue
        try:
            other = point.load()
        except ModuleNotFoundError:  # its extra is not installed
            continue
        if other.model_config.get("env_prefix") == PREFIX:
            names |= {f"{PREFIX}{name}".upper() for name in field_names(other)}
    return names


def _hint(name: str, known: Iterable[str]) -> str:
    if _OF_KUBERNETES.fullmatch(name):
        return "; Kubernetes sets it for a service of this name: set enableServiceLinks to false"
    return nearest(name, sorted(known))
