"""What the reward functions share: samples in, a reward or a failure for each out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from ..arguments import Options
from ..async_client import AsyncCriticRM
from ..client import CriticRM
from ..errors import REFUSED, APIError, APIStatusError, InvalidRequestError
from ..outcomes import ItemScores
from ..schemas import Item
from ..score_many import evenly
from . import environment
from .samples import Sample, item_of

DEFAULT_CONCURRENCY = 64
MOST_TOGETHER = 64  # responses in one item: the service takes 256 unless told otherwise

Failure = APIError | ValueError


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one sample.

    Attributes:
        score: after the critique; several are averaged. Without critiques, `direct_score`. Where only close responses
            get critiques, the calibrated score: don't subtract one from the other then.
        direct_score: before any critique, in reward units.
        truncated: something was cut to fit (`on_overflow="truncate"`).
        critique: several are separated by an empty line; empty where none was requested.
        rewards: scores by name, of a model with several rewards.
    """

    score: float
    direct_score: float
    truncated: bool
    critique: str
    rewards: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As frameworks take it: numbers and texts, each of several rewards as `reward_NAME`."""
        values = {name: value for name, value in asdict(self).items() if name != "rewards"}
        return values | {f"reward_{name}": score for name, score in self.rewards.items()}


class _Batch:
    """The samples of one call, and what became of each.

    An item is a sample, so that each fails alone. Options that compare responses need those to one prompt in one item;
    where the service refuses its size, it is halved.

    Attributes:
        items: that are to be scored next; none when all samples have a reward or a failure.
    """

    def __init__(self, pairs: Sequence[Sample], options: Options) -> None:
        self._found: list[Reward | Failure | None] = [None] * len(pairs)
        together: dict[str, list[tuple[int, Item]]] = {}  # by all but the response
        for place, pair in enumerate(pairs):
            try:
                item = item_of(pair)
            except ValueError as error:
                self._found[place] = error
            else:
                group = item.model_dump_json(exclude={"responses"}) if _compares(options) else str(place)
                together.setdefault(group, []).append((place, item))
        self._places: list[list[int]] = []  # the samples of each item
        self.items: list[Item] = []
        for members in together.values():
            for some in evenly(members, MOST_TOGETHER):
                self._add([place for place, _ in some], some[0][1], [item.responses[0] for _, item in some])

    def _add(self, places: list[int], item: Item, responses: list[str]) -> None:
        self._places.append(places)
        self.items.append(item if len(responses) == 1 else item.model_copy(update={"responses": responses}))

    def take(self, scored: Sequence[ItemScores]) -> None:
        """What came of `items`. Raises APIStatusError: all fail for an option that they share."""
        places_of_each, self._places, self.items = self._places, [], []
        for places, scores in zip(places_of_each, scored, strict=True):
            item, error = scores.item, scores.error
            refused = isinstance(error, APIStatusError) and error.status_code in REFUSED
            if refused and len(places) > 1 and not _is_of_options(error):
                for some in evenly(list(zip(places, item.responses, strict=True)), -(-len(places) // 2)):
                    half = item.model_copy(update={"responses": [response for _, response in some]})
                    self._add([place for place, _ in some], half, half.responses)
                continue
            for place, one in zip(places, scores.each(), strict=True):
                failure = one.failure
                if failure is not None and _is_of_options(failure):
                    raise failure
                self._found[place] = failure or _reward(one)

    def rewards(self) -> list[Reward | Failure]:
        """The reward or failure of each sample, in order."""
        return [reward for reward in self._found if reward is not None]


class SampleScorer:
    """Scores samples.

    Args:
        options: of every request.
        concurrency: requests in flight in one call. A sample is a request, so that it fails alone; where responses
            are compared (`critique="auto"`, `when="close"`), those to one prompt are.
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
        batch = _Batch(pairs, self._options)
        while batch.items:
            in_flight = min(self._concurrency, len(batch.items))
            batch.take(
                await self._client.score_many(
                    batch.items, concurrency=in_flight, pack=1, progress=False, **self._options
                )
            )
        return batch.rewards()

    @property
    def critiques(self) -> bool:
        """Whether any are asked for."""
        return _writes_critiques(self._options)

    async def one(self, pair: Sample) -> Reward:
        """The reward of one sample. Raises why it has none."""
        (reward,) = await self([pair])
        return raise_failure(reward)


class SyncSampleScorer:
    """As `SampleScorer`, for frameworks that call reward functions without awaiting them.

    It works in a thread that runs an event loop too, and after a fork.
    """

    def __init__(self, client: CriticRM, options: Options, concurrency: int = DEFAULT_CONCURRENCY) -> None:
        self._client = client
        self._options = options
        self._concurrency = concurrency

    def __call__(self, pairs: Sequence[Sample]) -> list[Reward | Failure]:
        """As that of `SampleScorer`, which says what it returns and raises."""
        batch = _Batch(pairs, self._options)
        while batch.items:
            in_flight = min(self._concurrency, len(batch.items))
            batch.take(
                self._client.score_many(batch.items, concurrency=in_flight, pack=1, progress=False, **self._options)
            )
        return batch.rewards()

    @property
    def critiques(self) -> bool:
        """Whether any are asked for."""
        return _writes_critiques(self._options)

    def one(self, pair: Sample) -> Reward:
        """The reward of one sample. Raises why it has none."""
        (reward,) = self([pair])
        return raise_failure(reward)

    def close(self) -> None:
        """Close the connections and end the client's thread."""
        self._client.close()


@cache
def scorer_of_environment() -> SampleScorer:
    """One a process. Raises ValueError for a variable that is missing or wrong; it is read again at the next call."""
    urls, key, options = environment.urls(), environment.key(), environment.options()
    version = environment.model_version()
    return SampleScorer(AsyncCriticRM(urls, key=key, model_version=version), options)


@cache
def sync_scorer_of_environment() -> SyncSampleScorer:
    """As `scorer_of_environment`."""
    urls, key, options = environment.urls(), environment.key(), environment.options()
    version = environment.model_version()
    return SyncSampleScorer(CriticRM(urls, key=key, model_version=version), options)


def raise_failure(reward: Reward | Failure) -> Reward:
    """The reward. Raises why there is none, for frameworks that can't leave a sample out."""
    if isinstance(reward, Exception):
        raise reward
    return reward


def _writes_critiques(options: Options) -> bool:
    return options.get("critique", True) is not False


def _compares(options: Options) -> bool:
    """Whether a response's critique depends on the other responses to its prompt."""
    critique = options.get("critique", True)
    when = critique.get("when") if isinstance(critique, Mapping) else getattr(critique, "when", None)
    return critique == "auto" or when == "close"


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
        rewards={name: reward.score for name, reward in (result.rewards or {}).items()},
    )
