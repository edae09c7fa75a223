"""`POST /v1/responses` and `POST /compare`, for NeMo-Gym's `genrm_compare`.

Gym's resources server of that name asks a generative reward model of pairs of responses, at `/v1/responses`: the two
are in `metadata` (older versions: messages of their own roles), the conversation is `input`, and the verdict is JSON
in the output's text (resources_servers/genrm_compare/app.py, `_run_single_comparison`). Trainers ask that server
itself for all responses to a prompt at `/compare` (comparison_strategies.py, `GenRMStrategy`).
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Discriminator, Field, Tag

from criticrm_client.schemas import FailFastList, Message, Result

from ...errors import InvalidField, LimitExceeded
from ...results import total_usage
from ...state import Service
from ..work import ERRORS
from .common import DropInRoute, Foreign, ForeignMessage, QueryOptions, score_of, score_pairs, text_or_list
from .pairwise import Comparison, MessageOrCompared, comparison_of, verdict_of_pair
from .response_items import ResponseItem, pair_of_output

router = APIRouter(route_class=DropInRoute)


class ComparedTexts(Foreign):
    """Where newer versions put the two responses."""

    response_1: str | None = None
    response_2: str | None = None
    principle: str | None = Field(None, description="What to judge by: `criteria` in `/score`.")


class ComparisonRequest(Foreign):
    input: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[FailFastList[MessageOrCompared], Tag("<list>")],
        Discriminator(text_or_list),
    ] = Field(description="The conversation that both responses answer.")
    metadata: ComparedTexts | None = None
    model: Any = None
    stream: Literal[False] | None = None

    def comparison(self) -> Comparison:
        """Raises InvalidField: one of the two responses is missing."""
        messages = [ForeignMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        in_messages = comparison_of(messages, "input")
        if in_messages is not None:
            return in_messages
        texts = self.metadata or ComparedTexts()
        for name, text in (("response_1", texts.response_1), ("response_2", texts.response_2)):
            if text is None:
                raise InvalidField(f"metadata.{name}", "is missing: this route compares two responses")
        conversation = [message.message() for message in messages if isinstance(message, ForeignMessage)]
        return Comparison(conversation, texts.response_1 or "", texts.response_2 or "", texts.principle)


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str = Field(description='`{"score_1": reward, "score_2": reward, "ranking": 1 to 6}`.')
    annotations: list[None] = []


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["completed"] = "completed"
    content: list[OutputText]


class InputDetails(BaseModel):
    cached_tokens: int


class OutputDetails(BaseModel):
    reasoning_tokens: int = Field(description="Tokens of the critiques, which are not returned.")


class ResponseUsage(BaseModel):
    """Tokens, as OpenAI's Responses API counts them."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ComparisonResponse(BaseModel):
    """A Responses object, with the verdict as its output."""

    id: str
    object: Literal["response"] = "response"
    created_at: int = Field(description="Unix time, in seconds.")
    model: str
    status: Literal["completed"] = "completed"
    output: list[OutputMessage]
    parallel_tool_calls: Literal[False] = False
    tool_choice: Literal["none"] = "none"
    tools: list[None] = []
    usage: ResponseUsage
    warnings: list[list[str]] = Field(description="Warnings of each response, as in `/score`.")


class ResponseObject(Foreign):
    output: FailFastList[ResponseItem]


class CompareRequest(Foreign):
    conversation_history: FailFastList[ForeignMessage]
    response_objs: FailFastList[ResponseObject]
    principle: str | None = Field(None, description="What to judge by: `criteria` in `/score`.")


class CompareResponse(BaseModel):
    rewards: list[float] = Field(description="The score of each response: not bounded to [1, 5].")
    comparison_results: None = Field(None, description="null: each response is scored alone.")
    metrics: dict[str, float]
    warnings: list[list[str]] = Field(description="Warnings of each response, as in `/score`.")


@router.post("/v1/responses", responses=ERRORS, summary="Comparisons of two responses (NeMo-Gym's genrm_compare)")
async def compare_pair(
    request: Request, body: ComparisonRequest, options: Annotated[QueryOptions, Query()]
) -> ComparisonResponse:
    """Score two responses to a conversation, and return both scores and a ranking as JSON."""
    service: Service = request.app.state.service
    results = await score_pairs(request, body.comparison().pairs(), options)
    verdict = OutputText(text=verdict_of_pair(*results))
    return ComparisonResponse(
        id=request.scope["request_id"],
        created_at=int(time.time()),
        model=service.model_name,
        output=[OutputMessage(id=f"msg_{request.scope['request_id']}", content=[verdict])],
        usage=_usage(results),
        warnings=[result.warnings for result in results],
    )


@router.post("/compare", responses=ERRORS, summary="NeMo-Gym's genrm_compare, all responses to a prompt")
async def compare(request: Request, body: CompareRequest, options: Annotated[QueryOptions, Query()]) -> CompareResponse:
    """Score each response to a conversation alone: a scalar reward needs no pairs."""
    limit = request.app.state.settings.max_items
    if len(body.response_objs) > limit:
        raise LimitExceeded("response_objs", len(body.response_objs), limit, "responses")
    conversation: list[Message] = [message.message() for message in body.conversation_history]
    pairs = (
        pair_of_output(conversation, response.output)._replace(criteria=body.principle or None)
        for response in body.response_objs
    )
    results = await score_pairs(request, pairs, options)
    return CompareResponse(
        rewards=[score_of(result) for result in results],
        metrics={},
        warnings=[result.warnings for result in results],
    )


def _usage(results: list[Result]) -> ResponseUsage:
    usage = total_usage(results)
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.critique_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=usage.critique_tokens),
        total_tokens=usage.prompt_tokens + usage.critique_tokens,
    )
