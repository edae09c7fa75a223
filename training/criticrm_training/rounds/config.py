"""All rounds of an experiment's arm in one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from criticrm_model.manifest import DEFAULT_NAME

from ..training.config import TrainConfig, read_yaml


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Frozen):
    """`criticrm critiques sample` in each round."""

    n: PositiveInt = Field(4, description="Critiques a response; derivations a prompt where they are written blind.")
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt | None = Field(None, description="Longest critique; as its task says, if not given.")
    seed: int = 0
    blind: Literal["first", "never"] = Field(
        "first",
        description="In the first round derive the answer without the reply (--blind): a base that sees the reply "
        "copies it. Later rounds sample from the trained critic with the reply in sight.",
    )


class Filtering(_Frozen):
    """`criticrm critiques filter` in each round, by the names of its options."""

    by: Literal["score", "verdict"] = "verdict"
    per_side: bool = True
    least_words: NonNegativeInt = 4
    most_repeats: float = Field(0.2, ge=0, le=1)
    most_sentences: PositiveInt | None = None
    most_alike: PositiveInt | None = None


class Refining(_Frozen):
    """`criticrm critiques refine` in each round."""

    method: Literal["summ", "rank"]
    top_k: PositiveInt = 2
    max_tokens: PositiveInt = 96


class RoundsConfig(_Frozen):
    """What `criticrm rounds` does.

    Attributes:
        train: of each round, the fields of `criticrm train`'s file but `base`, `data` and the critiques.
        first_train: fields that replace those of `train` in the first round, such as `objective: {schedule: critique}`.
    """

    base: str = DEFAULT_NAME
    data: str = Field(description="Preference pairs.")
    tasks: dict[str, str] = Field(
        {"default": "general"}, description="What critiques are asked for, by category (`critiques sample --task`)."
    )
    rounds: PositiveInt = 2
    folds: PositiveInt = Field(
        1,
        description="From 2 on: in all rounds but the last a critic is trained for each fold, on the pairs of the "
        "others, and critiques the pairs that it has not seen: a critic's reward for its own training pairs filters "
        "nothing. Needed where critiques are filtered by reward; costs a training a fold.",
    )
    limit: NonNegativeInt = Field(0, description="Only so many training pairs, drawn by the hash of their question.")
    validation_pairs: PositiveInt = Field(100, description="Measured after each round, with fresh greedy critiques.")
    writer: Literal["auto", "vllm", "transformers"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    sample: Sampling = Sampling()
    filter: Filtering = Filtering()
    refine: Refining | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    first_train: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RoundsConfig:
        """Raises ConfigError: a field is wrong, of the training too."""
        config = read_yaml(path, cls)
        for number in (1, 2):
            config.training(number, Path("critiques"), Path("critiques"))
        return config

    def training(self, number: int, critiques: Path, reward_critiques: Path) -> TrainConfig:
        """Of round `number`, from 1. Raises pydantic's ValidationError."""
        fields = self.train | (self.first_train if number == 1 else {})
        return TrainConfig.model_validate(
            fields
            | {"base": self.base, "data": self.data, "critiques": critiques, "reward_critiques": reward_critiques}
        )
