"""A plan whose critiques are shown while they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from criticrm_client.schemas import TokenEvent

from .engines.base import Job
from .rendering import RenderedResponse

if TYPE_CHECKING:
    from criticrm_model.prompt import Renderer

Show = Callable[[TokenEvent], None]


def watched(response: RenderedResponse, renderer: Renderer, offset: float, show: Show) -> RenderedResponse:
    """The response with jobs that show each token as it is written.

    Args:
        offset: added to the scores that the engine reads.
    """
    if response.supplied:
        return response
    jobs = tuple(_watched(job, k * job.n, response, renderer, offset, show) for k, job in enumerate(response.jobs))
    return replace(response, jobs=jobs)


def _watched(job: Job, first: int, response: RenderedResponse, renderer: Renderer, offset: float, show: Show) -> Job:
    """Args: first: which of the response's critiques the job's first one is."""
    decoders = [renderer.decoder() for _ in range(job.n)]

    def watch(k: int, token_ids: Sequence[int], scores: Sequence[float]) -> None:
        for token_id, score in zip(token_ids, scores, strict=True):
            show(
                TokenEvent(
                    id=response.item_id,
                    index=response.index,
                    critique=first + k,
                    text=decoders[k](token_id),
                    score=score + offset if math.isfinite(score) else None,
                )
            )

    return replace(job, trace=True, watch=watch)
