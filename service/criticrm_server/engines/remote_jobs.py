"""A job at a stock vLLM server: token ids in, token ids and logits out, over HTTP."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
from pydantic import SecretStr
from pydantic_core import from_json

from criticrm_model import Completion

from ..errors import EngineFailed
from ..tracing import headers_of_job
from .backends import Backend
from .base import Job, Output
from .readout import read_completion, sampling_parameters
from .remote_checks import GENERATE, Unreachable, describe_error, excerpt, read_logits, request_body
from .watching import watch_at_the_end

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_CONNECT_S = 3.0
_KEEP_ALIVE_S = 3.0  # less than vLLM's 5, or a connection would be used while it closes it


class RemoteJobs:
    """Runs jobs of one checkpoint at servers, over connections that they share.

    Attributes:
        session: the connections, with the key; made in the event loop that uses them.
    """

    def __init__(self, checkpoint: Checkpoint, key: SecretStr | None) -> None:
        self.session = _new_session(key)
        self._tokens = checkpoint.manifest.reward_tokens
        self._stop_token_ids = checkpoint.renderer.stop_token_ids

    async def run(self, server: Backend, job: Job) -> Output:
        """Raises EngineFailed, NonFiniteReward; Unreachable if another server may do better."""
        body = request_body(job.token_ids, sampling_parameters(job, self._tokens, self._stop_token_ids))
        try:
            async with asyncio.timeout(None) as attempt:
                server.attempts.add(attempt)
                async with self.session.post(server.url + GENERATE, data=body, headers=headers_of_job()) as answer:
                    content = await answer.read()
        except aiohttp.ClientError as error:  # before the next, for some are time-outs too
            trouble = f"its connection broke ({describe_error(error)})"
            server.mark_unhealthy(trouble)
            raise Unreachable(trouble) from error
        except TimeoutError as error:
            raise Unreachable("it stopped answering") from error
        finally:
            server.attempts.discard(attempt)
        if answer.status != 200:
            server.probe_now.set()  # it may have been started anew in another way
            if answer.status >= 500:
                raise Unreachable(f"it answered {answer.status}: {excerpt(content)}")
            logger.error("%s refused a request with %d: %s", server.url, answer.status, excerpt(content))
            raise EngineFailed(f"{server.name} refused a request with {answer.status}")
        try:
            found = from_json(content)
            choices = sorted(found["choices"], key=lambda choice: choice["index"])
            cached = (found["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            if any(choice["finish_reason"] == "abort" for choice in choices):  # it is being stopped
                server.probe_now.set()
                raise Unreachable("the server aborted the request")
            completions = [self._completion(choice, job) for choice in choices]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise EngineFailed(f"{server.name} does not return what vLLM returns: {excerpt(content)}") from error
        if len(completions) != job.n:
            raise EngineFailed(f"{server.name} returned {len(completions)} critiques instead of {job.n}")
        output = Output(completions, cached_tokens=cached)
        await watch_at_the_end(job, output)
        return output

    def _completion(self, choice: dict[str, Any], job: Job) -> Completion:
        token_ids = choice["token_ids"]
        if [step["top_logprobs"][0]["token_id"] for step in choice["logprobs"]["content"]] != token_ids:
            raise EngineFailed("the server returned logits of other tokens than it wrote")
        return read_completion(
            token_ids, choice["finish_reason"], read_logits(choice, self._tokens.ids), self._tokens, job
        )


def _new_session(key: SecretStr | None) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    # How long an answer takes is bounded by the request's deadline.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        headers=headers,
    )
