"""`CriticRM`: the asynchronous client, for callers without an event loop.

It runs in a thread of its own, so it also works where a loop is running already, in a notebook say. One
implementation: the two can't differ in results or exceptions.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from .arguments import ItemLike, ItemOptions, Options, Prompt
from .async_client import AsyncCriticRM
from .columns import DEFAULT_COLUMNS, Columns
from .errors import APIConnectionError, ClientClosedError
from .outcomes import BestOf, Comparison, ItemScores
from .progress import progress_bar
from .retries import DEFAULT_RETRIES, Retries
from .schemas import ModelInfo, ScoreResponse
from .score_file import FileSummary
from .score_many import DEFAULT_CONCURRENCY, DEFAULT_PACK, ScoringRun, as_item
from .sessions import HTTPClient

T = TypeVar("T")


class CriticRM:
    """As `AsyncCriticRM`, whose arguments it takes, with methods that block. Safe between threads, and after a fork.

    Every method raises what the asynchronous one does.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        key: str | None = None,
        retries: Retries = DEFAULT_RETRIES,
        timeout_s: float = 310.0,
        deadline_s: float | None = None,
        model_version: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
        http_client: HTTPClient | None = None,
    ) -> None:
        self._client = AsyncCriticRM(
            url,
            key=key,
            retries=retries,
            timeout_s=timeout_s,
            deadline_s=deadline_s,
            model_version=model_version,
            transport=transport,
            headers=headers,
            http_client=http_client,
        )
        self._running: _Running | None = None
        self._closed = False
        self._lock = threading.Lock()
        _clients.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """As `AsyncCriticRM.__reduce__`."""
        return partial(type(self), **self._client._arguments, model_version=self._client._model_version), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; calls of other threads that wait raise ClientClosedError."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running.stop()
            running.join()

    def score(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        **options: Unpack[ItemOptions],
    ) -> ScoreResponse:
        """See `AsyncCriticRM.score`."""
        return self._call(lambda client: client.score(prompt, responses, **options))

    def score_items(self, items: Sequence[ItemLike], **options: Unpack[Options]) -> ScoreResponse:
        """See `AsyncCriticRM.score_items`."""
        return self._call(lambda client: client.score_items(items, **options))

    def compare(self, prompt: Prompt, first: str, second: str, **options: Unpack[ItemOptions]) -> Comparison:
        """See `AsyncCriticRM.compare`."""
        return self._call(lambda client: client.compare(prompt, first, second, **options))

    def best_of(self, prompt: Prompt, responses: Sequence[str], **options: Unpack[ItemOptions]) -> BestOf:
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
        everything = [as_item(item) for item in items]  # what is no item is an error before anything is sent
        found = []
        with progress_bar(len(everything), "item", progress) as bar:
            for scores in self.score_stream(everything, concurrency=concurrency, pack=pack, **options):
                found.append(scores)
                bar.update()
        return found

    def score_stream(
        self,
        items: Iterable[ItemLike],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        pack: int = DEFAULT_PACK,
        **options: Unpack[Options],
    ) -> Iterator[ItemScores]:
        """See `AsyncCriticRM.score_stream`. `items` is read in the caller's thread, and may use this client itself."""
        job = ScoringRun(self._client.score_items, concurrency, pack, options)
        running = self._start()
        begun: deque[concurrent.futures.Future[list[ItemScores]]] = deque()
        try:
            for together in job.packs(items):
                begun.append(running.submit(job.run(together)))
                while begun and (len(begun) >= job.window or begun[0].done()):
                    yield from running.result(begun.popleft())
            while begun:
                yield from running.result(begun.popleft())
        finally:
            for future in begun:
                future.cancel()

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
        return running.result(running.submit(ask(self._client)))

    def _start(self) -> _Running:
        """The thread, which the first call starts. Raises ClientClosedError."""
        with self._lock:
            if self._closed:
                raise ClientClosedError
            if self._running is None:
                self._running = _Running(self._client)
                # A client that is dropped without `close` ends its thread too.
                weakref.finalize(self, self._running.stop).atexit = False
            return self._running

    def _forked(self) -> None:
        """Begin anew in the child: a fork copies neither threads nor usable connections."""
        _parents.append((self._running, self._client._sessions.forget()))
        self._running = None
        self._lock = threading.Lock()


class _Running:
    """An event loop in a thread of its own, which does not keep the process from ending."""

    def __init__(self, client: AsyncCriticRM) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._is_stopping = False
        self._work: set[asyncio.Task[Any]] = set()
        started: _Started = concurrent.futures.Future()
        arguments = (client, started, self._work)
        self._thread = threading.Thread(target=_run_loop, args=arguments, name="criticrm-client", daemon=True)
        self._thread.start()
        self._loop, self._stopping = started.result()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin it. Raises ClientClosedError."""
        with self._lock:  # nothing comes to the loop after its end has begun, where it would wait for ever
            if self._is_stopping:
                work.close()
                raise ClientClosedError
            return asyncio.run_coroutine_threadsafe(_counted(work, self._work), self._loop)

    def result(self, future: concurrent.futures.Future[T]) -> T:
        """Wait for it; whatever interrupts the wait, Ctrl-C say, cancels it. Raises ClientClosedError."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("called in the client's own thread, which would wait for itself")
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._is_stopping:
                raise ClientClosedError from None
            raise
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Begin to end: what waits is cancelled, connections are closed. Does not wait; any thread may call it."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._is_stopping = True
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self) -> None:
        if threading.current_thread() is not self._thread:
            self._thread.join()


_Started = concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]


async def _counted(work: Coroutine[Any, Any, T], everything: set[asyncio.Task[Any]]) -> T:
    task = asyncio.current_task()
    assert task is not None
    everything.add(task)
    try:
        return await work
    finally:
        everything.discard(task)


def _run_loop(client: AsyncCriticRM, started: _Started, work: set[asyncio.Task[Any]]) -> None:
    async def until_stopped() -> None:
        stopping = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stopping))
        await stopping.wait()
        for task in work:  # only these: cancelled together with them, the tasks of a half-open connection leave it open
            task.cancel()
        if work:
            await asyncio.wait(work)
        await client.close()

    try:
        asyncio.run(until_stopped())
    except Exception as error:
        if not started.done():  # no file descriptor is left, say
            started.set_exception(APIConnectionError(f"the client's thread did not start: {error}"))
        raise


_clients: weakref.WeakSet[CriticRM] = weakref.WeakSet()
_parents: list[object] = []  # of the process that this one is a fork of; collected, they would touch its sockets


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
