"""What `/v1/model` returns."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import Field

from ..error_body import Received

ManifestT = TypeVar("ManifestT")
CheckT = TypeVar("CheckT")


class ServedModel(Received, Generic[ManifestT, CheckT]):
    """The checkpoint and the server's limits on it, whatever the manifest is read as."""

    model: str
    model_version: str
    revision: str | None = Field(
        None, description="Commit on the Hugging Face hub that the checkpoint was downloaded from; null for a folder."
    )
    manifest: ManifestT
    max_model_len: int
    limits: dict[str, int | float]
    engine: dict[str, str] = Field(
        default_factory=dict, description="The engine's version, runner, precision and so on."
    )
    self_check: list[CheckT] = Field(
        default_factory=list, description="The checks that were run before requests were accepted."
    )


class ModelInfo(ServedModel[dict[str, Any], dict[str, Any]]):
    """The checkpoint that is served, and the server's limits; the manifest as its critic_rm.json has it."""

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The names of a model's rewards; empty if it has only one."""
        names = tuple(str(reward["name"]) for reward in self.manifest.get("rewards", ()))
        return names if len(names) > 1 else ()
