"""The gateway: jobs go to stock vLLM servers over HTTP, token ids in, token ids and logits out (docs/adr/0009).

A server that fails is unhealthy and probed again with growing pauses; its jobs go to other servers at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from criticrm_model import CriticRMError

from ..errors import EngineFailed, NoServer
from ..settings import Settings
from .backends import Backend, Backends
from .base import Facts, FixedWeights, Job, Output
from .remote_checks import Checks, Probe, Unfit, Unreachable, server_command
from .remote_jobs import RemoteJobs

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_EVERY_S = 2.0  # between two probes of a healthy server
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0  # before an unhealthy server is probed again
# A job that was sent to this many servers, each of which failed, may be why: it does not get to try all of them.
_MOST_TRIES = 3


Answers = dict[Backend, Probe | Unfit | Unreachable]
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class RemoteEngine(Collector, FixedWeights):
    """Runs jobs on vLLM servers. As a collector it gives their metrics."""

    why = "a gateway's servers are their own, and it can't make them"

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self.facts = Facts()
        self.max_model_len = 0
        self.checks = Checks(checkpoint, settings.max_model_len, settings.head_float32)
        self.backends = Backends(settings.remote_urls)
        self._checkpoint = checkpoint
        self._settings = settings
        self._command = server_command(checkpoint)
        self._jobs: RemoteJobs | None = None
        self._watching: list[asyncio.Task[None]] = []

    @property
    def jobs(self) -> RemoteJobs:
        """How jobs get to the servers, once this engine has started."""
        assert self._jobs is not None
        return self._jobs

    async def start(self) -> None:
        """Wait `remote_wait_s` for the first server; the others get jobs as soon as they answer.

        Raises:
            CriticRMError: what is wrong with each server, and how to start it.
        """
        self._jobs = RemoteJobs(self._checkpoint, self._settings.remote_api_key)
        patience_s = self._settings.remote_wait_s
        deadline = time.monotonic() + patience_s
        answers = await self._probe_all()
        if not _any_answered(answers):
            logger.info("    %s", "\n    ".join(self._describe_start()))
        reported = ""
        while not _any_answered(answers) and time.monotonic() < deadline:
            if reported != (reported := _format_troubles(answers)):
                logger.info("    no server answers yet (%s); waiting", reported)
            await asyncio.sleep(min(2.0, patience_s))
            answers = await self._probe_all()
        self.max_model_len = self._accept(answers, patience_s)
        self._watching = [asyncio.create_task(self._watch(server)) for server in self.backends.all]

    async def _probe_all(self) -> Answers:
        async def probe(server: Backend) -> Probe | Unfit | Unreachable:
            try:
                return await self._probe(server)
            except (Unfit, Unreachable) as error:
                return error

        servers = self.backends.all
        return dict(zip(servers, await asyncio.gather(*map(probe, servers)), strict=True))

    async def _probe(self, server: Backend) -> Probe:
        return await self.checks.probe(self.jobs.session, server, partial(self.jobs.run, server))

    def _accept(self, answers: Answers, waited_s: float) -> int:
        faults = []
        for server, answer in answers.items():
            if isinstance(answer, Probe):
                server.up = True
                self.checks.expected = self.checks.expected or answer.rewards
                if apart := self.checks.apart(answer.rewards):
                    faults.append(f"{server.url}: {apart}")
            elif isinstance(answer, Unfit):
                faults += [f"{server.url}: {fault}" for fault in answer.args]
            else:
                server.trouble = str(answer)
        if faults:
            raise CriticRMError("\n  ".join(["these vLLM servers can't be used:", *faults, *self._describe_start()]))
        lengths = [answer.max_model_len for answer in answers.values() if isinstance(answer, Probe)]
        if not lengths:
            what = f"no server answered within {waited_s:g} s: {_format_troubles(answers)}"
            raise CriticRMError("\n  ".join([what, *self._describe_start()]))
        for server in self.backends.all:
            if not server.up:
                logger.warning("%s does not answer yet (%s); it gets jobs once it does", server.url, server.trouble)
        # Those that come later must take as much as was promised to callers.
        self.checks.max_model_len = self.checks.max_model_len or min(lengths)
        return self.checks.max_model_len

    def _describe_start(self) -> list[str]:
        return ["a server is started with", *self._command.splitlines()]

    async def run(self, job: Job) -> Output:
        """Raises NoServer, EngineFailed, NonFiniteReward."""
        tried: list[Backend] = []
        troubles: list[str] = []
        blamed = 0
        while blamed < _MOST_TRIES and (server := self.backends.choose(job.group, tried)):
            tried.append(server)
            try:
                with self.backends.working(server, job.group, job.n):
                    return await self.jobs.run(server, job)
            except Unreachable as error:
                server.failures += 1
                troubles.append(f"{server.name}: {error}")
                blamed += not isinstance(error.__cause__, _NOT_CONNECTED)
        if troubles:
            raise EngineFailed(f"no vLLM server finished the job: {'; '.join(troubles)}")
        raise self._no_server()

    async def check_health(self) -> None:
        """Raises NoServer while none is up."""
        if not any(server.up for server in self.backends.all):
            raise self._no_server()

    async def close(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        if self._jobs is not None:
            await self._jobs.session.close()

    def collectors(self) -> Sequence[Collector]:
        return (self,)

    def collect(self) -> Iterator[Metric]:
        """Prometheus metrics, by server."""
        up = GaugeMetricFamily(
            "criticrm_server_up", "1 if the vLLM server is healthy and receives jobs, else 0.", labels=["server"]
        )
        sequences = GaugeMetricFamily(
            "criticrm_server_sequences",
            "Sequences of this gateway in flight on the vLLM server; those of other gateways are not counted.",
            labels=["server"],
        )
        failures = CounterMetricFamily(
            "criticrm_server_failures",
            "Jobs that the vLLM server did not finish: no answer, or a 5xx. Each is tried on another, if one is left.",
            labels=["server"],
        )
        for server in self.backends.all:
            up.add_metric([server.name], float(server.up))
            sequences.add_metric([server.name], server.sequences)
            failures.add_metric([server.name], server.failures)
        yield from (up, sequences, failures)

    def _no_server(self) -> NoServer:
        return NoServer(f"no vLLM server is healthy: {_format_troubles({s: s.trouble for s in self.backends.all})}")

    async def _watch(self, server: Backend) -> None:
        """Probe a server until this engine closes: whether it is still healthy, or healthy again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                if server.up:
                    await self._watch_up(server)
                    pause_s = _FIRST_PAUSE_S
                else:
                    await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    await self._watch_down(server)
            except Exception as error:  # a bug must not end the watch: the server would be lost, or its death not seen
                logger.exception("%s could not be checked", server.url)
                server.mark_unhealthy(f"it could not be checked: {type(error).__name__}")
                server.give_up()

    async def _watch_up(self, server: Backend) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_EVERY_S):
                await server.probe_now.wait()
        server.probe_now.clear()
        if server.up:
            await self._check_up(server)
        if not server.up:
            logger.warning("%s is unhealthy: %s", server.url, server.trouble)

    async def _watch_down(self, server: Backend) -> None:
        try:
            found = await self._probe(server)
        except (Unfit, Unreachable) as error:
            trouble = "; ".join(error.args)
            if isinstance(error, Unfit) and trouble != server.trouble:
                logger.error("%s can't be used: %s\n  %s", server.url, trouble, "\n  ".join(self._describe_start()))
            server.trouble = trouble
            server.give_up()
            return
        self.checks.expected = self.checks.expected or found.rewards
        server.up = True
        server.probe_now.clear()
        logger.info("%s is healthy", server.url)

    async def _check_up(self, server: Backend) -> None:
        try:
            try:
                await self.checks.alive(self.jobs.session, server)
            except Unreachable as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise
                await self.checks.alive(self.jobs.session, server)  # a busy server may be late once
        except (Unfit, Unreachable) as error:
            server.mark_unhealthy("; ".join(error.args))
            server.give_up()


def _any_answered(answers: Answers) -> bool:
    return not all(isinstance(answer, Unreachable) for answer in answers.values())


def _format_troubles(troubles: Mapping[Backend, object]) -> str:
    return "; ".join(f"{server.url}: {trouble}" for server, trouble in troubles.items())
