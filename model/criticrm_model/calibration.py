"""From rewards at two positions to one scale.

Bradley-Terry leaves a reward's offset and scale free, and the reward before a critique is another random variable than
the one after it: each has its own moments and its own scale.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt

Factor = Annotated[float, Field(ge=1e-6, le=1e6)]  # a score stays finite through it


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Moments(_Frozen):
    """Mean and standard deviation of a score over the reference set, in reward units."""

    mean: FiniteFloat
    std: Factor

    @property
    def scale(self) -> Scale:
        """Standard deviations from the mean."""
        return Scale(slope=1 / self.std, offset=-self.mean / self.std)


class Scale(_Frozen):
    """`slope * score + offset`: 0 is the reference set's mean, and a difference of two is a log-odds of preference.

    The slope is that of Bradley-Terry on labelled pairs: of two responses that differ by 1, the higher one is the
    better one with probability 0.73.
    """

    slope: Factor
    offset: FiniteFloat

    def __call__(self, score: float) -> float:
        return self.slope * score + self.offset


class Calibration(_Frozen):
    """The moments and scales of one reward, computed on a named set.

    Attributes:
        scales: by the number of critiques that a score is the mean of, 0 for the score before any; None where it was
            computed without labels, or by an earlier version.
        scaled_on: the labelled pairs of the scales, where they were measured on the finished checkpoint
            (`criticrm evaluate --calibrate`); else they are of the reference set.
    """

    reference_set: str = Field(description="The responses that the moments were computed on.")
    n: PositiveInt = Field(description="Number of responses.")
    direct_score: Moments
    score: Moments
    scales: dict[int, Scale] | None = None
    scaled_on: str | None = None

    def scale(self, critiques: int) -> Scale:
        """The scale of the mean over so many critiques: that of the nearest smaller number which was measured.

        Without `scales`, standard deviations from the mean.
        """
        if self.scales is None or 0 not in self.scales or (critiques and not any(self.scales.keys() - {0})):
            return (self.score if critiques else self.direct_score).scale
        if not critiques:
            return self.scales[0]
        measured = sorted(self.scales.keys() - {0})
        return self.scales[max((m for m in measured if m <= critiques), default=measured[0])]
