"""What the client makes of results: of one item, of two responses, of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from .probability import sigmoid
from .schemas import Item, Result

if TYPE_CHECKING:
    from .errors import APIError


class ItemScores(BaseModel):
    """What became of one item of `score_many`: its results, or the error that kept it from having any."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    item: Item
    results: list[Result]
    model_version: str | None
    error: Any = Field(None, description="An APIError, or None.")

    @property
    def rewards(self) -> list[float]:
        """One a response. Raises the item's error, or ResultError if a response has no reward."""
        if self.error is not None:
            raise self.error
        return [result.reward for result in self.results]

    def each(self) -> list[ItemScores]:
        """One a response, each with its only result, or the error of all."""
        alone = [{"item": self.item.model_copy(update={"responses": [one]})} for one in self.item.responses]
        results = [[result] for result in self.results] or [[] for _ in alone]
        return [
            self.model_copy(update={**item, "results": result}) for item, result in zip(alone, results, strict=True)
        ]

    @property
    def failure(self) -> APIError | None:
        """Why not all rewards are there: the item's error, or that of its first response without one."""
        from .errors import APIError

        try:
            _ = self.rewards
        except APIError as error:
            return error
        return None


class Comparison(BaseModel):
    """Two responses to one prompt."""

    model_config = ConfigDict(frozen=True)

    first: Result
    second: Result

    @property
    def margin(self) -> float:
        """Reward of the first minus that of the second."""
        return self.first.reward - self.second.reward

    @property
    def probability(self) -> float:
        """That the first is the better one, by the Bradley-Terry model that rewards are trained with."""
        return sigmoid(self.margin)

    @property
    def preferred(self) -> int | None:
        """0 for the first, 1 for the second; None for a tie."""
        return None if self.margin == 0 else int(self.margin < 0)


class BestOf(BaseModel):
    """The response with the highest reward. `results` are of all, in their order."""

    model_config = ConfigDict(frozen=True)

    index: int
    response: str
    results: list[Result]

    @property
    def result(self) -> Result:
        return self.results[self.index]
