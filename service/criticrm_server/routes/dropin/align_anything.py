"""`/get_reward` with `prompts` and `responses`, for align-anything's `RemoteRewardModel`.

As its client sends it (align_anything/models/remote_rm/remote_rm_client.py, `score`): a batch of decoded prompts and
of the responses to them; it reads `rewards`.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from pydantic import BaseModel, Field

from criticrm_client.chat_markers import split_response
from criticrm_client.schemas import FailFastList

from ...errors import InvalidField
from .common import Foreign, PromptResponse, QueryOptions, check_texts, known_template, score_of, score_pairs


class AlignAnythingResponse(BaseModel):
    rewards: list[float]
    warnings: list[list[str]] = Field(description="Warnings of each response, as in `/score`.")


class AlignAnythingRequest(Foreign):
    """`responses[i]` answers `prompts[i]`, a text in the policy's chat template or not."""

    prompts: FailFastList[str]
    responses: FailFastList[str]

    async def respond(self, request: Request, options: QueryOptions) -> AlignAnythingResponse:
        """Score each response.

        Raises:
            InvalidField: not as many prompts as responses, or a template that is not known.
            What `score_pairs` does.
        """
        if len(self.prompts) != len(self.responses):
            raise InvalidField("prompts", f"{len(self.prompts)} prompts for {len(self.responses)} responses")
        check_texts(request, "prompts", self.prompts)
        check_texts(request, "responses", self.responses)
        results = await score_pairs(request, self._pairs(), options)
        return AlignAnythingResponse(
            rewards=[score_of(result) for result in results], warnings=[result.warnings for result in results]
        )

    def _pairs(self) -> Iterator[PromptResponse]:
        for i, (prompt, response) in enumerate(zip(self.prompts, self.responses, strict=True)):
            with known_template(f"prompts[{i}]"):
                pair = PromptResponse(*split_response(prompt, response))
            yield pair
