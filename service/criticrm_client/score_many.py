"""Many items, a few a request, several requests at a time, results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from pydantic import ValidationError

from .errors import FATAL, APIConnectionError, APIError, APIStatusError
from .types import Item, ItemLike, ItemScores, Options, ScoreResponse

DEFAULT_CONCURRENCY = 32
DEFAULT_PACK = 8  # responses a request: HTTP costs an eighth, and a failure is still that of a few
_WINDOW = 4  # requests begun or done for each in flight: one slow request does not hold up the rest at once

ScoreItems = Callable[..., Awaitable[ScoreResponse]]


async def scored_in_order(
    score: ScoreItems, items: Iterable[ItemLike], concurrency: int, pack: int, options: Options
) -> AsyncGenerator[ItemScores]:
    """One `ItemScores` an item, in order. Holds at most `_WINDOW * concurrency` packs.

    Args:
        score: of `AsyncCriticRM.score_items`.

    Raises:
        APIStatusError: a fault of the job (`errors.FATAL`).
        APIConnectionError: `concurrency` requests in a row reached no server in all their attempts.
    """
    if concurrency < 1 or pack < 1:
        raise ValueError(f"concurrency ({concurrency}) and pack ({pack}) must be 1 or more")
    job = _Job(score, concurrency, options)
    tasks: deque[asyncio.Task[list[ItemScores]]] = deque()
    try:
        for together in _packs(map(as_item, items), pack):
            tasks.append(asyncio.create_task(job.run(together)))
            while tasks and (len(tasks) >= _WINDOW * concurrency or tasks[0].done()):
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
    fields = given if isinstance(given, Mapping) else dict(zip(("prompt", "responses"), given, strict=True))
    if isinstance(fields.get("responses"), str):
        raise ValueError("responses: a list of texts, not one text")
    try:
        return Item.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"] if part not in ("<text>", "<messages>"))
        raise ValueError(f"{where}: {fault['msg'].removeprefix('Value error, ')}") from error


class _Job:
    def __init__(self, score: ScoreItems, concurrency: int, options: Options) -> None:
        self._score = score
        self._options = options
        self._slots = asyncio.Semaphore(concurrency)
        self._patience = concurrency
        self._unreached = 0

    async def run(self, items: Sequence[Item]) -> list[ItemScores]:
        async with self._slots:
            try:
                answer = await self._score(items, **self._options)
            except FATAL:
                raise
            except APIStatusError as error:
                self._unreached = 0
                if error.status >= 500 or len(items) == 1:
                    return [_failed(item, error) for item in items]
            except APIConnectionError as error:
                self._unreached += 1
                if self._unreached >= self._patience:
                    raise
                return [_failed(item, error) for item in items]
            except APIError as error:
                return [_failed(item, error) for item in items]
            else:
                self._unreached = 0
                return _by_item(items, answer)
        # The request was refused for what is in it. Alone, each item has its own reason, or none.
        return [scores for item in items for scores in await self.run([item])]


def _by_item(items: Sequence[Item], answer: ScoreResponse) -> list[ItemScores]:
    results = iter(answer.results)
    return [
        ItemScores(item=item, results=[next(results) for _ in item.responses], model_version=answer.model_version)
        for item in items
    ]


def _failed(item: Item, error: APIError) -> ItemScores:
    return ItemScores(item=item, results=[], model_version=None, error=error)


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
