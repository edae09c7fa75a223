"""`critic_rm.json`: what a checkpoint says of itself, beside the weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from statistics import stdev
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from .calibration import Calibration
from .errors import CheckpointError
from .files import write_text
from .instruction import InstructionSlots
from .reward import RewardTokens

MANIFEST_NAME = "critic_rm.json"
MAX_REWARDS = 127  # vLLM 0.32 gives the logits of 128 tokens a step, and its server one less (docs/adr/0015)
REWARD_TOKEN = "<|reward|>"  # noqa: S105 # of a vocabulary
DEFAULT_NAME = "default"  # the embedded checkpoint
DEFAULT_BASE_NAME = "default-base"  # the unmodified model that it was trained from


def is_reward_token(text: str) -> bool:
    """Whether it is `<|reward|>`, or that of one of several."""
    return text == REWARD_TOKEN or (text.startswith(reward_token("")[:-2]) and text.endswith("|>"))


def reward_token(name: str) -> str:
    """The token whose logit is the reward of this name, one of several."""
    return REWARD_TOKEN.replace("|>", f":{name}|>")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Selection(_Frozen):
    """When critiques are worth writing: what `critique: "auto"` does (`criticrm evaluate --recommend`).

    Attributes:
        margin: responses are close that differ by at most this before their critiques, on the calibrated scale.
        rank: "best": close to the best response; "all": close to any other.
        n: critiques of a close response.
        settled, tokens: where its critiques are ended (`Settle`); None: at their own end.
        chosen_on: the pairs that it was chosen on.
    """

    margin: float = Field(gt=0)
    rank: Literal["best", "all"] = "best"
    n: PositiveInt = 1
    settled: float | None = Field(None, ge=0)
    tokens: int = Field(8, ge=1, le=512)
    chosen_on: str


class TrainingData(_Frozen):
    """One preference file the reward was fitted on."""

    name: str
    pairs: PositiveInt
    sha256: str


class RewardCard(_Frozen):
    """What is known of a reward vector before it is folded into a model: `reward.json` beside the vector.

    Attributes:
        critique_instruction: None for a scalar reward model, which writes no critiques.
        max_critique_tokens: the longest critique the reward was fitted on, so the default when serving:
            a reward that has seen short critiques means little after long ones.
        slots: how criteria and a reference are put behind the instruction; None where none were trained with.
    """

    critique_instruction: str | None = Field(min_length=1)
    slots: InstructionSlots | None = None
    max_critique_tokens: PositiveInt = 256
    base_model: str
    training_data: tuple[TrainingData, ...] = ()
    calibration: Calibration | None = None
    selection: Selection | None = None


class ReferenceCritique(_Frozen):
    """A critique of one of the fixed conversations, and the reward after it.

    Attributes:
        conversation: its place among the fixed conversations.
        token_ids: `[completion_len]`.
        score: the logit at the position that predicts the last of them; of several rewards, their weighted sum.
    """

    conversation: int = Field(ge=0)
    token_ids: tuple[int, ...] = Field(min_length=1)
    score: FiniteFloat


class ReferenceRewards(_Frozen):
    """Rewards of the fixed conversations (`references.CONVERSATIONS`) by transformers, to check an engine against.

    Attributes:
        dtype: of the model that computed them.
        template_sha256: see `references.template_sha256`.
        direct_scores: `[conversations]`; of several rewards, their weighted sum.
        direct_rewards: `[conversations, rewards]`, where there are several; else empty.
    """

    dtype: Literal["float32", "bfloat16", "float16"]
    template_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    direct_scores: tuple[FiniteFloat, ...] = Field(min_length=1)
    direct_rewards: tuple[tuple[FiniteFloat, ...], ...] = ()
    critiques: tuple[ReferenceCritique, ...] = ()


class Reward(_Frozen):
    """One reward: the logit of a token, plus an offset.

    Attributes:
        name: what it rewards, where there are several: `helpfulness`.
        token, token_id: `<|reward|>`, or a token that the base has anyway and whose logit is its reward.
        offset: added to the logit, in reward units: the bias of the head that was imported.
        weight: in the score, which is the weighted sum of all rewards.
        sha256: of the LM-head row as float32 little-endian bytes, `[d_model]`.
    """

    name: str = Field("reward", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    token: str = REWARD_TOKEN
    token_id: int = Field(ge=0)
    offset: FiniteFloat = 0.0
    weight: FiniteFloat = 1.0
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Readout(_Frozen):
    """How a conversation with its response is rendered. The reward is read at the last token of that.

    Attributes:
        render: "critique" asks for a critique and opens the assistant's turn; "conversation" is the model's own chat
            template, and nothing after it.
        before, after: token ids that are put around the template's (an appended token where the reward is read).
        unread: a token that is dropped from the end: a classifier of transformers reads before its padding token.
    """

    render: Literal["critique", "conversation"] = "critique"
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    unread: int | None = None


class Origin(_Frozen):
    """The reward model that a checkpoint was imported from.

    Attributes:
        name: the hub name or the folder that was imported.
        revision: on the hub.
    """

    name: str
    revision: str | None = None


class Manifest(RewardCard):
    """The contents of `critic_rm.json`.

    Attributes:
        rewards: the score is their weighted sum.
        origin: None where the reward was trained or fitted here.
        lm_head: False where the classifier that was imported had none: it can't write.
        references: None in checkpoints of earlier versions.
    """

    format_version: Literal[2] = 2
    rewards: tuple[Reward, ...] = Field(min_length=1, max_length=MAX_REWARDS)
    readout: Readout = Readout()
    origin: Origin | None = None
    lm_head: bool = True
    references: ReferenceRewards | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("format_version") != 1:
            return values
        values = dict(values)
        names = {"token": "reward_token", "token_id": "reward_token_id", "sha256": "reward_row_sha256"}
        reward = {new: values.pop(old) for new, old in names.items() if old in values}
        return values | {"format_version": 2, "rewards": [reward]}

    @model_validator(mode="after")
    def _rewards_make_a_score(self) -> Self:
        if len(self.rewards) == 1 and self.rewards[0].weight != 1:
            raise ValueError("rewards: the weight of a single reward is 1")
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("rewards: all weights are 0")
        for what in ("name", "token_id"):
            if len({getattr(reward, what) for reward in self.rewards}) < len(self.rewards):
                raise ValueError(f"rewards: two have the same {what}")
        return self

    @property
    def reward(self) -> Reward:
        """The only one. Raises ValueError: there are several."""
        (only,) = self.rewards
        return only

    @property
    def reward_token_id(self) -> int:
        return self.reward.token_id

    @property
    def reads_existing_token(self) -> bool:
        """The reward is the logit of a token that the base has anyway."""
        return not any(is_reward_token(reward.token) for reward in self.rewards)

    @property
    def reward_tokens(self) -> RewardTokens:
        return RewardTokens(tuple(r.token_id for r in self.rewards), tuple(r.weight for r in self.rewards))

    @property
    def offset(self) -> float:
        """What is added to the weighted sum of the logits."""
        return sum(reward.weight * reward.offset for reward in self.rewards)

    @property
    def writes_critiques(self) -> bool:
        return self.critique_instruction is not None

    @property
    def direct_std(self) -> float:
        """What a difference of direct scores is measured by.

        Their standard deviation over the reference set or over the fixed conversations, the larger one (a reference set
        may hold what the direct score can't tell apart); without either 1.
        """
        scores = self.references.direct_scores if self.references else ()
        fixed = stdev(scores) if len(scores) > 1 else 0.0
        return max(fixed, self.calibration.direct_score.std if self.calibration else 0.0) or 1.0

    @property
    def version(self) -> str:
        """Short name of this reward.

        It changes with the reward row, the base, what the base is asked, how the reward is read, and with scales or a
        setting for "auto" that were measured after the export.
        """
        first, *others = self.rewards
        identity = [first.sha256, self.base_model, self.critique_instruction or ""]
        if self.readout != Readout() or first.offset:
            identity += [self.readout.model_dump_json(), str(first.offset)]
        if self.slots is not None:
            identity.append(self.slots.model_dump_json())
        if self.calibration is not None and self.calibration.scaled_on is not None:
            identity.append(self.calibration.model_dump_json())
        if self.selection is not None:
            identity.append(self.selection.model_dump_json())
        if others:
            identity += [str((r.name, r.sha256, r.offset, r.weight)) for r in self.rewards]
        return hashlib.sha256("\0".join(identity).encode()).hexdigest()[:12]

    def save(self, folder: Path) -> None:
        write_text(folder / MANIFEST_NAME, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Raises CheckpointError if the file is missing or malformed, naming the fields."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise CheckpointError(
                f"{folder} has no {MANIFEST_NAME}: it is not a Critic-RM checkpoint. "
                "Make one with `criticrm import` or `criticrm fit-head`, or serve the embedded one with MODEL=default."
            )
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise CheckpointError(f"{path} is malformed: {faults}") from error
