"""`/classify` in SGLang's own shape, for Skywork-Reward-V2's example, POLAR's and xtuner's client and AReaL's example.

As SGLang 0.5 has it (sglang/srt/entrypoints/http_server.py, `classify_request`): one text is answered by an object,
several by a bare list of them, and the reward is `embedding[0]`. Callers send conversations in the reward model's chat
template (xtuner/utils/rm_utils.py, `sglang_request_reward`).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, Discriminator, Field, RootModel, Tag

from criticrm_client.schemas import FailFastList, Result

from .common import Foreign, QueryOptions, score_of, score_pairs, text_or_list
from .inputs import pairs_of_input


class SGLangMetaInfo(BaseModel):
    id: str
    prompt_tokens: int
    completion_tokens: int = Field(description="Tokens of the critiques.")


class SGLangReward(BaseModel):
    embedding: list[float] = Field(description="One number: the reward.")
    meta_info: SGLangMetaInfo
    warnings: list[str] = Field(description="As in `/score`; SGLang has no such field.")


class SGLangRewards(RootModel[list[SGLangReward]]):
    """Rewards of several texts, in their order."""


class SGLangRequest(Foreign):
    """Conversations in a chat template."""

    text: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[FailFastList[str], Field(min_length=1), Tag("<list>")],
        Discriminator(text_or_list),
    ]
    model: Any = None

    async def respond(self, request: Request, options: QueryOptions) -> SGLangReward | SGLangRewards:
        """Score each conversation. Raises what `score_pairs` does."""
        results = await score_pairs(request, pairs_of_input(request, self.text, "text"), options)
        rewards = [_reward(request.scope["request_id"], result) for result in results]
        return rewards[0] if isinstance(self.text, str) else SGLangRewards(rewards)


def _reward(request_id: str, result: Result) -> SGLangReward:
    usage = result.usage
    return SGLangReward(
        embedding=[score_of(result)],
        meta_info=SGLangMetaInfo(
            id=request_id, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.critique_tokens
        ),
        warnings=result.warnings,
    )
