"""`POST /xtuner`, for a remote judger of xtuner v1.

As xtuner sends it (xtuner/v1/ray/judger/native.py, `NativeJudger`): one sample a request, `{"response", "label",
"extra_info"}`, of which none is the prompt. A preprocessing function of the user's puts it into `extra_info`. The
answer is kept whole as the sample's reward.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Discriminator, Field, Tag

from criticrm_client.chat_markers import split_response, strip_end
from criticrm_client.schemas import FailFastList

from ..work import ERRORS
from .common import (
    DropInRoute,
    Foreign,
    ForeignMessage,
    PromptResponse,
    QueryOptions,
    check_text,
    going_on,
    known_template,
    score_of,
    score_pairs,
    text_or_list,
)

router = APIRouter(route_class=DropInRoute)


class XtunerExtraInfo(Foreign):
    prompt: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[FailFastList[ForeignMessage], Field(min_length=1), Tag("<list>")],
        Discriminator(text_or_list),
    ] = Field(description="A text, in the policy's chat template or not, or messages.")


class XtunerRequest(Foreign):
    response: str
    extra_info: XtunerExtraInfo
    label: Any = None


class XtunerResponse(BaseModel):
    score: float
    reward: float = Field(description="The same as the score, under the name that xtuner's example server gives it.")
    warnings: list[str] = Field(description="As in `/score`.")


@router.post("/xtuner", responses=ERRORS, summary="xtuner v1's remote judger")
async def xtuner(request: Request, body: XtunerRequest, options: Annotated[QueryOptions, Query()]) -> XtunerResponse:
    """Score one response."""
    prompt = body.extra_info.prompt
    if isinstance(prompt, str):
        check_text(request, "extra_info.prompt", prompt)
        with known_template("extra_info.prompt"):
            pair = PromptResponse(*split_response(prompt, body.response))
    else:
        pair = going_on([message.message() for message in prompt], strip_end(body.response))
    (result,) = await score_pairs(request, [pair], options)
    return XtunerResponse(score=score_of(result), reward=score_of(result), warnings=result.warnings)
