"""What the reward functions share: samples in, a reward or a failure for each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ..arguments import Options
from ..async_client import AsyncCriticRM
from ..errors import APIError, InvalidRequestError
from ..outcomes import ItemScores
from ..schemas import Item
from . import environment
from .samples import Sample, item_of

DEFAULT_CONCURRENCY = 64

Failure = APIError | ValueError


@dataclass(frozen=True, slots=True)
class Reward:
    """Of one sample.

    Attributes:
        score: after the critique; several are averaged. Without critiques, `direct_score`.
        direct_score: before any critique.
        truncated: something was cut to fit (`on_overflow="truncate"`).
        critique: several are separated by an empty line; empty where none was requested.
    """

    score: float
    direct_score: float
    truncated: bool
    critique: str


class SampleScorer:
    """Scores samples.

    Args:
        options: of every request.
        concurrency: requests in flight in one call; a sample is a request, so that it fails alone.
    """

    def __init__(self, client: AsyncCriticRM, options: Options, concurrency: int = DEFAULT_CONCURRENCY) -> None:
        self._client = client
        self._options = options
        self._concurrency = concurrency

    async def __call__(self, pairs: Sequence[Sample]) -> list[Reward | Failure]:
        """For each sample its reward, or why it has none: an APIError, or the ValueError of what is no text.

        Raises:
            APIStatusError: a fault of the job, such as a wrong key or an option that the server refuses.
            APIConnectionError: the service has gone: as many requests in a row as are in flight, or all there are,
                reached no server in any attempt.
        """
        found: list[Reward | Failure | None] = [None] * len(pairs)
        places: list[int] = []
        items: list[Item] = []
        for place, pair in enumerate(pairs):
            try:
                items.append(item_of(pair))
            except ValueError as error:
                found[place] = error
            else:
                places.append(place)
        if items:
            in_flight = min(self._concurrency, len(items))
            scored = await self._client.score_many(
                items, concurrency=in_flight, pack=1, progress=False, **self._options
            )
            for place, scores in zip(places, scored, strict=True):
                failure = scores.failure
                if failure is not None and _is_of_options(failure):
                    raise failure
                found[place] = failure or _reward(scores)
        return [reward for reward in found if reward is not None]

    @property
    def critiques(self) -> bool:
        """Whether any are asked for."""
        return self._options.get("critique", True) is not False

    async def one(self, pair: Sample) -> Reward:
        """Of one sample. Raises why it has none."""
        (reward,) = await self([pair])
        if isinstance(reward, Exception):
            raise reward
        return reward


@cache
def scorer_of_environment() -> SampleScorer:
    """One a process. Raises ValueError for a variable that is missing or wrong; it is read again at the next call."""
    urls, key, options = environment.urls(), environment.key(), environment.options()
    version = environment.model_version()
    return SampleScorer(AsyncCriticRM(urls, key=key, model_version=version), options)


def _is_of_options(failure: APIError) -> bool:
    """Refused for what all requests share: no sample of the run would ever have a reward."""
    fields = [str(detail.get("field", "")) for detail in getattr(failure, "details", ())]
    return isinstance(failure, InvalidRequestError) and any(
        field.partition(".")[0] in Options.__annotations__ for field in fields
    )


def _reward(scores: ItemScores) -> Reward:
    (result,) = scores.results
    score = result.reward
    return Reward(
        score=score,
        direct_score=score if result.direct_score is None else result.direct_score,
        truncated=result.status == "truncated",
        critique="\n\n".join(critique.text for critique in result.critiques),
    )
