"""Many POSTs to one HTTP service: bounded concurrency, and what passes is tried again."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import Any

import httpx

from criticrm_model import CriticRMError

ATTEMPTS = 6
_LONGEST_WAIT_S = 30.0


class EndpointError(CriticRMError):
    """The service refused a request, or could not be reached in all attempts.

    Attributes:
        request: the number of the request, from 0, among those that were sent with it.
    """

    def __init__(self, message: str, request: int = 0) -> None:
        super().__init__(message)
        self.request = request


class Endpoint:
    """A service at a URL.

    Args:
        key: sent as a bearer token, without the white space around it.
        concurrency: requests in flight.
        timeout_s: of one attempt.
    """

    def __init__(self, url: str, *, key: str | None = None, concurrency: int = 32, timeout_s: float = 300) -> None:
        self.url = url.rstrip("/")
        key = (key or "").strip()
        if not key.isprintable():
            raise EndpointError("the key holds a control character, which no HTTP header can carry")
        self._headers = {b"Authorization": f"Bearer {key}".encode()} if key else {}
        self._concurrency = concurrency
        self._timeout_s = timeout_s

    def post_all(self, path: str, bodies: Sequence[Any]) -> list[Any]:
        """The JSON answers, in order. 429, 5xx and broken connections are tried again, `ATTEMPTS` times in all.

        Raises:
            EndpointError: at the first request that fails for good; the others are cancelled.
        """
        return list(self.post_each(path, bodies))

    def post_each(self, path: str, bodies: Iterable[Any]) -> Generator[Any, None, None]:
        """As `post_all`, but one answer after the other, and the bodies are read as their requests can start.

        The answers to later requests wait for the earlier ones, and up to twice `concurrency` have begun at a time: a
        slow one does not stop the others. While the caller works on an answer, no request is started. Close it
        (`contextlib.closing`) unless it is read to its end.
        """
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            source, begun, failed = enumerate(bodies), deque[asyncio.Task[Any]](), loop.create_future()
            limits = httpx.Limits(max_connections=self._concurrency)
            client = httpx.AsyncClient(headers=self._headers, timeout=self._timeout_s, limits=limits)
            slots = asyncio.Semaphore(self._concurrency)

            async def post(number: int, body: Any) -> Any:
                async with slots:
                    try:
                        return await self._post(client, self.url + path, number, body)
                    except Exception as error:
                        if not failed.done():
                            failed.set_result(error)
                        raise

            async def first() -> Any:
                await asyncio.wait({begun[0], failed}, return_when=asyncio.FIRST_COMPLETED)
                if failed.done():
                    raise failed.result()
                return begun.popleft().result()

            async def end() -> None:
                for task in begun:
                    task.cancel()
                await asyncio.gather(*begun, return_exceptions=True)
                await client.aclose()

            try:
                while True:
                    waiting = islice(source, 2 * self._concurrency - len(begun))
                    begun.extend(loop.create_task(post(*numbered)) for numbered in waiting)
                    if not begun:
                        return
                    yield runner.run(first())
            finally:
                try:
                    runner.run(end())
                except RuntimeError:
                    # An exit that a signal handler raised in the loop can leave the stop of the answer before, which
                    # then ends this run too early.
                    runner.run(end())

    async def _post(self, client: httpx.AsyncClient, url: str, number: int, body: Any) -> Any:
        try:
            content = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise EndpointError(f"a text with a lone surrogate can't be sent to {url}: {error}", number) from error
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(2**attempt, _LONGEST_WAIT_S) * random.uniform(0.5, 1))
            try:
                answer = await client.post(url, content=content, headers={"Content-Type": "application/json"})
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == 429 or answer.status_code >= 500:
                reason = f"{answer.status_code}: {answer.text[:200]}"
                continue
            if answer.status_code != 200:
                raise EndpointError(f"{url} answered {answer.status_code}: {answer.text[:500]}", number)
            try:
                return answer.json()
            except ValueError as error:
                kind = answer.headers.get("Content-Type", "no content type")
                raise EndpointError(
                    f"{url} answered 200 with no JSON ({kind}): {answer.text[:200]!r}; is that its API's address?",
                    number,
                ) from error
        raise EndpointError(f"{url} failed {ATTEMPTS} times, last with {reason}", number)
