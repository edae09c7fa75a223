"""`AsyncCriticRM`: all that the client does. `CriticRM` runs it for callers without an event loop."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from . import environment
from .arguments import ItemLike, ItemOptions, Options, Prompt, split_options
from .attempts import Failure, attempt
from .bodies import parse_answer, request_body
from .columns import DEFAULT_COLUMNS, Columns
from .errors import APIResponseError, APIStatusError, APITimeoutError, ClientClosedError, checkpoint_changed
from .outcomes import BestOf, Comparison, ItemScores
from .progress import progress_bar
from .retries import DEFAULT_RETRIES, MOST_SERVERS, Retries, Server
from .retry_log import RetryLog
from .schemas import Item, ModelInfo, Result, ScoreResponse
from .score_file import FileSummary, score_file
from .score_many import DEFAULT_CONCURRENCY, DEFAULT_PACK, as_item, scored_in_order
from .sessions import HTTPClient, Sessions


class AsyncCriticRM:
    """A client of one Critic-RM service, or of several servers of the same checkpoint.

    It can be used in several event loops, one after the other or in threads, and can be pickled. `asyncio.run` closes
    its connections as it ends.

    Args:
        url: of the service; several share the load, and one that fails is avoided, then tried again. A user and a
            password in it are sent as HTTP Basic. Default: those in CRITICRM_URL, separated by commas, or
            http://127.0.0.1:8000.
        key: API key of the service. Default: CRITICRM_KEY; an empty one is none.
        retries: how often, and how patiently. A request after which servers fail is sent to three of them at most.
        timeout_s: of one attempt. The server's own deadline is 300 s by default (`--deadline-s`).
        deadline_s: of a whole call with its retries (of each request of `score_many`); none by default.
        model_version: of the checkpoint whose rewards are wanted; by default that of the first answer. Rewards of
            two checkpoints can't be compared, so another one is an error (CheckpointChangedError). It is sent with
            each request, and a service that has another checkpoint refuses the request before any work.
        transport: an httpx transport in place of the network, such as `httpx.ASGITransport(app)`.
        headers: sent with every request, for a proxy say. They may replace the User-Agent; the key's header
            (Authorization) and those of the body and the request's id are refused.
        http_client: for proxies, certificates, limits or `auth` of your own, a function that makes an
            `httpx.AsyncClient`: called once for each event loop. Or such a client itself, which then serves one event
            loop. Either is closed by `close`, or with its loop. Its `auth` replaces the key; its timeouts are not used,
            and neither are HTTPS_PROXY and its like unless it reads them.

    Retries are logged by `criticrm_client`: as WARNING once in ten minutes for each kind of failure, else as INFO.

    Every method raises APIError, as one of the exceptions of `criticrm_client.errors`, and ValueError for arguments
    that no server would take. So does the constructor, for a URL, a key, a header, a time or a proxy that can't be.
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
        for name, value in (("timeout_s", timeout_s), ("deadline_s", deadline_s)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: {value} is no time in seconds")
        if url is None:
            url = environment.urls() or environment.DEFAULT_URL
        urls = [url] if isinstance(url, str) else list(url)
        key = environment.key() if key is None else key
        self._sessions = Sessions(urls, key, timeout_s, transport, headers, http_client)
        self._retry_log = RetryLog()
        self._arguments: dict[str, Any] = {
            "url": urls,
            "key": key,
            "retries": retries,
            "timeout_s": timeout_s,
            "deadline_s": deadline_s,
            "transport": transport,
            "headers": headers,
            "http_client": http_client,
        }
        self._retries = retries
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._model_version = model_version

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its arguments, for the checkpoint that it knows: connections don't go between processes."""
        return partial(type(self), **self._arguments, model_version=self._model_version), ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls that wait raise ClientClosedError, as do later ones."""
        await self._sessions.close()

    async def score(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        **options: Unpack[ItemOptions],
    ) -> ScoreResponse:
        """Critique and score responses to one prompt. A response that can't be scored is an error in its result."""
        fields, of_request = split_options(options)
        item = as_item({"prompt": prompt, "responses": responses, **fields})
        return await self._score(item.model_dump(exclude_none=True), [item], of_request)

    async def score_items(self, items: Sequence[ItemLike], **options: Unpack[Options]) -> ScoreResponse:
        """Several prompts in one request: all of it fails together, unlike `score_many`.

        Args:
            items: as `score_many` takes them.
        """
        wanted = list(map(as_item, items))
        return await self._score({"items": [item.model_dump(exclude_none=True) for item in wanted]}, wanted, options)

    async def compare(self, prompt: Prompt, first: str, second: str, **options: Unpack[ItemOptions]) -> Comparison:
        """Which of two responses is better. Raises ResultError if one could not be scored."""
        results = _all_scored(await self.score(prompt, [first, second], **options))
        return Comparison(first=results[0], second=results[1])

    async def best_of(self, prompt: Prompt, responses: Sequence[str], **options: Unpack[ItemOptions]) -> BestOf:
        """The response with the highest reward, the first of equals. Raises ResultError if one could not be scored."""
        results = _all_scored(await self.score(prompt, responses, **options))
        index = max(range(len(results)), key=lambda i: results[i].reward)
        return BestOf(index=index, response=responses[index], results=results)

    async def score_many(
        self,
        items: Iterable[ItemLike],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        pack: int = DEFAULT_PACK,
        progress: bool | None = None,
        **options: Unpack[Options],
    ) -> list[ItemScores]:
        """Score any number of items, in order. What fails is in its place, with its error: `rewards` raises that.

        Args:
            items: `Item`s, mappings with its fields, or pairs of a prompt and its responses.
            concurrency: requests in flight.
            pack: responses that share a request; an item is never split.
            progress: a bar; by default where standard error is a terminal.

        Raises:
            APIStatusError: of the job and not of an item, such as a wrong key.
            APIConnectionError: the service has gone: nothing has worked for a whole round of requests.
        """
        everything = [as_item(item) for item in items]  # what is no item is an error before anything is sent
        found = []
        with progress_bar(len(everything), "item", progress) as bar:
            async for scores in self.score_stream(everything, concurrency=concurrency, pack=pack, **options):
                found.append(scores)
                bar.update()
        return found

    async def score_stream(
        self,
        items: Iterable[ItemLike],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        pack: int = DEFAULT_PACK,
        **options: Unpack[Options],
    ) -> AsyncGenerator[ItemScores]:
        """As `score_many`, one by one as they are ready, in order; holds a bounded number however many there are."""
        async for scores in scored_in_order(self.score_items, items, concurrency, pack, options):
            yield scores

    async def score_file(
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
        """Score each row of a JSONL or Parquet file; goes on where it was killed. See `criticrm_client.score_file`."""
        return await score_file(
            self, Path(source), Path(out), columns, concurrency=concurrency, pack=pack, progress=progress, **options
        )

    async def health(self) -> bool:
        """Whether a server takes work. Raises APIStatusError where it answers that it does not."""
        await self._send("GET", "/health/ready", None, Retries(attempts=1))
        return True

    async def model_info(self) -> ModelInfo:
        """The checkpoint and the server's limits."""
        answer, request_id = await self._send("GET", "/v1/model", None)
        info = parse_answer(ModelInfo, answer, request_id)
        self._check_version(info.model_version, request_id, answer)
        return info

    async def _score(self, fields: dict[str, Any], items: Sequence[Item], options: Options) -> ScoreResponse:
        answer, request_id = await self._send("POST", "/score", request_body(fields, options, self._model_version))
        scored = parse_answer(ScoreResponse, answer, request_id)
        asked = [(item.id, index) for item in items for index in range(len(item.responses))]
        if [(result.id, result.index) for result in scored.results] != asked:
            raise APIResponseError("the results are not those of the responses that were sent", request_id, answer)
        self._check_version(scored.model_version, request_id, answer)
        return scored

    def _check_version(self, found: str, request_id: str, answer: httpx.Response) -> None:
        if self._model_version is None:
            self._model_version = found
        elif found != self._model_version:
            raise checkpoint_changed(found, self._model_version, request_id, answer)

    async def _send(
        self, method: str, path: str, content: bytes | None, retries: Retries | None = None
    ) -> tuple[httpx.Response, str]:
        """The first answer with status 200, and its request id."""
        request_id = uuid.uuid4().hex
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._attempts(method, path, content, request_id, retries or self._retries), request_id
        except TimeoutError as late:
            raise APITimeoutError(f"not done within deadline_s={self._deadline_s:g}", request_id) from late

    async def _attempts(
        self, method: str, path: str, content: bytes | None, request_id: str, retries: Retries
    ) -> httpx.Response:
        headers = {**self._sessions.headers, b"X-Request-ID": request_id.encode()}
        if content is not None:
            headers[b"Content-Type"] = b"application/json"
        blamed: list[Server] = []  # servers that failed while they had the request
        for number in count(1):
            session = await self._sessions.current()
            servers, among = session.servers, blamed if len(blamed) == MOST_SERVERS else []
            server = servers.choose(among)
            request = session.http.build_request(
                method, server.url + path, content=content, headers=headers, timeout=self._sessions.timeout
            )
            server.in_flight += 1
            try:
                answer = await attempt(session.http, server, request, self._timeout_s, request_id)
            finally:
                server.in_flight -= 1
            if not isinstance(answer, Failure):
                servers.worked(server)
                return answer
            if self._sessions.is_closed:
                raise ClientClosedError from answer.error
            if answer.is_final:
                if isinstance(answer.error, APIStatusError):
                    servers.worked(server)
                raise answer.error
            if answer.blames_request and server not in blamed:
                blamed.append(server)
            wait_s = retries.wait_s(number, answer.retry_after_s)
            another = servers.failed(server, wait_s, blamed if len(blamed) == MOST_SERVERS else [])
            if number == retries.attempts:
                if number > 1:
                    answer.error.add_note(f"in the last of {number} attempts")
                raise answer.error
            wait_s = 0 if another else wait_s
            self._retry_log.retrying(server.url, answer.error, number, retries.attempts, wait_s, request_id)
            await asyncio.sleep(wait_s)
        raise AssertionError  # `count` has no end


def _all_scored(scored: ScoreResponse) -> list[Result]:
    _ = scored.rewards
    return scored.results
