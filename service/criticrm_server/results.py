"""From an engine's output to a result."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from criticrm_client.schemas import Critique, CritiqueOptions, NamedReward, Result, Trace, Usage
from criticrm_model import Completion, CriticRMError, Moments

from .engines.base import Output
from .errors import error_info
from .rendering import RenderedResponse

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint


class Results:
    """Makes the results of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._decode = checkpoint.renderer.decode
        self._offsets = checkpoint.renderer.offsets
        self._calibration = checkpoint.manifest.calibration
        self._offset = checkpoint.manifest.offset
        self._rewards = checkpoint.manifest.rewards

    def result(
        self,
        request_id: str,
        response: RenderedResponse,
        critique: CritiqueOptions | None,
        output: Output | None,
        error: CriticRMError | None,
        *,
        normalize: bool,
    ) -> Result:
        """Of one response.

        Args:
            critique: as requested; None where none was to be written.
            output: None where there is an error instead.
        """
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
                warnings=list(response.warnings),
                error=error_info(error, request_id),
                usage=Usage(prompt_tokens=prompt_tokens),
            )
        scores, direct, std = self._scores(output, normalize, after_critiques=critique is not None)
        shown = output.completions if critique is not None and critique.include else []
        traced = critique is not None and critique.trace
        written = critique is not None and not response.supplied
        cut = critique is not None and any(c.finish_reason == "length" for c in output.completions)
        return Result(
            id=response.item_id,
            index=response.index,
            status="truncated" if response.truncated else "ok",
            score=statistics.fmean(scores),
            direct_score=direct,
            score_std=std,
            rewards=self._each(output.completions) if len(self._rewards) > 1 else None,
            critiques=[self._critique(c, score, traced=traced) for c, score in zip(shown, scores, strict=False)],
            warnings=[*response.warnings, *(["critique_cut"] if cut else [])],
            error=None,
            usage=Usage(
                prompt_tokens=prompt_tokens,
                cached_tokens=output.cached_tokens,
                critique_tokens=sum(len(c.token_ids) for c in output.completions) if written else 0,
                cached=output.reused,
            ),
        )

    def _each(self, completions: list[Completion]) -> dict[str, NamedReward]:
        found = {}
        for k, reward in enumerate(self._rewards):
            score = statistics.fmean(completion.rewards[k][1] for completion in completions)
            direct = completions[0].rewards[k][0]  # the same for all: it is before any critique
            found[reward.name] = NamedReward(score=score + reward.offset, direct_score=direct + reward.offset)
        return found

    def _scores(
        self, output: Output, normalize: bool, *, after_critiques: bool
    ) -> tuple[list[float], float, float | None]:
        """`[n]` scores after critiques, the one before any, and the sample deviation where there are several."""
        scores = [completion.score + self._offset for completion in output.completions]
        direct = output.completions[0].direct_score + self._offset  # the same for all: it is before any critique
        std = statistics.stdev(scores) if len(scores) > 1 else None
        if not normalize:
            return scores, direct, std
        assert self._calibration is not None
        # Without critiques the score is the direct score, and so is its calibration.
        after = self._calibration.score if after_critiques else self._calibration.direct_score
        return (
            [_standardise(score, after) for score in scores],
            _standardise(direct, self._calibration.direct_score),
            None if std is None else std / after.std,
        )

    def _critique(self, completion: Completion, score: float, *, traced: bool) -> Critique:
        trace = None
        if traced:
            scores = [step + self._offset for step in completion.trace]
            trace = Trace(offsets=self._offsets(completion.token_ids), scores=scores)
        return Critique(
            text=self._decode(completion.token_ids),
            score=score,
            finish_reason=completion.finish_reason,
            tokens=len(completion.token_ids),
            trace=trace,
        )


def total_usage(results: list[Result]) -> Usage:
    return Usage(
        prompt_tokens=sum(r.usage.prompt_tokens for r in results),
        cached_tokens=sum(r.usage.cached_tokens for r in results),
        critique_tokens=sum(r.usage.critique_tokens for r in results),
        cached=bool(results) and all(r.usage.cached for r in results),
    )


def _standardise(reward: float, moments: Moments) -> float:
    return (reward - moments.mean) / moments.std
