"""All rounds of an experiment's arm in one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from criticrm_model.manifest import DEFAULT_NAME

from ..critiques.critique_task import Tasks, load_tasks
from ..critiques.filter import Filtered, QualityBounds, check_solved, filter_critiques
from ..critiques.records import Critique
from ..data.pairs import PreferencePair
from ..faults import format_faults
from ..training.train_config import ConfigError, TrainConfig, read_yaml

_COMPARISON_TOKENS = 64  # of the line after a derivation that was written blind


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Frozen):
    """`criticrm critiques sample` in each round."""

    n: PositiveInt = Field(
        4, description="Critiques of each response; where written blind, derivations of each prompt."
    )
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt | None = Field(None, description="Longest critique, in tokens. Default: the task's.")
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
    solved: bool = Field(
        True,
        description="By verdict, keep a critique only if its own answer is the chosen response's as well: a wrong "
        "solution calls a wrong response wrong by luck.",
    )
    ignore_labels: bool = False
    least_words: NonNegativeInt = 4
    most_repeats: float = Field(0.2, ge=0, le=1)
    most_sentences: PositiveInt | None = None
    most_alike: PositiveInt | None = None

    @property
    def by_answer(self) -> bool:
        """Whether critiques must have solved their problem."""
        return self.solved and self.by == "verdict" and not self.ignore_labels

    def apply(self, critiques: Sequence[Critique], pairs: Sequence[PreferencePair], tasks: Tasks) -> Filtered:
        """What `criticrm critiques filter` makes of them with these options."""
        quality = QualityBounds(self.least_words, self.most_repeats, self.most_sentences, self.most_alike)
        solved = check_solved(pairs, tasks.rules(pair.category for pair in pairs)) if self.by_answer else None
        return filter_critiques(
            critiques, quality, by=self.by, per_side=self.per_side, ignore_labels=self.ignore_labels, solved=solved
        )


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
        {"default": "general"}, description="The critique task of each category (`critiques sample --task`)."
    )
    rounds: PositiveInt = 2
    accumulate: bool = Field(False, description="Learn from the critiques kept in earlier rounds as well.")
    folds: PositiveInt = Field(
        1,
        description="Number of folds; 2 or more trains a critic for each fold, in all rounds but the last, on the "
        "pairs of the other folds. It then critiques the pairs that it was not trained on. Needed where "
        "critiques are filtered by reward, since a critic's reward agrees with the labels of its own "
        "training pairs. Costs one training for each fold.",
    )
    limit: NonNegativeInt = Field(
        0, description="Use only this many training pairs, chosen by the hash of their question."
    )
    validation_pairs: PositiveInt = Field(
        100, description="Validation pairs, measured after each round with fresh greedy critiques."
    )
    writer: Literal["auto", "vllm", "transformers"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: PositiveInt = Field(4096, description="Longest prompt plus critique while sampling, in tokens.")
    sample: Sampling = Sampling()
    filter: Filtering = Filtering()
    refine: Refining | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    first_train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _measure_what_no_round_has_seen(self) -> RoundsConfig:
        if "validation_share" in self.first_train:
            raise ValueError("first_train.validation_share: all rounds are measured on the same pairs; set it in train")
        return self

    @model_validator(mode="after")
    def _filter_by_unseen_scores(self) -> RoundsConfig:
        if self.filter.by == "score" and not self.filter.ignore_labels and self.rounds > 1 and self.folds == 1:
            raise ValueError(
                "folds: later rounds filter by the reward of a critic, which has learnt the labels of its own training "
                "pairs; give folds 2 or more, or filter by verdict"
            )
        return self

    @classmethod
    def read(cls, path: Path) -> RoundsConfig:
        """Raises ConfigError: a field is wrong, of the training too. Raises TaskError: a task is."""
        config = read_yaml(path, cls)
        config._check_tasks(path)
        for number in {1, config.rounds}:
            try:
                config.train_config(number)
            except ValidationError as error:
                raise ConfigError("\n  ".join([f"{path}, train, is wrong:", *format_faults(error)])) from error
        return config

    @cached_property
    def instruction(self) -> str:
        """The one that the critics are trained and served with.

        Raises:
            ConfigError: the tasks have several, and `train` says none.
        """
        if "instruction" in self.train:
            return str(self.train["instruction"])
        asked = {task.instruction for task in self.loaded_tasks.by_category.values()}
        if len(asked) > 1:
            raise ConfigError(
                "train.instruction: the tasks have different instructions, and a checkpoint is served with one; "
                "set it here"
            )
        return asked.pop()

    def train_fields(self, number: int) -> dict[str, Any]:
        """The fields of `criticrm train` in round `number`, from 1, without the critiques."""
        longest = self.sample.max_tokens or max(task.max_tokens for task in self.loaded_tasks.by_category.values())
        ours = {
            "base": self.base,
            "data": self.data,
            "instruction": self.instruction,
            "max_critique_tokens": longest + _COMPARISON_TOKENS,
        }
        return ours | self.train | (self.first_train if number == 1 else {})

    def train_config(self, number: int) -> TrainConfig:
        """Raises pydantic's ValidationError."""
        return TrainConfig.model_validate(self.train_fields(number))

    @cached_property
    def loaded_tasks(self) -> Tasks:
        return load_tasks([f"{category}={name}" for category, name in self.tasks.items()])

    def _check_tasks(self, path: Path) -> None:
        """Raises ConfigError: a task lacks what the rounds need of it."""
        needed = {"derive"} if self.sample.blind == "first" else set()
        if self.sample.blind == "first" or (self.filter.by == "verdict" and not self.filter.ignore_labels):
            needed.add("verdict")
        for category, task in self.loaded_tasks.by_category.items():
            if missing := sorted(name for name in needed if getattr(task, name) is None):
                raise ConfigError(
                    f"{path}: tasks.{category}: {self.tasks[category]} has no {' and no '.join(missing)}, which "
                    "`sample.blind: first` and `filter.by: verdict` need; take another task, such as reasoning, or set "
                    "`blind: never` and `by: score`"
                )
