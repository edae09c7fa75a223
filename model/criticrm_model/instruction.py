"""What asks for a critique: the checkpoint's instruction, then the criteria and the reference of a request."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

DEFAULT_CRITIQUE_INSTRUCTION = (
    "In two sentences, review the assistant's last reply: is it correct, helpful and harmless, "
    "and what is wrong with it?"
)


class InstructionSlots(BaseModel):
    """Sentences after the critique instruction, for requests that have criteria or a reference.

    Attributes:
        criteria: with `{criteria}` where those of the request are put.
        reference: with `{reference}`.
        trained: which of the two the checkpoint has seen in training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    criteria: str = Field("Judge the reply by these criteria only:\n{criteria}", max_length=4096)
    reference: str = Field("A correct answer, to compare the reply with:\n{reference}", max_length=4096)
    trained: tuple[str, ...] = ()

    @field_validator("criteria", "reference")
    @classmethod
    def _has_its_slot(cls, value: str, info: object) -> str:
        slot = "{" + str(getattr(info, "field_name", "")) + "}"
        if value.count(slot) != 1:
            raise ValueError(f"must contain {slot} once")
        return value

    @field_validator("trained")
    @classmethod
    def _names_slots(cls, value: Sequence[str]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - {"criteria", "reference"}):
            raise ValueError(f"{', '.join(unknown)}: there are criteria and reference")
        return tuple(sorted(set(value)))

    def fill(self, critique_instruction: str, criteria: str | None, reference: str | None) -> str:
        """The whole text that asks for a critique: paragraphs, an empty line between them."""
        parts = [critique_instruction]
        if criteria is not None:
            parts.append(self.criteria.replace("{criteria}", criteria))
        if reference is not None:
            parts.append(self.reference.replace("{reference}", reference))
        return "\n\n".join(parts)
