"""From a request to its results: render, run, read the rewards. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from criticrm_client.schemas import CritiqueOptions, Result, TokenEvent
from criticrm_model import ConversationError, CriticRMError, NonFiniteReward, PromptTooLong
from criticrm_model.selection import Rule

from .admission import Permit
from .critique_limit import critique_limit
from .critique_options import critique_options
from .engines.base import Engine, Job, Output
from .errors import ModelNotFound, ModelVersionMismatch, NotCalibrated
from .greedy_results import GreedyResults
from .live import watched
from .metrics import Metrics
from .rendering import ReadCritique, RenderedResponse, Rendering
from .request_limits import check_limits, field_prefixes
from .results import Results
from .schemas import ScoreMany, ScoreOne
from .selecting import as_direct, close_responses
from .settings import Settings
from .together import together
from .tracing import record_output, span

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

# One response's own fault, told in its result; everything else fails the whole request, which can be sent again.
_RESULT_ERRORS = (PromptTooLong, ConversationError, NonFiniteReward)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, rendered.

    Attributes:
        prompts: responses of each item.
        partial: True: a response that can't be scored has the error in its result. False: it fails the request.
        model_version: of the checkpoint that it was rendered for and is scored by.
    """

    request_id: str
    model_version: str
    responses: list[RenderedResponse]
    prompts: list[int]
    critique: CritiqueOptions | None
    normalize: bool
    partial: bool

    @property
    def selective(self) -> bool:
        """Only close responses get critiques."""
        return self.critique is not None and self.critique.when == "close"


@dataclass(frozen=True, slots=True)
class Scored:
    """A result, its position in the request, and the exception that `result.error` reports, if any."""

    position: int
    result: Result
    error: CriticRMError | None


class Scorer:
    """Scores requests on one engine.

    Args:
        engine: started.

    Raises:
        CriticRMError: a critique alone is longer than what the engine takes.
    """

    def __init__(self, checkpoint: Checkpoint, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self._checkpoint = checkpoint
        self._results = Results(checkpoint)
        self._version = checkpoint.manifest.version  # hashes the manifest
        self._engine = GreedyResults(engine, self._version, int(settings.greedy_results_mib * 2**20))
        self._settings = settings
        self._metrics = metrics
        self._max_model_len = max_model_len = engine.max_model_len
        self._rendering = Rendering(checkpoint.renderer, max_model_len, settings.max_criteria_tokens)
        self._critique_tokens = critique_limit(settings, checkpoint.manifest, max_model_len)

    def sequences(self, request: ScoreOne | ScoreMany) -> int:
        """Check the request's model and its size, and count its sequences.

        Raises:
            ModelNotFound, ModelVersionMismatch, LimitExceeded, NotCalibrated, InvalidField
        """
        self._check_model(request)
        critique = critique_options(request, self._checkpoint.manifest)
        check_limits(request, critique, self._settings, self._max_model_len)
        self._check_calibrated(request)
        each = critique.n if critique else 1
        return sum(
            len(item.responses) * each * len(item.criteria_list or "1")
            if item.critiques is None
            else sum(map(len, item.critiques))
            for item in request.items
        )

    def _check_model(self, request: ScoreOne | ScoreMany) -> None:
        if request.model is not None and request.model != self._settings.model_name:
            raise ModelNotFound(request.model, self._settings.model_name)
        if request.model_version is not None and request.model_version != self._version:
            raise ModelVersionMismatch(request.model_version, self._version)

    def _check_calibrated(self, request: ScoreOne | ScoreMany) -> None:
        if request.normalize and self._checkpoint.manifest.calibration is None:
            raise NotCalibrated(
                "this checkpoint carries no calibration (mean and deviation), so scores can't be normalised"
            )

    async def plan(self, request: ScoreOne | ScoreMany, request_id: str, *, partial: bool = True) -> Plan:
        """Render a request.

        Raises:
            PromptTooLong, ConversationError: if no response of the request could be rendered, or one could not
                and the plan must not be `partial`.
            ModelVersionMismatch, NotCalibrated
        """
        with span("render"):
            return await self._plan(request, request_id, partial)

    async def _plan(self, request: ScoreOne | ScoreMany, request_id: str, partial: bool) -> Plan:
        self._check_model(request)  # again: it may have waited for other weights
        self._check_calibrated(request)
        critique = critique_options(request, self._checkpoint.manifest)
        max_tokens = 1 if critique is None else critique.max_tokens or self._critique_tokens
        truncate = request.on_overflow == "truncate"
        responses: list[RenderedResponse] = []
        for item, where in zip(request.items, field_prefixes(request), strict=True):
            responses += await self._rendering.render(item, critique, max_tokens, truncate=truncate, where=where)
        _raise_failure([r.error for r in responses], partial)
        prompts = [len(item.responses) for item in request.items]
        return Plan(request_id, self._version, responses, prompts, critique, request.normalize, partial)

    async def stream(self, plan: Plan, permit: Permit) -> AsyncGenerator[Scored]:
        """Results as they finish.

        Each takes its places of the permit, which go back when the result is read: one that nobody reads must not make
        room for more.

        Raises:
            EngineDead, EngineFailed, NoServer: the request as a whole failed; what runs is cancelled.
        """
        plan, taking, places = await self._begin(plan, permit)
        tasks = [
            asyncio.create_task(self._score(plan, position, taking, sequences))
            for position, sequences in enumerate(places)
        ]
        try:
            finished: asyncio.Queue[asyncio.Task[Scored]] = asyncio.Queue()
            for task in tasks:
                task.add_done_callback(finished.put_nowait)
            for _ in tasks:
                scored = (await finished.get()).result()
                permit.give_back(places[scored.position])
                yield scored
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def events(self, plan: Plan, permit: Permit) -> AsyncGenerator[Scored | TokenEvent]:
        """As `stream`, with each token of the critiques before its result, as it is written."""
        queue: asyncio.Queue[Scored | TokenEvent | None] = asyncio.Queue()
        if plan.critique is not None:
            renderer, offset = self._checkpoint.renderer, self._checkpoint.manifest.offset
            responses = [watched(response, renderer, offset, queue.put_nowait) for response in plan.responses]
            plan = replace(plan, responses=responses)

        async def run() -> None:
            async with aclosing(self.stream(plan, permit)) as stream:
                async for scored in stream:
                    queue.put_nowait(scored)

        running = asyncio.create_task(run())
        running.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _begin(self, plan: Plan, permit: Permit) -> tuple[Plan, Permit | None, list[int]]:
        """The plan as it is to be run, what its sequences still take their places of, and places by response."""
        each = plan.critique.n if plan.critique else 1
        places = [response.places(each) for response in plan.responses]
        if plan.selective:
            return await self._narrowed(plan, permit, places), None, places
        return plan, permit, places

    async def score(self, plan: Plan, permit: Permit) -> list[Result]:
        """All results, in the request's order.

        Raises:
            EngineDead, EngineFailed, NoServer: as `stream`.
            NonFiniteReward: no response of the request has a finite reward, or one has not and the plan is not
                `partial`.
        """
        plan, taking, places = await self._begin(plan, permit)

        async def one(position: int) -> Scored:
            scored = await self._score(plan, position, taking, places[position])
            permit.give_back(places[position])
            return scored

        if len(places) == 1:  # needs no task of its own
            scored = [await one(0)]
        else:
            scored = await together([one(position) for position in range(len(places))])
        _raise_failure([each.error for each in scored], plan.partial)
        return [each.result for each in scored]

    async def _narrowed(self, plan: Plan, permit: Permit, places: Sequence[int]) -> Plan:
        """The plan with critiques only where they matter, by the rewards before any; it has all of its places."""
        options = plan.critique
        assert options is not None
        assert options.margin is not None

        async def read(response: RenderedResponse, sequences: int) -> RenderedResponse:
            await permit.take(sequences)
            try:
                outputs = await together([self._run(as_direct(job)) for job in response.jobs])
            except _RESULT_ERRORS as failed:
                return replace(response, jobs=(), error=failed)
            return replace(response, read=tuple(outputs))

        read_all = await together([read(*one) for one in zip(plan.responses, places, strict=True)])
        rule = Rule(options.margin, options.rank or "best", options.max_total_tokens)
        critiqued = close_responses(read_all, plan.prompts, rule, self._results.calibrated_direct)
        responses = [replace(one, read=()) if k in critiqued else one for k, one in enumerate(read_all)]
        self._metrics.observe_selection(len(critiqued), len(responses))
        return replace(plan, responses=responses)

    async def _score(self, plan: Plan, position: int, permit: Permit | None, sequences: int) -> Scored:
        """Args: permit: None where the sequences have their places already."""
        response = plan.responses[position]
        if permit is not None:
            await permit.take(sequences)
        outputs = list(response.read)
        error = response.error
        try:
            if len(response.jobs) == 1 and not outputs:
                outputs = [await self._run(response.jobs[0], response.supplied)]
            elif not outputs:
                outputs = await together([self._run(job) for job in response.jobs])
        except _RESULT_ERRORS as failed:
            error = failed
        critique = None if response.read else plan.critique
        make = partial(self._results.result, normalize=plan.normalize, selective=plan.selective)
        arguments = (plan.request_id, response, critique, outputs, error)
        if critique is not None and critique.trace:  # a place in the text of every token: milliseconds a critique
            result = await asyncio.to_thread(make, *arguments)
        else:
            result = make(*arguments)
        self._metrics.observe(result, outputs, wrote_critiques=critique is not None and not response.supplied)
        return Scored(position, result, error)

    async def _run(self, job: Job, supplied: Sequence[ReadCritique] = ()) -> Output:
        """A job, or several that read the rewards around critiques which are there already."""
        with span("engine") as running:
            if supplied:
                output = await self._read_around(job, supplied)
            else:
                output = await self._engine.run(job)
            record_output(running, job, output)
        return output

    async def _read_around(self, job: Job, supplied: Sequence[ReadCritique]) -> Output:
        run = self._engine.run
        before, *after = await together([run(job), *(run(critique.job) for critique in supplied)])
        return Output(
            [critique.completion(before, output) for critique, output in zip(supplied, after, strict=True)],
            cached_tokens=before.cached_tokens,
            reused=before.reused and all(output.reused for output in after),
        )


def _raise_failure(errors: list[CriticRMError | None], partial: bool) -> None:
    """Fail a request of which nothing could be scored as one, with the first error's status.

    So does one of which everything must be.
    """
    failed = [error for error in errors if error is not None]
    if failed and not (partial and len(failed) < len(errors)):
        raise failed[0]
