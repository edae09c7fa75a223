"""A training run in a YAML file, every fault of it named at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from criticrm_model import CriticRMError
from criticrm_model.instruction import DEFAULT_CRITIQUE_INSTRUCTION, InstructionSlots
from criticrm_model.manifest import DEFAULT_NAME

from ..data.overlong import OVERLONG, Overlong
from ..faults import format_faults
from .objective import Objective

S = TypeVar("S", bound=BaseModel)
Cut = Literal["none", "random"]
CUT = (
    "'random': half of the critiques that the reward is read after end at a random token while training, so that the "
    "reward means something within a critique (`critique.stop` of /score ends critiques there)."
)


class _Loader(yaml.SafeLoader):
    """`1e-3` is a number, as in YAML 1.2; by YAML 1.1 it is text, for it has no dot."""


_Loader.add_constructor("!exponent", lambda _, node: _parse_number(str(node.value)))
_Loader.add_implicit_resolver("!exponent", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def _parse_number(text: str) -> float | int:
    """`1e3` is a whole number, which counts are."""
    value = float(text)
    return int(value) if value.is_integer() else value


class ConfigError(CriticRMError):
    """A training configuration is wrong; the message names every field that is."""


class ExcludedFold(BaseModel):
    """The fold of the questions that is left out: its number, from 0, among `n` (data/folds.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(ge=2)
    exclude: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_there(self) -> ExcludedFold:
        if self.exclude >= self.n:
            raise ValueError(f"exclude {self.exclude}: the folds are numbered from 0 to {self.n - 1}")
        return self


def _one_or_several(value: Any) -> Any:
    return () if value is None else value if isinstance(value, list | tuple) else (value,)


class TrainConfig(BaseModel):
    """What `criticrm train` does.

    Attributes:
        trainer: for `CriticConfig`, that is for transformers' `TrainingArguments`, as they are (learning rate, batch,
            precision, FSDP, DeepSpeed), with `head_learning_rate`, `head_weight_decay` and `fresh_critique_pairs`.
        lora: for peft's `LoraConfig`, as they are; None trains every weight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(DEFAULT_NAME, description="Folder or hub name of an instruction-tuned causal LM.")
    data: str = Field(description="Preference pairs: a file or a dataset (see sources.rows).")
    critiques: Annotated[tuple[Path, ...], BeforeValidator(_one_or_several)] = Field(
        (),
        description="A finished `critiques refine` (or filter, or sample), or a list of them: the critiques that the "
        "model learns to write. A pair of which they cover one response, or none, still trains what it can.",
    )
    critiques_per_response: PositiveInt | None = Field(
        None, description="Use only the first of each response. Default: all."
    )
    reward_critiques: Annotated[tuple[Path, ...], BeforeValidator(_one_or_several)] = Field(
        (),
        description="A finished `critiques sample`, or a list of them (one a fold): the critiques that the reward is "
        "read after. Use fresh critiques of the model that is trained, unfiltered: critiques that were kept by label "
        "leak the label, and the reward learns to read it there. Default: `critiques`.",
    )
    reward_critiques_per_response: PositiveInt | None = Field(
        None, description="Use only the first K of each response, which make K * K margins a pair. Default: all."
    )
    validation_critiques: Path | None = Field(
        None,
        description="A finished `critiques sample` of the validation pairs, not filtered, or the labels leak. Read "
        "only where the model can't write its own at an evaluation: its weights are split over processes (FSDP, "
        "DeepSpeed), or `trainer.fresh_critique_pairs` is 0. Without it the best is then chosen by the score before "
        "the critique.",
    )
    folds: ExcludedFold | None = Field(
        None,
        description="Train without one fold of the questions, `{n: 2, exclude: 0}`: that fold's critiques can then be "
        "scored by a critic that has not seen the pair (`critiques sample --fold 0/2`).",
    )
    validation_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the questions that is used for validation. 0 trains on all pairs and needs "
        "`trainer.eval_strategy: 'no'`.",
    )
    training_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the training pairs with critiques that is used; a smaller share is a subset of a larger "
        "one.",
    )
    head: Path | None = Field(
        None,
        description="A reward to start from (`fit-head --head-only`) instead of zero: linear probing first, then "
        "fine-tuning (arXiv 2202.10054). Fit it without the validation pairs.",
    )
    instruction: str = DEFAULT_CRITIQUE_INSTRUCTION
    slots: InstructionSlots | None = Field(
        None,
        description="Columns that the critic reads behind the instruction, `{trained: [criteria, reference]}` or one "
        "of these, and how: `criteria` and `reference` are sentences with {criteria} and {reference} in them. Requests "
        "to the service may then have them. Default: none.",
    )
    max_critique_tokens: PositiveInt = 64
    cut: Cut = Field("none", description=CUT)
    max_model_len: PositiveInt = Field(
        4096,
        description="Longest prompt with its response and critique, in tokens; the default is that of the service.",
    )
    overlong: Overlong = Field("drop", description=OVERLONG)
    dtype: str = Field(
        "float32", pattern="^(float32|bfloat16)$", description="Precision of the weights that are loaded."
    )
    attn_implementation: str | None = Field(
        None,
        description="Attention implementation while training, as transformers names it (flash_attention_2, eager). "
        "Default: transformers' own choice.",
    )
    objective: Objective = Objective()
    lora: dict[str, Any] | None = None
    calibration_pairs: PositiveInt = Field(100, description="Validation pairs critiqued for the manifest's moments.")
    trainer: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Raises ConfigError."""
        return read_yaml(path, cls)


def read_yaml(path: Path, settings: type[S]) -> S:
    """The settings in a YAML file. Raises ConfigError, which names every field that is wrong."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 # a SafeLoader
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no mapping of settings")
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n  ".join([f"{path} is wrong:", *format_faults(error)])) from error
