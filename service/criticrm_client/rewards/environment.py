"""Where the service is, for reward functions that a configuration file can only name: variables, read at first use.

CRITICRM_URL             of the service; several, separated by commas, share the load
CRITICRM_KEY             of the service, where it asks for one
CRITICRM_MODEL_VERSION   of the checkpoint, so that no worker of a run takes rewards from another one
CRITICRM_CRITERIA_COLUMN, CRITICRM_REFERENCE_COLUMN
                         columns of the data set that the critic reads: what to judge by, and a correct answer
CRITICRM_REWARD_OPTIONS  as JSON: {"critique": {"n": 4, "seed": 1}, "on_overflow": "truncate", "normalize": true}
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from .. import environment
from ..arguments import Options
from ..environment import KEY, URL, key
from ..fields import field_name
from ..schemas import ScoreOptions

__all__ = [
    "COLUMNS",
    "KEY",
    "MODEL_VERSION",
    "REWARD_OPTIONS",
    "URL",
    "judged_by",
    "key",
    "model_version",
    "options",
    "urls",
]

COLUMNS = {"criteria": "CRITICRM_CRITERIA_COLUMN", "reference": "CRITICRM_REFERENCE_COLUMN"}
REWARD_OPTIONS, MODEL_VERSION = "CRITICRM_REWARD_OPTIONS", "CRITICRM_MODEL_VERSION"


def urls() -> list[str]:
    """Raises ValueError where none is told: a run must not train on whatever answers on this machine."""
    found = environment.urls()
    if not found:
        raise ValueError(f"{URL} is not set: the address of the Critic-RM service, such as http://127.0.0.1:8000")
    return found


def model_version() -> str | None:
    return os.environ.get(MODEL_VERSION) or None


def judged_by(row: Mapping[str, Any]) -> dict[str, Any]:
    """The criteria and the reference of a row, where the variables name columns of it; None and NaN are none.

    Raises:
        ValueError: the row has no such column, or something else than text in it.
    """
    found = {}
    for field, variable in COLUMNS.items():
        name = os.environ.get(variable)
        if not name:
            continue
        if name not in row:
            raise ValueError(f"{variable}: there is no column {name!r}; there are: {', '.join(map(str, row))}")
        value = row[name]
        if isinstance(value, float) and math.isnan(value):  # what pandas makes of a missing one
            continue
        if isinstance(value, float) and math.isinf(value):
            raise ValueError(f"{variable}: the column {name!r} holds {value}, which is no {field}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if value is not None:
            found[field] = value
    return found


def options() -> Options:
    """Raises ValueError with the variable, the option and its fault."""
    told = os.environ.get(REWARD_OPTIONS)
    if not told:
        return Options()
    try:
        found = ScoreOptions.model_validate_json(told)
    except ValidationError as error:
        fault = error.errors()[0]
        where = f".{field_name(fault['loc'])}" if fault["loc"] else ""
        raise ValueError(f"{REWARD_OPTIONS}{where}: {fault['msg']}") from error
    given: dict[str, Any] = found.model_dump(exclude_unset=True)
    return cast(Options, given)
