"""slime's `--custom-rm-path criticrm_client.rewards.slime.custom_rm`, with `--group-rm` or without.

slime calls it with one sample, or with a group (slime/rollout/rm_hub/__init__.py, `async_rm`, `batched_async_rm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from criticrm_client.rewards.core import (
    Failure,
    Reward,
    raise_failure,
    scorer_of_environment,
    sync_scorer_of_environment,
)
from criticrm_client.rewards.samples import Sample


async def custom_rm(args: Any, sample: Any, **_: Any) -> Any:
    """Score a sample, or each of a list, with the service that the variables name (`rewards.environment`).

    Args:
        args: slime's; only `reward_key` is read.
        sample: with `prompt`, a text (in the policy's template or not) or messages, and `response`. The columns that
            the variables may name are `label` and those of its `metadata`.

    Returns:
        The score; with `--reward-key score` (or `direct_score`) a dict `{"score", "direct_score", "truncated",
        "critique"}`, which slime keeps as `sample.reward`. A list of these for a list.

    Raises:
        APIError: a sample has no reward; slime's run stops.
        ValueError: a message that is no text, or a variable that is missing or wrong.
    """
    return _rewards(args, sample, await scorer_of_environment()(_pairs(sample)))


def custom_rm_sync(args: Any, sample: Any, **_: Any) -> Any:
    """As `custom_rm`, for forks and rollout functions that do not await it. Raises what it does."""
    return _rewards(args, sample, sync_scorer_of_environment()(_pairs(sample)))


def _pairs(sample: Any) -> list[Sample]:
    samples = sample if isinstance(sample, list) else [sample]
    return [Sample(one.prompt, one.response, templated=True, row=_row(one)) for one in samples]


def _row(sample: Any) -> dict[str, Any]:
    label = getattr(sample, "label", None)
    metadata = getattr(sample, "metadata", None) or {}
    return metadata if label is None and "label" in metadata else {**metadata, "label": label}


def _rewards(args: Any, sample: Any, found: Sequence[Reward | Failure]) -> Any:
    keyed = getattr(args, "reward_key", None)
    rewards = [raise_failure(reward) for reward in found]
    values: list[Any] = [reward.as_dict() if keyed else reward.score for reward in rewards]
    return values if isinstance(sample, list) else values[0]
