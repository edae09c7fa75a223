"""The gateway: jobs go to stock vLLM servers over HTTP, token ids in, token ids and logits out (docs/adr/0009).

A server that fails is set aside and asked again with growing pauses; its jobs go elsewhere at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic_core import from_json

from criticrm_model import Completion, CriticRMError

from ..errors import EngineFailed, NoServer
from ..settings import Settings
from .base import Job, Output
from .readout import read_completion, sampling_parameters
from .remote_checks import (
    GENERATE,
    Checks,
    Look,
    Unfit,
    Unreachable,
    excerpt,
    read_logits,
    request_body,
    server_command,
    words,
)
from .servers import Server, Servers

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_EVERY_S = 2.0  # between two looks at a server that is up
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0  # before another look at one that is not
_CONNECT_S = 3.0
_KEEP_ALIVE_S = 3.0  # less than vLLM's 5, or a connection would be used while it closes it
# A job that was sent to this many servers, each of which failed, may be why: it does not get to try all of them.
_MOST_TRIES = 3


Answers = dict[Server, Look | Unfit | Unreachable]
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class RemoteEngine(Collector):
    """Runs jobs on vLLM servers. As a collector it gives their metrics."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self.checks = Checks(checkpoint, settings.max_model_len)
        self.servers = Servers(settings.remote_urls)
        self._reward_token_id = checkpoint.manifest.reward_token_id
        self._stop_token_ids = checkpoint.renderer.stop_token_ids
        self._key = settings.remote_api_key
        self._command = server_command(checkpoint)
        self._session: aiohttp.ClientSession | None = None
        self._watching: list[asyncio.Task[None]] = []

    @classmethod
    def start(cls, checkpoint: Checkpoint, settings: Settings) -> tuple[RemoteEngine, int]:
        """An engine of which at least one server is up, and the longest sequence it takes, in tokens.

        Waits `remote_wait_s` for the first server; those that are not there yet are taken when they come. Call it
        where no event loop runs.

        Raises:
            CriticRMError: what is wrong with each server, and how to start it.
        """
        engine = cls(checkpoint, settings)
        return engine, asyncio.run(engine._wait(settings.remote_wait_s))

    async def _wait(self, patience_s: float) -> int:
        deadline = time.monotonic() + patience_s
        async with self._new_session() as session:
            answers = await self._look_at_all(session)
            if not _answered(answers):
                logger.info("    %s", "\n    ".join(self._how()))
            told = ""
            while not _answered(answers) and time.monotonic() < deadline:
                if told != (told := _list(answers)):
                    logger.info("    no server answers yet (%s); waiting", told)
                await asyncio.sleep(min(2.0, patience_s))
                answers = await self._look_at_all(session)
        return self._accept(answers, patience_s)

    async def _look_at_all(self, session: aiohttp.ClientSession) -> Answers:
        async def look(server: Server) -> Look | Unfit | Unreachable:
            try:
                return await self.checks.look(session, server)
            except (Unfit, Unreachable) as error:
                return error

        servers = self.servers.all
        return dict(zip(servers, await asyncio.gather(*map(look, servers)), strict=True))

    def _accept(self, answers: Answers, waited_s: float) -> int:
        faults = []
        for server, answer in answers.items():
            if isinstance(answer, Look):
                server.up = True
                self.checks.expected = self.checks.expected or answer.rewards
                if apart := self.checks.apart(answer.rewards):
                    faults.append(f"{server.url}: {apart}")
            elif isinstance(answer, Unfit):
                faults += [f"{server.url}: {fault}" for fault in answer.args]
            else:
                server.trouble = str(answer)
        if faults:
            raise CriticRMError("\n  ".join(["servers that can't be used:", *faults, *self._how()]))
        lengths = [answer.max_model_len for answer in answers.values() if isinstance(answer, Look)]
        if not lengths:
            what = f"no server answered within {waited_s:g} s: {_list(answers)}"
            raise CriticRMError("\n  ".join([what, *self._how()]))
        for server in self.servers.all:
            if not server.up:
                logger.warning("%s is not there yet (%s); it is used when it is", server.url, server.trouble)
        # Those that come later must take as much as was promised to callers.
        self.checks.max_model_len = self.checks.max_model_len or min(lengths)
        return self.checks.max_model_len

    def _how(self) -> list[str]:
        return ["a server is started with", *self._command.splitlines()]

    async def run(self, job: Job) -> Output:
        """Raises NoServer, EngineFailed, NonFiniteReward."""
        self._open()
        tried: list[Server] = []
        troubles: list[str] = []
        blamed = 0
        while blamed < _MOST_TRIES and (server := self.servers.choose(job.group, tried)):
            tried.append(server)
            try:
                with self.servers.working(server, job.group, job.n):
                    return await self._ask(server, job)
            except Unreachable as error:
                server.failures += 1
                troubles.append(f"{server.name}: {error}")
                blamed += not isinstance(error.__cause__, _NOT_CONNECTED)
        if troubles:
            raise EngineFailed(f"no server finished this: {'; '.join(troubles)}")
        raise self._no_server()

    async def _ask(self, server: Server, job: Job) -> Output:
        """Raises Unreachable if another server may do better."""
        assert self._session is not None
        body = request_body(job.token_ids, sampling_parameters(job, self._reward_token_id, self._stop_token_ids))
        try:
            async with asyncio.timeout(None) as attempt:
                server.attempts.add(attempt)
                async with self._session.post(server.url + GENERATE, data=body) as answer:
                    content = await answer.read()
        except aiohttp.ClientError as error:  # before the next, for some are time-outs too
            trouble = f"its connection broke ({words(error)})"
            server.set_aside(trouble)
            raise Unreachable(trouble) from error
        except TimeoutError as error:
            raise Unreachable("it stopped answering") from error
        finally:
            server.attempts.discard(attempt)
        if answer.status != 200:
            server.look.set()  # it may have been started anew in another way
            if answer.status >= 500:
                raise Unreachable(f"it answered {answer.status}: {excerpt(content)}")
            logger.error("%s refused a request with %d: %s", server.url, answer.status, excerpt(content))
            raise EngineFailed(f"{server.name} refused a request with {answer.status}")
        try:
            found = from_json(content)
            choices = sorted(found["choices"], key=lambda choice: choice["index"])
            cached = (found["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            if any(choice["finish_reason"] == "abort" for choice in choices):  # it is being stopped
                server.look.set()
                raise Unreachable("it gave up the request")
            completions = [self._completion(choice) for choice in choices]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise EngineFailed(f"{server.name} does not answer as vLLM does: {excerpt(content)}") from error
        if len(completions) != job.n:
            raise EngineFailed(f"{server.name} gave {len(completions)} critiques of {job.n}")
        return Output(completions, cached_tokens=cached)

    def _completion(self, choice: dict[str, Any]) -> Completion:
        rewards = [logit for token_id, logit in read_logits(choice) if token_id == self._reward_token_id]
        return read_completion(choice["token_ids"], choice["finish_reason"], rewards, self._reward_token_id)

    async def check_health(self) -> None:
        """Raises NoServer while none is up."""
        self._open()
        for task in self._watching:
            if task.done():
                task.result()  # it runs for ever, unless there is a bug: then it raises
        if not any(server.up for server in self.servers.all):
            raise self._no_server()

    async def close(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def collect(self) -> Iterator[Metric]:
        """Prometheus metrics, by server."""
        up = GaugeMetricFamily("criticrm_server_up", "1 if the server is given work.", labels=["server"])
        sequences = GaugeMetricFamily("criticrm_server_sequences", "Sequences in work there.", labels=["server"])
        failures = CounterMetricFamily(
            "criticrm_server_failures", "Jobs it did not finish, which went to another.", labels=["server"]
        )
        for server in self.servers.all:
            up.add_metric([server.name], float(server.up))
            sequences.add_metric([server.name], server.sequences)
            failures.add_metric([server.name], server.failures)
        yield from (up, sequences, failures)

    def _no_server(self) -> NoServer:
        return NoServer(f"none of the servers is up: {_list({s: s.trouble for s in self.servers.all})}")

    def _open(self) -> None:
        """In the event loop that serves, which is not the one that waited for the servers."""
        if self._session is None:
            self._session = self._new_session()
            self._watching = [asyncio.create_task(self._watch(self._session, server)) for server in self.servers.all]

    def _new_session(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        # How long an answer takes is bounded by the request's deadline.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            headers=headers,
        )

    async def _watch(self, session: aiohttp.ClientSession, server: Server) -> None:
        """For ever: look whether a server that is up still is, and whether one that is not is back."""
        pause_s = _FIRST_PAUSE_S
        while True:
            if server.up:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY_S):
                        await server.look.wait()
                server.look.clear()
                if server.up:
                    await self._check_up(session, server)
                if not server.up:
                    logger.warning("%s is set aside: %s", server.url, server.trouble)
                    pause_s = _FIRST_PAUSE_S
                continue
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                look = await self.checks.look(session, server)
            except (Unfit, Unreachable) as error:
                trouble = "; ".join(error.args)
                if isinstance(error, Unfit) and trouble != server.trouble:
                    logger.error("%s can't be used: %s\n  %s", server.url, trouble, "\n  ".join(self._how()))
                server.trouble = trouble
                server.give_up()
                continue
            self.checks.expected = self.checks.expected or look.rewards
            server.up = True
            server.look.clear()
            logger.info("%s is up", server.url)

    async def _check_up(self, session: aiohttp.ClientSession, server: Server) -> None:
        try:
            try:
                await self.checks.alive(session, server)
            except Unreachable as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise
                await self.checks.alive(session, server)  # a busy server may be late once
        except (Unfit, Unreachable) as error:
            server.set_aside("; ".join(error.args))
            server.give_up()


def _answered(answers: Answers) -> bool:
    return not all(isinstance(answer, Unreachable) for answer in answers.values())


def _list(troubles: Mapping[Server, object]) -> str:
    return "; ".join(f"{server.url}: {trouble}" for server, trouble in troubles.items())
