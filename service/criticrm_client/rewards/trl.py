"""Reward functions for TRL's trainers: `GRPOTrainer(reward_funcs=critic_rm)`.

TRL awaits real coroutine functions together, in an event loop on a thread of its own, and hands each one the columns
of the data set with `log_extra(column, values)` and `log_metric(name, value)` (trl/trainer/grpo_trainer.py,
`_calculate_rewards`). None leaves a sample out: its advantage is 0 and no mean counts it. TRL before 0.27, which
Unsloth and others pin, awaits nothing: `critic_rm_sync` there. Calls of tools in prompts and completions become text.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol, Unpack, cast

import httpx

from ..arguments import Options
from ..async_client import AsyncCriticRM
from ..client import CriticRM
from ..retries import DEFAULT_RETRIES, Retries
from ..sessions import HTTPClient
from . import environment
from .core import (
    DEFAULT_CONCURRENCY,
    Failure,
    Reward,
    SampleScorer,
    SyncSampleScorer,
    scorer_of_environment,
    sync_scorer_of_environment,
)
from .samples import Sample, rows

logger = logging.getLogger(__name__)


class TRLReward(Protocol):
    """What TRL calls."""

    __name__: str

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> Awaitable[list[float | None]]: ...


class SyncTRLReward(Protocol):
    """What TRL before 0.27 calls."""

    __name__: str

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]: ...


async def critic_rm(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,  # noqa: ARG001  # TRL passes it by name
    **columns: Any,
) -> list[float | None]:
    """The reward function of the service that the variables name (`rewards.environment`).

    Args:
        prompts: texts or message lists, one a completion.
        completions: texts or message lists.
        columns: of the data set, of which the variables may name two. `log_extra` gets the critiques, where some were
            requested; `log_metric` the share that failed.

    Returns:
        A reward a completion; None for one that failed, with a warning that says why.

    Raises:
        ValueError: a variable is missing or wrong.
        APIStatusError: a fault of the job, such as a wrong key or an option that the server refuses.
        APIConnectionError: the service has gone.
    """
    scorer = scorer_of_environment()
    return _rewards(await scorer(_pairs(prompts, completions, columns)), scorer.critiques, "critic_rm", columns)


def critic_rm_sync(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,  # noqa: ARG001
    **columns: Any,
) -> list[float | None]:
    """As `critic_rm`, for versions of TRL that do not await it. Takes, returns and raises what it does."""
    scorer = sync_scorer_of_environment()
    return _rewards(scorer(_pairs(prompts, completions, columns)), scorer.critiques, "critic_rm", columns)


def critic_rm_reward(
    url: str | Sequence[str] | None = None,
    *,
    key: str | None = None,
    name: str = "critic_rm",
    concurrency: int = DEFAULT_CONCURRENCY,
    retries: Retries = DEFAULT_RETRIES,
    timeout_s: float = 310.0,
    deadline_s: float | None = None,
    model_version: str | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    headers: Mapping[str, str] | None = None,
    http_client: HTTPClient | None = None,
    **options: Unpack[Options],
) -> TRLReward:
    """As `critic_rm`, told by arguments. What is not given is read from the variables, at once.

    Args:
        name: in TRL's logs, and of the column with the critiques (`NAME/critique`).
        concurrency: requests in flight a rank.
        url, key, retries, timeout_s, deadline_s, model_version, transport, headers, http_client: as those of
            `AsyncCriticRM`.
        options: as those of `AsyncCriticRM.score`.

    Raises:
        ValueError: no URL, or a variable that is wrong.
    """
    urls = environment.urls() if url is None else url
    key = environment.key() if key is None else key
    version = model_version or environment.model_version()

    client = AsyncCriticRM(
        urls,
        key=key,
        retries=retries,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
        model_version=version,
        transport=transport,
        headers=headers,
        http_client=http_client,
    )
    scorer = SampleScorer(client, _merged(options), concurrency)

    async def reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,  # noqa: ARG001
        **columns: Any,
    ) -> list[float | None]:
        return _rewards(await scorer(_pairs(prompts, completions, columns)), scorer.critiques, name, columns)

    reward.__name__ = reward.__qualname__ = name
    return reward


def critic_rm_reward_sync(
    url: str | Sequence[str] | None = None,
    *,
    key: str | None = None,
    name: str = "critic_rm",
    concurrency: int = DEFAULT_CONCURRENCY,
    retries: Retries = DEFAULT_RETRIES,
    timeout_s: float = 310.0,
    deadline_s: float | None = None,
    model_version: str | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    headers: Mapping[str, str] | None = None,
    http_client: HTTPClient | None = None,
    **options: Unpack[Options],
) -> SyncTRLReward:
    """As `critic_rm_reward`, for versions of TRL that do not await it. Takes and raises what it does."""
    client = CriticRM(
        environment.urls() if url is None else url,
        key=environment.key() if key is None else key,
        retries=retries,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
        model_version=model_version or environment.model_version(),
        transport=transport,
        headers=headers,
        http_client=http_client,
    )
    scorer = SyncSampleScorer(client, _merged(options), concurrency)

    def reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,  # noqa: ARG001
        **columns: Any,
    ) -> list[float | None]:
        return _rewards(scorer(_pairs(prompts, completions, columns)), scorer.critiques, name, columns)

    reward.__name__ = reward.__qualname__ = name
    return reward


def _merged(options: Options) -> Options:
    """With those of the variable that are not given."""
    return cast(Options, {**environment.options(), **options})


def _pairs(prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> list[Sample]:
    return [
        Sample(prompt, completion, calls_as_text=True, row=row)
        for prompt, completion, row in zip(prompts, completions, rows(columns, len(prompts)), strict=True)
    ]


def _rewards(
    found: Sequence[Reward | Failure], critiques: bool, name: str, columns: dict[str, Any]
) -> list[float | None]:
    rewards = [reward if isinstance(reward, Reward) else None for reward in found]
    failures = [failure for failure in found if isinstance(failure, Exception)]
    if failures:
        logger.warning("%s: %d of %d samples have no reward: %s", name, len(failures), len(found), failures[0])
    log_extra: Callable[[str, list[Any]], None] | None = columns.get("log_extra")
    if log_extra is not None and critiques:  # also where all failed: the table's columns stay equally long
        log_extra(f"{name}/critique", [reward.critique if reward else None for reward in rewards])
    log_metric: Callable[[str, float], None] | None = columns.get("log_metric")
    if log_metric is not None and found:
        log_metric(f"{name}/failed", len(failures) / len(found))
        scored = [reward for reward in rewards if reward is not None]
        for one in scored[0].rewards if scored else ():
            log_metric(f"{name}/{one}", fmean(reward.rewards[one] for reward in scored))
    return [reward.score if reward else None for reward in rewards]
