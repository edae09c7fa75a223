"""From an engine's output to a result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from criticrm_client.schemas import (
    CompareBy,
    Criterion,
    CriterionResult,
    Critique,
    CritiqueOptions,
    NamedReward,
    Result,
    Trace,
    Usage,
)
from criticrm_model import Completion, CriticRMError, Moments

from .engines.base import Output
from .errors import error_info
from .rendering import RenderedResponse

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class _Read:
    """The rewards of one job.

    Attributes:
        scores: `[n]`, after its critiques.
        direct_score: before any.
        std: sample deviation, where there are several.
    """

    scores: list[float]
    direct_score: float
    std: float | None

    @property
    def score(self) -> float:
        return _mean(self.scores)


class Results:
    """Makes the results of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._decode = checkpoint.renderer.decode
        self._offsets = checkpoint.renderer.offsets
        self._calibration = calibration = checkpoint.manifest.calibration
        self._scale = None if calibration is None else cache(calibration.scale)  # by number of critiques
        self._offset = checkpoint.manifest.offset
        self._rewards = checkpoint.manifest.rewards

    def result(
        self,
        request_id: str,
        response: RenderedResponse,
        critique: CritiqueOptions | None,
        outputs: Sequence[Output],
        error: CriticRMError | None,
        *,
        normalize: bool,
        selective: bool,
    ) -> Result:
        """The result of one response.

        Args:
            critique: as requested; None where none was to be written.
            outputs: of the response's jobs; none where there is an error instead.
            selective: only close responses of the request get critiques. The checkpoint has a scale then.
        """
        compare_by: CompareBy = "calibrated_score" if selective else "score"
        if not outputs:
            assert error is not None
            return _failed(response, error, request_id, compare_by)
        read = [self._read(output, normalize, after_critiques=critique is not None) for output in outputs]
        weights = _weights(response)
        warnings, critiques, written = response.warnings, list[Critique](), 0
        if critique is not None:
            if critique.include:
                critiques = self._critiques(response, outputs, read, critique)
            completions = [completion for output in outputs for completion in output.completions]
            if not response.supplied:
                written = sum(len(completion.token_ids) for completion in completions)
            if any(completion.finish_reason == "length" for completion in completions):
                warnings = [*warnings, "critique_cut"]
        return Result(
            id=response.item_id,
            index=response.index,
            status="truncated" if response.truncated else "ok",
            score=_mean([one.score for one in read], weights),
            direct_score=_mean([one.direct_score for one in read], weights),
            score_std=_deviation([one.std for one in read], weights),
            calibrated_score=self._calibrated(outputs, weights, critique is not None),
            critiqued=critique is not None,
            compare_by=compare_by,
            rewards=self._each(outputs, weights) if len(self._rewards) > 1 else None,
            criteria=None if response.criteria is None else list(map(_of_criterion, response.criteria, read)),
            critiques=critiques,
            warnings=warnings,
            error=None,
            usage=Usage(
                prompt_tokens=_prompt_tokens(response),
                cached_tokens=sum(output.cached_tokens for output in outputs),
                critique_tokens=written,
                cached=all(output.reused for output in outputs),
            ),
        )

    def calibrated_direct(self, response: RenderedResponse, outputs: Sequence[Output]) -> float:
        """The score before any critique on the calibrated scale. The checkpoint has one."""
        assert self._scale is not None
        direct = [output.completions[0].direct_score + self._offset for output in outputs]
        return self._scale(0)(_mean(direct, _weights(response)))

    def _calibrated(self, outputs: Sequence[Output], weights: Sequence[float], critiqued: bool) -> float | None:
        if self._scale is None:
            return None
        scores = [[completion.score + self._offset for completion in output.completions] for output in outputs]
        scale = self._scale(len(scores[0]) if critiqued else 0)
        return scale(_mean(list(map(_mean, scores)), weights))

    def _each(self, outputs: Sequence[Output], weights: Sequence[float]) -> dict[str, NamedReward]:
        found = {}
        for k, reward in enumerate(self._rewards):
            scores = [statistics.fmean(c.rewards[k][1] for c in output.completions) for output in outputs]
            direct = [output.completions[0].rewards[k][0] for output in outputs]  # before any critique: one for all
            found[reward.name] = NamedReward(
                score=_mean(scores, weights) + reward.offset,
                direct_score=_mean(direct, weights) + reward.offset,
            )
        return found

    def _read(self, output: Output, normalize: bool, *, after_critiques: bool) -> _Read:
        scores = [completion.score + self._offset for completion in output.completions]
        direct = output.completions[0].direct_score + self._offset  # the same for all: it is before any critique
        std = statistics.stdev(scores) if len(scores) > 1 else None
        if not normalize:
            return _Read(scores, direct, std)
        assert self._calibration is not None
        # Without critiques the score is the direct score, and so is its calibration.
        after = self._calibration.score if after_critiques else self._calibration.direct_score
        return _Read(
            [_standardise(score, after) for score in scores],
            _standardise(direct, self._calibration.direct_score),
            None if std is None else std / after.std,
        )

    def _critiques(
        self, response: RenderedResponse, outputs: Sequence[Output], read: Sequence[_Read], options: CritiqueOptions
    ) -> list[Critique]:
        found = []
        for k, (output, one) in enumerate(zip(outputs, read, strict=True)):
            criterion = None if response.criteria is None else k
            for completion, score in zip(output.completions, one.scores, strict=True):
                found.append(self._critique(completion, score, criterion, traced=options.trace))
        return found

    def _critique(self, completion: Completion, score: float, criterion: int | None, *, traced: bool) -> Critique:
        trace = None
        if traced:
            scores = [step + self._offset for step in completion.trace]
            trace = Trace(offsets=self._offsets(completion.token_ids), scores=scores)
        return Critique(
            text=self._decode(completion.token_ids),
            score=score,
            finish_reason=completion.finish_reason,
            tokens=len(completion.token_ids),
            criterion=criterion,
            trace=trace,
        )


def total_usage(results: list[Result]) -> Usage:
    return Usage(
        prompt_tokens=sum(r.usage.prompt_tokens for r in results),
        cached_tokens=sum(r.usage.cached_tokens for r in results),
        critique_tokens=sum(r.usage.critique_tokens for r in results),
        cached=bool(results) and all(r.usage.cached for r in results),
    )


def _failed(response: RenderedResponse, error: CriticRMError, request_id: str, compare_by: CompareBy) -> Result:
    return Result(
        id=response.item_id,
        index=response.index,
        status="error",
        score=None,
        direct_score=None,
        score_std=None,
        compare_by=compare_by,
        critiques=[],
        warnings=response.warnings,
        error=error_info(error, request_id),
        usage=Usage(prompt_tokens=_prompt_tokens(response)),
    )


def _prompt_tokens(response: RenderedResponse) -> int:
    return sum(len(job.token_ids) for job in response.jobs)


def _of_criterion(criterion: Criterion, read: _Read) -> CriterionResult:
    return CriterionResult(
        criterion=criterion.text,
        weight=criterion.weight,
        score=read.score,
        direct_score=read.direct_score,
        score_std=read.std,
    )


def _weights(response: RenderedResponse) -> list[float]:
    """The weights of a response's jobs in its score."""
    return [1.0] if response.criteria is None else [one.weight for one in response.criteria]


def _mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    return values[0] if len(values) == 1 else statistics.fmean(values, weights)


def _deviation(stds: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The deviation of a weighted mean of independent scores."""
    known = [std for std in stds if std is not None]
    if len(known) < len(stds):
        return None
    if len(known) == 1:
        return known[0]
    return math.hypot(*(weight * std for weight, std in zip(weights, known, strict=True))) / sum(weights)


def _standardise(reward: float, moments: Moments) -> float:
    return (reward - moments.mean) / moments.std
