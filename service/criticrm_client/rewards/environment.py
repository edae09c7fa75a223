"""Where the service is, for reward functions that a configuration file can only name: variables, read at first use.

CRITICRM_URL             of the service; several, separated by commas, share the load
CRITICRM_KEY             of the service, where it asks for one
CRITICRM_MODEL_VERSION   of the checkpoint, so that no worker of a run takes rewards from another one
CRITICRM_REWARD_OPTIONS  as JSON: {"critique": {"n": 4, "seed": 1}, "on_overflow": "truncate", "normalize": true}
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError

from ..types import CritiqueOptions, Options

URL, KEY, REWARD_OPTIONS = "CRITICRM_URL", "CRITICRM_KEY", "CRITICRM_REWARD_OPTIONS"
MODEL_VERSION = "CRITICRM_MODEL_VERSION"


class _Options(BaseModel):
    """`types.Options`, strictly: a misspelt one would train on another reward."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    critique: Annotated[
        Annotated[bool, Tag("<flag>")] | Annotated[CritiqueOptions, Tag("<options>")],
        Discriminator(lambda value: "<options>" if isinstance(value, dict | CritiqueOptions) else "<flag>"),
    ] = True
    on_overflow: Literal["error", "truncate"] = "error"
    normalize: bool = False


def urls() -> list[str]:
    """Raises ValueError where none is told: a run must not train on whatever answers on this machine."""
    found = [url.strip() for url in os.environ.get(URL, "").split(",") if url.strip()]
    if not found:
        raise ValueError(f"{URL} is not set: the address of the Critic-RM service, such as http://127.0.0.1:8000")
    for url in found:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{URL}: {url!r} does not begin with http:// or https://")
    return found


def key() -> str | None:
    return os.environ.get(KEY) or None


def model_version() -> str | None:
    return os.environ.get(MODEL_VERSION) or None


def options() -> Options:
    """Raises ValueError with the variable, the option and its fault."""
    told = os.environ.get(REWARD_OPTIONS)
    if not told:
        return Options()
    try:
        found = _Options.model_validate_json(told)
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f".{part}" for part in fault["loc"] if part not in ("<flag>", "<options>"))
        raise ValueError(f"{REWARD_OPTIONS}{where}: {fault['msg']}") from error
    given: dict[str, Any] = found.model_dump(exclude_unset=True)
    return cast(Options, given)
