"""`/get_reward` with `query`, for OpenRLHF's `--reward.remote_url`.

As OpenRLHF's client sends it (openrlhf/utils/agent.py, `SingleTurnAgentExecutor`): one sample a request, decoded with
its special tokens. Of several URLs all but the first are sent empty lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from pydantic import BaseModel, Field

from criticrm_client.chat_markers import split_response, strip_begin
from criticrm_client.schemas import FailFastList

from ...errors import InvalidField
from .common import (
    Foreign,
    PromptResponse,
    QueryOptions,
    check_texts,
    direct_score_of,
    known_template,
    pair_of_text,
    score_of,
    score_pairs,
)


class RewardResponse(BaseModel):
    """`rewards` and `scores` are the same. OpenRLHF makes tensors of `extra_logs`: numbers only."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]
    warnings: list[list[str]] = Field(description="Warnings of each query, as in `/score`; `extra_logs` counts them.")


class RewardRequest(Foreign):
    """`query[i]` is `prompts[i]` and what the policy wrote; older clients send no prompts."""

    query: FailFastList[str]
    prompts: FailFastList[str] | None = None
    labels: Any = None

    async def respond(self, request: Request, options: QueryOptions) -> RewardResponse:
        """Score what follows `prompts[i]` in `query[i]`; without prompts, the last assistant's turn of `query[i]`.

        Raises:
            InvalidField: not as many prompts as queries, or a query that can't be split.
            What `score_pairs` does.
        """
        check_texts(request, "query", self.query)
        if self.query and self.prompts is not None and len(self.prompts) != len(self.query):
            raise InvalidField("prompts", f"{len(self.prompts)} prompts for {len(self.query)} queries")
        check_texts(request, "prompts", self.prompts or [])
        results = await score_pairs(request, _pairs(self.query, self.prompts), options)
        scores = [score_of(result) for result in results]
        return RewardResponse(
            rewards=scores,
            scores=scores,
            extra_logs={
                "direct_score": [direct_score_of(result) for result in results],
                "critique_tokens": [result.usage.critique_tokens for result in results],
                "truncated": [float(result.status == "truncated") for result in results],
                **{
                    name: [float(name in result.warnings) for result in results]
                    for name in ("critique_cut", "control_tokens")
                },
            },
            warnings=[result.warnings for result in results],
        )


def _pairs(queries: list[str], prompts: list[str] | None) -> Iterator[PromptResponse]:
    for i, query in enumerate(queries):
        field = f"query[{i}]"
        if prompts is None:
            yield pair_of_text(query, field)
            continue
        # The batch may be padded: to the longest query, and to the longest prompt.
        generated = _after(strip_begin(prompts[i]), strip_begin(query))
        if generated is None:
            raise InvalidField(
                field,
                f"does not begin with prompts[{i}], so where the response begins is unknown "
                "(OpenRLHF cuts prompts that are longer than its limit at their beginning)",
            )
        with known_template(f"prompts[{i}]"):
            pair = PromptResponse(*split_response(prompts[i], generated))
        yield pair


def _after(prompt: str, query: str) -> str | None:
    """What follows the prompt.

    Its white space need not be the same: some tokenizers decode with other spaces than they encoded
    (transformers' `clean_up_tokenization_spaces`; SentencePiece after a special token).
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    wanted = _without_space(prompt)
    if not _without_space(query).startswith(wanted):
        return None
    left = len(wanted)
    for word in re.finditer(r"\S+", query):
        if left <= len(word[0]):
            return query[word.start() + left :].lstrip()
        left -= len(word[0])
    return ""


def _without_space(text: str) -> str:
    return "".join(text.split())
