"""`CriticRM`: the asynchronous client, for callers without an event loop.

It runs in a thread of its own, so it also works where a loop is running already, in a notebook say. One
implementation: the two can't differ in results or exceptions.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from .async_client import AsyncCriticRM
from .columns import DEFAULT_COLUMNS, Columns
from .retries import DEFAULT_RETRIES, Retries
from .score_file import FileSummary
from .score_many import DEFAULT_CONCURRENCY, DEFAULT_PACK
from .types import BestOf, Comparison, Item, ItemLike, ItemScores, ModelInfo, Options, Prompt, ScoreResponse

T = TypeVar("T")


class CriticRM:
    """As `AsyncCriticRM`, whose arguments it takes, with methods that block. Safe between threads, and after a fork.

    Every method raises what the asynchronous one does.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        retries: Retries = DEFAULT_RETRIES,
        timeout_s: float = 310.0,
        deadline_s: float | None = None,
        model_version: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._make: Callable[[], AsyncCriticRM] = lambda: AsyncCriticRM(
            url,
            key=key,
            retries=retries,
            timeout_s=timeout_s,
            deadline_s=deadline_s,
            model_version=model_version,
            transport=transport,
        )
        self._running: _Running | None = None
        self._closed = False
        self._starting = threading.Lock()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; calls of other threads that wait are cancelled."""
        self._closed = True
        running, self._running = self._running, None
        if running is not None and running.process == os.getpid():
            running.stop()

    def score(self, prompt: Prompt, responses: Sequence[str], **options: Unpack[Options]) -> ScoreResponse:
        """See `AsyncCriticRM.score`."""
        return self._call(lambda client: client.score(prompt, responses, **options))

    def score_items(self, items: Sequence[Item], **options: Unpack[Options]) -> ScoreResponse:
        """See `AsyncCriticRM.score_items`."""
        return self._call(lambda client: client.score_items(items, **options))

    def compare(self, prompt: Prompt, first: str, second: str, **options: Unpack[Options]) -> Comparison:
        """See `AsyncCriticRM.compare`."""
        return self._call(lambda client: client.compare(prompt, first, second, **options))

    def best_of(self, prompt: Prompt, responses: Sequence[str], **options: Unpack[Options]) -> BestOf:
        """See `AsyncCriticRM.best_of`."""
        return self._call(lambda client: client.best_of(prompt, responses, **options))

    def score_many(
        self,
        items: Iterable[ItemLike],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        pack: int = DEFAULT_PACK,
        progress: bool | None = None,
        **options: Unpack[Options],
    ) -> list[ItemScores]:
        """See `AsyncCriticRM.score_many`."""
        return self._call(
            lambda client: client.score_many(items, concurrency=concurrency, pack=pack, progress=progress, **options)
        )

    def score_stream(
        self,
        items: Iterable[ItemLike],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        pack: int = DEFAULT_PACK,
        **options: Unpack[Options],
    ) -> Iterator[ItemScores]:
        """See `AsyncCriticRM.score_stream`. `items` is read in the client's thread."""
        running = self._start()
        stream = running.client.score_stream(items, concurrency=concurrency, pack=pack, **options)

        async def following() -> ItemScores | None:
            return await anext(stream, None)

        try:
            while (scores := running.call(following())) is not None:
                yield scores
        finally:
            running.call(stream.aclose())

    def score_file(
        self,
        source: str | Path,
        out: str | Path,
        *,
        columns: Columns = DEFAULT_COLUMNS,
        concurrency: int = DEFAULT_CONCURRENCY,
        pack: int = DEFAULT_PACK,
        progress: bool | None = None,
        **options: Unpack[Options],
    ) -> FileSummary:
        """See `AsyncCriticRM.score_file`."""
        return self._call(
            lambda client: client.score_file(
                source, out, columns=columns, concurrency=concurrency, pack=pack, progress=progress, **options
            )
        )

    def health(self) -> bool:
        """See `AsyncCriticRM.health`."""
        return self._call(lambda client: client.health())

    def model_info(self) -> ModelInfo:
        """See `AsyncCriticRM.model_info`."""
        return self._call(lambda client: client.model_info())

    def _call(self, ask: Callable[[AsyncCriticRM], Coroutine[Any, Any, T]]) -> T:
        running = self._start()
        return running.call(ask(running.client))

    def _start(self) -> _Running:
        """The client in its thread; a new one after a fork, which copies neither threads nor usable connections."""
        if self._closed:
            raise RuntimeError("the client is closed")
        with self._starting:
            if self._running is None or self._running.process != os.getpid():
                self._running = _Running(self._make())
            return self._running


class _Running:
    """A client and the event loop that is its own, in a thread that does not keep the process from ending."""

    def __init__(self, client: AsyncCriticRM) -> None:
        self.process = os.getpid()
        self.client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="criticrm-client", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`; whatever interrupts the wait, Ctrl-C say, cancels it."""
        result = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return result.result()
        except BaseException:
            result.cancel()
            raise

    def stop(self) -> None:
        async def end() -> None:
            waiting = asyncio.all_tasks() - {asyncio.current_task()}
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await self.client.close()

        self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
