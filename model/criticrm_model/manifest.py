"""`critic_rm.json`: what a checkpoint says of itself, beside the weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, PositiveInt, ValidationError

from .errors import CheckpointError
from .files import write_text

MANIFEST_NAME = "critic_rm.json"
REWARD_TOKEN = "<|reward|>"
DEFAULT_NAME = "default"  # the embedded checkpoint

DEFAULT_CRITIQUE_INSTRUCTION = (
    "In two sentences, review the assistant's last reply: is it correct, helpful and harmless, "
    "and what is wrong with it?"
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Moments(_Frozen):
    """Mean and standard deviation of a score over the reference set, in reward units."""

    mean: FiniteFloat
    std: PositiveFloat


class Calibration(_Frozen):
    """Bradley-Terry leaves a reward's offset and scale free, so a checkpoint carries its own.

    The two positions are different random variables: each has its own moments.
    """

    reference_set: str = Field(description="Which responses the moments were taken over.")
    n: PositiveInt = Field(description="How many responses.")
    direct_score: Moments
    score: Moments


class TrainingData(_Frozen):
    """One preference file the reward was fitted on."""

    name: str
    pairs: PositiveInt
    sha256: str


class RewardCard(_Frozen):
    """What is known of a reward vector before it is folded into a model: `reward.json` beside the vector.

    Attributes:
        max_critique_tokens: the longest critique the reward was fitted on, so the default when serving:
            a reward that has seen short critiques means little after long ones.
    """

    critique_instruction: str = Field(min_length=1)
    max_critique_tokens: PositiveInt = 256
    base_model: str
    training_data: tuple[TrainingData, ...] = ()
    calibration: Calibration | None = None


class Manifest(RewardCard):
    """The contents of `critic_rm.json`.

    Attributes:
        reward_row_sha256: of the LM-head row as float32 little-endian bytes, `[d_model]`.
    """

    format_version: Literal[1] = 1
    reward_token: str = REWARD_TOKEN
    reward_token_id: int = Field(ge=0)
    reward_row_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def version(self) -> str:
        """Short name of this reward: changes with the reward row, the base and what the base is asked."""
        identity = "\0".join((self.reward_row_sha256, self.base_model, self.critique_instruction))
        return hashlib.sha256(identity.encode()).hexdigest()[:12]

    def save(self, folder: Path) -> None:
        write_text(folder / MANIFEST_NAME, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Raises CheckpointError if the file is missing or malformed, naming the fields."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise CheckpointError(
                f"{folder} has no {MANIFEST_NAME}: it is not a Critic-RM checkpoint. "
                "Make one with `criticrm fit-head`, or serve the embedded one with MODEL=default."
            )
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise CheckpointError(f"{path} is malformed: {faults}") from error
