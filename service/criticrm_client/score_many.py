"""Many items, a few a request, several requests at a time, results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from .arguments import ItemLike, Options, lost_field
from .errors import REFUSED, APIConnectionError, APIError, APIStatusError, ends_job
from .fields import field_name
from .outcomes import ItemScores
from .schemas import Item, ScoreResponse

DEFAULT_CONCURRENCY = 32
DEFAULT_PACK = 8  # responses a request: HTTP costs an eighth, and a failure is still that of a few
_WINDOW = 4  # requests begun or done for each in flight: one slow request does not hold up the rest at once

T = TypeVar("T")
ScoreItems = Callable[..., Awaitable[ScoreResponse]]


async def scored_in_order(
    score: ScoreItems, items: Iterable[ItemLike], concurrency: int, pack: int, options: Options
) -> AsyncGenerator[ItemScores]:
    """One `ItemScores` an item, in order. Holds at most `_WINDOW * concurrency` packs.

    Args:
        score: of `AsyncCriticRM.score_items`.

    Raises:
        APIError: a fault of the job (`errors.ends_job`).
        APIConnectionError: `concurrency` requests in a row reached no server in all their attempts.
    """
    job = ScoringRun(score, concurrency, pack, options)
    tasks: deque[asyncio.Task[list[ItemScores]]] = deque()
    try:
        for together in job.packs(items):
            tasks.append(asyncio.create_task(job.run(together)))
            while tasks and (len(tasks) >= job.window or tasks[0].done()):
                for scores in await tasks.popleft():
                    yield scores
            await asyncio.sleep(0)  # the first requests go out while the rest is still being read
        while tasks:
            for scores in await tasks.popleft():
                yield scores
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def as_item(given: ItemLike) -> Item:
    """Raises ValueError, with the field."""
    if isinstance(given, Item):
        return given
    if isinstance(given, Mapping):
        fields: Mapping[str, Any] = given
    elif isinstance(given, Iterable) and not isinstance(given, str) and len(pair := list(given)) == 2:
        fields = dict(zip(("prompt", "responses"), pair, strict=True))
    else:
        raise ValueError(f"an item is an Item, a mapping, or a prompt and its responses, not {given!r:.60}")
    if isinstance(fields.get("responses"), str):
        raise ValueError("responses: a list of texts, not one text")
    try:
        return Item.model_validate({**fields, "prompt": _plain_messages(fields.get("prompt"))})
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{field_name(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}") from error


def _plain_messages(prompt: Any) -> Any:
    """Role and content alone: data sets carry more, such as names and weights. Raises ValueError for what says more."""
    if isinstance(prompt, str | Mapping) or not isinstance(prompt, Iterable):
        return prompt
    messages = []
    for i, message in enumerate(prompt):
        if lost := lost_field(message):
            raise ValueError(f"prompt[{i}]: {lost} would be lost: put what it says into the content")
        is_message = isinstance(message, Mapping)
        messages.append({key: message.get(key) for key in ("role", "content")} if is_message else message)
    return messages


class ScoringRun:
    """What the requests of many items share.

    Attributes:
        window: how many packs may have begun or be done before the first one's results are taken.
    """

    def __init__(self, score: ScoreItems, concurrency: int, pack: int, options: Options) -> None:
        if concurrency < 1 or pack < 1:
            raise ValueError(f"concurrency ({concurrency}) and pack ({pack}) must be 1 or more")
        self.window = _WINDOW * concurrency
        self._score = score
        self._options = options
        self._slots = asyncio.Semaphore(concurrency)
        self._pack = pack
        self._patience = concurrency
        self._unreached = 0
        self._ended: APIError | None = None

    def packs(self, items: Iterable[ItemLike]) -> Iterator[list[Item]]:
        """What shares a request. Raises ValueError for what is no item."""
        return _packs(map(as_item, items), self._pack)

    async def run(self, items: Sequence[Item]) -> list[ItemScores]:
        """One pack. Raises APIError: a fault of the job, or the service has gone."""
        async with self._slots:
            if self._ended is not None:
                raise self._ended
            try:
                answer = await self._score(items, **self._options)
            except APIError as error:
                unreached = isinstance(error, APIConnectionError)
                self._unreached = self._unreached + 1 if unreached else 0
                if ends_job(error) or self._unreached >= self._patience:
                    self._ended = error
                    raise
                failure = error
            else:
                self._unreached = 0
                return _by_item(items, answer)
        if len(items) > 1 and isinstance(failure, APIStatusError) and failure.status_code in REFUSED:
            # Alone, each item has its own reason, or none.
            return [scores for item in items for scores in await self.run([item])]
        return [ItemScores(item=item, results=[], model_version=None, error=failure) for item in items]


def _by_item(items: Sequence[Item], answer: ScoreResponse) -> list[ItemScores]:
    results = iter(answer.results)
    return [
        ItemScores(item=item, results=[next(results) for _ in item.responses], model_version=answer.model_version)
        for item in items
    ]


def evenly(values: list[T], most: int) -> Iterator[list[T]]:
    """In their order, at most so many together, and about as many each time: none is left alone."""
    parts = -(-len(values) // most)
    for part in range(parts):
        yield values[part * len(values) // parts : (part + 1) * len(values) // parts]


def _packs(items: Iterator[Item], responses: int) -> Iterator[list[Item]]:
    """Neighbours together, so that what shares a prompt goes to one server's cache."""
    together: list[Item] = []
    size = 0
    for item in items:
        if together and size + len(item.responses) > responses:
            yield together
            together, size = [], 0
        together.append(item)
        size += len(item.responses)
    if together:
        yield together
