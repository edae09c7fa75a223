"""`AsyncCriticRM`: all that the client does. `CriticRM` runs it for callers without an event loop."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from .columns import DEFAULT_COLUMNS, Columns
from .errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APITimeoutError,
    CheckpointChangedError,
    status_error,
)
from .progress import progress_bar
from .retries import DEFAULT_RETRIES, Retries, Servers, retry_after_s
from .score_file import FileSummary, score_file
from .score_many import DEFAULT_CONCURRENCY, DEFAULT_PACK, as_item, scored_in_order
from .types import BestOf, Comparison, Item, ItemLike, ItemScores, ModelInfo, Options, Prompt, Result, ScoreResponse

_CONNECT_TIMEOUT_S = 10.0

M = TypeVar("M", bound=BaseModel)


class AsyncCriticRM:
    """A client of one Critic-RM service, or of several servers of the same checkpoint.

    Args:
        url: of the service; several share the load, and one that fails is set aside and tried again.
        key: of the service, where it asks for one.
        retries: how often, and how patiently.
        timeout_s: of one attempt. The server's own deadline is 300 s unless it was told otherwise.
        deadline_s: of a whole call with its retries (of each request of `score_many`); none unless given.
        model_version: of the checkpoint whose rewards are wanted; that of the first answer unless given. Rewards of
            two checkpoints can't be compared, so an answer of another one is an error (CheckpointChangedError).
        transport: an httpx transport in place of the network, such as `httpx.ASGITransport(app)`.

    Every method raises APIError, as one of the exceptions of `criticrm_client.errors`, and ValueError for arguments
    that no server would take.
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
        self._servers = Servers([url] if isinstance(url, str) else url)
        self._retries = retries
        self._deadline_s = deadline_s
        self._model_version = model_version
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s)),
            # Callers bound what is in flight; a pool that is smaller would make requests wait unseen.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def score(self, prompt: Prompt, responses: Sequence[str], **options: Unpack[Options]) -> ScoreResponse:
        """Critique and score responses to one prompt. A response that can't be scored is an error in its result."""
        item = as_item((prompt, responses))
        return await self._score({"prompt": item.prompt, "responses": item.responses, **_body(options)}, [item])

    async def score_items(self, items: Sequence[Item], **options: Unpack[Options]) -> ScoreResponse:
        """Several prompts in one request: all of it fails together, unlike `score_many`."""
        return await self._score({"items": [item.model_dump() for item in items], **_body(options)}, items)

    async def compare(self, prompt: Prompt, first: str, second: str, **options: Unpack[Options]) -> Comparison:
        """Which of two responses is better. Raises ResultError if one could not be scored."""
        results = _all_scored(await self.score(prompt, [first, second], **options))
        return Comparison(first=results[0], second=results[1])

    async def best_of(self, prompt: Prompt, responses: Sequence[str], **options: Unpack[Options]) -> BestOf:
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
        everything = [as_item(item) for item in items]  # what is no item is told before anything is sent
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
        info = _parsed(ModelInfo, answer, request_id)
        self._check_version(info.model_version, request_id)
        return info

    async def _score(self, body: Mapping[str, Any], items: Sequence[Item]) -> ScoreResponse:
        answer, request_id = await self._send("POST", "/score", to_json(body))
        scored = _parsed(ScoreResponse, answer, request_id)
        asked = [(item.id, index) for item in items for index in range(len(item.responses))]
        if [(result.id, result.index) for result in scored.results] != asked:
            raise APIResponseError("the results are not those of the responses that were sent", request_id)
        self._check_version(scored.model_version, request_id)
        return scored

    def _check_version(self, found: str, request_id: str) -> None:
        if self._model_version is None:
            self._model_version = found
        elif found != self._model_version:
            raise CheckpointChangedError(
                f"the service answers with checkpoint {found}, and this client's is {self._model_version}; their "
                "rewards can't be compared. To go on with the new one, begin anew with another client",
                request_id,
            )

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
        headers = {"X-Request-ID": request_id}
        if content is not None:
            headers["Content-Type"] = "application/json"
        attempt = 0
        while True:
            attempt += 1
            server = self._servers.choose()
            asked_to_wait_s: float | None = None
            server.in_flight += 1
            try:
                answer = await self._http.request(method, server.url + path, content=content, headers=headers)
            except httpx.TransportError as broken:
                failure: APIError = _connection_error(broken, server.url, request_id)
            else:
                if answer.status_code == 200:
                    self._servers.worked(server)
                    return answer
                failure = status_error(answer, request_id)
                if answer.status_code < 500:
                    self._servers.worked(server)
                    raise failure
                asked_to_wait_s = retry_after_s(answer)
            finally:
                server.in_flight -= 1
            wait_s = retries.wait_s(attempt, asked_to_wait_s)
            another = self._servers.failed(server, wait_s)
            if attempt == retries.attempts:
                if attempt > 1:
                    failure.add_note(f"in the last of {attempt} attempts")
                raise failure
            await asyncio.sleep(0 if another else wait_s)


def _body(options: Options) -> dict[str, Any]:
    critique = options.get("critique", True)
    given: dict[str, Any] = dict(options)
    if isinstance(critique, BaseModel):
        given["critique"] = critique.model_dump()
    return given


def _all_scored(scored: ScoreResponse) -> list[Result]:
    _ = scored.rewards
    return scored.results


def _parsed(kind: type[M], answer: httpx.Response, request_id: str) -> M:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as invalid:
        fault = invalid.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "body"
        raise APIResponseError(
            f"{answer.url} gave no {kind.__name__}: {where}: {fault['msg']}; is it a Critic-RM service?", request_id
        ) from invalid


def _connection_error(broken: httpx.TransportError, url: str, request_id: str) -> APIConnectionError:
    kind = APITimeoutError if isinstance(broken, httpx.TimeoutException) else APIConnectionError
    return kind(f"{url}: {type(broken).__name__}{f': {broken}' if str(broken) else ''}", request_id)
