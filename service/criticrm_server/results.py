"""From an engine's output to a result."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from criticrm_client.schemas import Critique, CritiqueOptions, Result, Usage
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
        self._calibration = checkpoint.manifest.calibration
        self._offset = checkpoint.manifest.reward.offset

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
        rewards, direct, std = self._rewards(output, normalize, after_critiques=critique is not None)
        shown = output.completions if critique is not None and critique.include else []
        cut = critique is not None and any(c.finish_reason == "length" for c in output.completions)
        return Result(
            id=response.item_id,
            index=response.index,
            status="truncated" if response.truncated else "ok",
            score=statistics.fmean(rewards),
            direct_score=direct,
            score_std=std,
            critiques=[self._critique(c, reward) for c, reward in zip(shown, rewards, strict=False)],
            warnings=[*response.warnings, *(["critique_cut"] if cut else [])],
            error=None,
            usage=Usage(
                prompt_tokens=prompt_tokens,
                cached_tokens=output.cached_tokens,
                critique_tokens=sum(len(c.token_ids) for c in output.completions) if critique else 0,
                cached=output.reused,
            ),
        )

    def _rewards(
        self, output: Output, normalize: bool, *, after_critiques: bool
    ) -> tuple[list[float], float, float | None]:
        """`[n]` rewards after critiques, the one before any, and the sample deviation where there are several."""
        rewards = [completion.score + self._offset for completion in output.completions]
        direct = output.completions[0].direct_score + self._offset  # the same for all: it is before any critique
        std = statistics.stdev(rewards) if len(rewards) > 1 else None
        if not normalize:
            return rewards, direct, std
        assert self._calibration is not None
        # Without critiques the score is the direct score, and so is its calibration.
        after = self._calibration.score if after_critiques else self._calibration.direct_score
        return (
            [_standardise(reward, after) for reward in rewards],
            _standardise(direct, self._calibration.direct_score),
            None if std is None else std / after.std,
        )

    def _critique(self, completion: Completion, reward: float) -> Critique:
        return Critique(
            text=self._decode(completion.token_ids),
            score=reward,
            finish_reason=completion.finish_reason,
            tokens=len(completion.token_ids),
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
