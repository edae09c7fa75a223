"""From a request to its results: render, run, read the rewards. Knows no HTTP."""

from __future__ import annotations

import asyncio
import statistics
import zlib
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticrm_model import ConversationError, CriticRMError, Moments, NonFiniteReward, PromptTooLong

from .engines.base import Engine, Job, Output
from .errors import LimitExceeded, NotCalibrated, answer_for
from .metrics import Metrics
from .schemas import (
    ChatMessage,
    CritiqueOptions,
    CritiqueResult,
    ErrorInfo,
    Item,
    Result,
    ScoreMany,
    ScoreOne,
    Usage,
)
from .settings import Settings
from .tracing import ran, span

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.prompt import Message, OpenConversation

# One response's own fault, told in its result; everything else fails the whole request, which can be sent again.
_RESULT_ERRORS = (PromptTooLong, ConversationError, NonFiniteReward)

_LARGE = 50_000  # characters of an item, some 10 ms of tokenising: more is done beside the event loop


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One response: the job that scores it, or the error that kept it from being rendered."""

    item_id: str | None
    index: int
    empty: bool
    truncated: bool
    job: Job | None
    error: CriticRMError | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, rendered.

    Attributes:
        partial: a response that can't be scored is told in its result; else it fails the request.
    """

    request_id: str
    responses: list[_Sequence]
    critique: CritiqueOptions | None
    normalize: bool
    partial: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """A result, its place in the request, and the error it tells of, if it does."""

    position: int
    result: Result
    error: CriticRMError | None


class Scorer:
    """Scores requests on one engine.

    Args:
        max_model_len: the longest prompt with its critique, in tokens.
    """

    def __init__(
        self, checkpoint: Checkpoint, engine: Engine, settings: Settings, metrics: Metrics, max_model_len: int
    ) -> None:
        self._checkpoint = checkpoint
        self._renderer = checkpoint.renderer
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._max_model_len = max_model_len
        # One: megabytes of text take a gigabyte while they are tokenised, and waiting tasks can be cancelled.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")
        self._critique_tokens = min(
            settings.critique_tokens or checkpoint.manifest.max_critique_tokens, settings.max_critique_tokens
        )

    def sequences(self, request: ScoreOne | ScoreMany) -> int:
        """Check the request against the server's limits, and count what it puts in the house.

        Raises:
            LimitExceeded, NotCalibrated
        """
        critique = self._critique_options(request)
        self._check_limits(request, critique)
        if request.normalize and self._checkpoint.manifest.calibration is None:
            raise NotCalibrated(
                "this checkpoint carries no calibration (mean and deviation), so scores can't be normalised"
            )
        return sum(len(item.responses) for item in request.items) * (critique.n if critique else 1)

    async def plan(self, request: ScoreOne | ScoreMany, request_id: str, *, partial: bool = True) -> Plan:
        """Render a request.

        Raises:
            PromptTooLong, ConversationError: if no response of the request could be rendered, or one could not
                and the plan must not be `partial`.
        """
        with span("render"):
            return await self._plan(request, request_id, partial)

    async def _plan(self, request: ScoreOne | ScoreMany, request_id: str, partial: bool) -> Plan:
        critique = self._critique_options(request)
        responses: list[_Sequence] = []
        truncate = request.on_overflow == "truncate"
        for item in request.items:
            if _characters(item) > _LARGE:
                loop = asyncio.get_running_loop()
                responses += await loop.run_in_executor(self._thread, self._render_item, item, critique, truncate)
            else:
                responses += self._render_item(item, critique, truncate)
                await asyncio.sleep(0)  # tokenising hundreds of items must not hold up everyone else
        _raise_failure([r.error for r in responses], partial)
        return Plan(request_id, responses, critique, request.normalize, partial)

    async def stream(self, plan: Plan) -> AsyncGenerator[Scored]:
        """Results as they finish.

        Raises:
            EngineDead, EngineFailed, NoServer: the request as a whole failed; what runs is cancelled.
        """
        tasks = [asyncio.ensure_future(self._score(plan, position)) for position in range(len(plan.responses))]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def score(self, plan: Plan) -> list[Result]:
        """All results, in the request's order.

        Raises:
            EngineDead, EngineFailed, NoServer: as `stream`.
            NonFiniteReward: no response of the request has a finite reward, or one has not and the plan is not
                `partial`.
        """
        async with aclosing(self.stream(plan)) as stream:
            scored = sorted([one async for one in stream], key=lambda one: one.position)
        _raise_failure([one.error for one in scored], plan.partial)
        return [one.result for one in scored]

    def _critique_options(self, request: ScoreOne | ScoreMany) -> CritiqueOptions | None:
        if isinstance(request.critique, CritiqueOptions):
            return request.critique
        return CritiqueOptions() if request.critique else None

    def _check_limits(self, request: ScoreOne | ScoreMany, critique: CritiqueOptions | None) -> None:
        limits = self._settings
        if len(request.items) > limits.max_items:
            raise LimitExceeded("items", len(request.items), limits.max_items, "items")
        for i, item in enumerate(request.items):
            where = "" if isinstance(request, ScoreOne) else f"items[{i}]."
            if len(item.responses) > limits.max_responses:
                raise LimitExceeded(f"{where}responses", len(item.responses), limits.max_responses, "responses")
            # A message is a token at the least.
            if not isinstance(item.prompt, str) and len(item.prompt) > self._max_model_len:
                raise LimitExceeded(f"{where}prompt", len(item.prompt), self._max_model_len, "messages")
        if critique is not None:
            if critique.n > limits.max_critiques:
                raise LimitExceeded("critique.n", critique.n, limits.max_critiques, "critiques a response")
            if (critique.max_tokens or 0) > limits.max_critique_tokens:
                raise LimitExceeded(
                    "critique.max_tokens", critique.max_tokens or 0, limits.max_critique_tokens, "tokens"
                )

    def _render_item(self, item: Item, critique: CritiqueOptions | None, truncate: bool) -> list[_Sequence]:
        messages = _messages(item.prompt)
        try:
            conversation = self._renderer.open(messages)
        except ConversationError as error:
            return [_Sequence(item.id, i, not r.strip(), False, None, error) for i, r in enumerate(item.responses)]
        group = zlib.crc32(repr(messages).encode())
        return [
            self._render_response(item.id, index, response, conversation, group, critique, truncate)
            for index, response in enumerate(item.responses)
        ]

    def _render_response(
        self,
        item_id: str | None,
        index: int,
        response: str,
        conversation: OpenConversation,
        group: int,
        critique: CritiqueOptions | None,
        truncate: bool,
    ) -> _Sequence:
        empty = not response.strip()
        max_tokens = 1 if critique is None else critique.max_tokens or self._critique_tokens
        try:
            rendered = conversation.render(
                response, max_model_len=self._max_model_len, max_critique_tokens=max_tokens, truncate=truncate
            )
        except PromptTooLong as error:
            return _Sequence(item_id, index, empty, False, None, error)
        if critique is None:
            job = Job(rendered.token_ids, n=1, max_tokens=1, temperature=0.0, seed=None, group=group)
        else:
            temperature, seed = critique.effective_temperature, critique.seed
            job = Job(rendered.token_ids, critique.n, max_tokens, temperature, seed, group)
        return _Sequence(item_id, index, empty, rendered.truncated, job, None)

    async def _score(self, plan: Plan, position: int) -> Scored:
        response = plan.responses[position]
        output: Output | None = None
        error = response.error
        if response.job is not None:
            try:
                with span("engine") as running:
                    output = await self._engine.run(response.job)
                    ran(running, response.job, output)
            except _RESULT_ERRORS as failed:
                error = failed
        result = self._result(plan, response, output, error)
        self._metrics.observe(result, output, wrote_critiques=plan.critique is not None)
        return Scored(position, result, error)

    def _result(self, plan: Plan, response: _Sequence, output: Output | None, error: CriticRMError | None) -> Result:
        warnings = ["empty_response"] if response.empty else []
        prompt_tokens = len(response.job.token_ids) if response.job else 0
        if output is None:
            assert error is not None
            return Result(
                id=response.item_id,
                index=response.index,
                status="error",
                score=None,
                direct_score=None,
                score_std=None,
                critiques=[],
                warnings=warnings,
                error=ErrorInfo(
                    code=answer_for(error).code, message=str(error), request_id=plan.request_id, details=error.details
                ),
                usage=Usage(prompt_tokens=prompt_tokens),
            )
        rewards = [completion.score for completion in output.completions]
        direct = output.completions[0].direct_score  # the same for all: it is before any critique
        std = statistics.stdev(rewards) if len(rewards) > 1 else None
        if plan.normalize:
            calibration = self._checkpoint.manifest.calibration
            assert calibration is not None
            # Without critiques the score is the direct score, and so is its calibration.
            after = calibration.score if plan.critique else calibration.direct_score
            rewards = [_standardise(reward, after) for reward in rewards]
            direct = _standardise(direct, calibration.direct_score)
            std = None if std is None else std / after.std
        critiques = []
        if plan.critique is not None and plan.critique.include:
            critiques = [
                CritiqueResult(
                    text=self._renderer.decode(completion.token_ids),
                    score=reward,
                    finish_reason=completion.finish_reason,
                    tokens=len(completion.token_ids),
                )
                for completion, reward in zip(output.completions, rewards, strict=True)
            ]
        written = sum(len(c.token_ids) for c in output.completions) if plan.critique else 0
        return Result(
            id=response.item_id,
            index=response.index,
            status="truncated" if response.truncated else "ok",
            score=statistics.fmean(rewards),
            direct_score=direct,
            score_std=std,
            critiques=critiques,
            warnings=warnings,
            error=None,
            usage=Usage(prompt_tokens=prompt_tokens, cached_tokens=output.cached_tokens, critique_tokens=written),
        )


def total_usage(results: list[Result]) -> Usage:
    return Usage(
        prompt_tokens=sum(r.usage.prompt_tokens for r in results),
        cached_tokens=sum(r.usage.cached_tokens for r in results),
        critique_tokens=sum(r.usage.critique_tokens for r in results),
    )


def _characters(item: Item) -> int:
    """How much there is to tokenise, in characters; a message's own tokens count too."""
    texts = [item.prompt] if isinstance(item.prompt, str) else [message.content for message in item.prompt]
    return sum(map(len, texts)) + 50 * len(texts) + sum(map(len, item.responses))


def _messages(prompt: str | list[ChatMessage]) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": message.role, "content": message.content} for message in prompt]


def _standardise(reward: float, moments: Moments) -> float:
    return (reward - moments.mean) / moments.std


def _raise_failure(errors: list[CriticRMError | None], partial: bool) -> None:
    """A request of which nothing could be scored fails as one, with the first error's status; so does one of which
    everything must be.
    """
    failed = [error for error in errors if error is not None]
    if failed and not (partial and len(failed) < len(errors)):
        raise failed[0]
