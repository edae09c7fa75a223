"""What of a pair the critic reads behind its instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticrm_model.instruction import InstructionSlots

if TYPE_CHECKING:
    from .pairs import PreferencePair


def judged_by(pair: PreferencePair, slots: InstructionSlots) -> tuple[str | None, str | None]:
    """Criteria and reference, where the critic is trained with them.

    A reference is there to check answers with, too, and a critic that reads it does not have to find its own.
    """
    trained = slots.trained
    return (pair.criteria if "criteria" in trained else None, pair.reference if "reference" in trained else None)
