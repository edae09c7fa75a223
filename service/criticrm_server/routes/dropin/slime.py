"""`POST /slime`, for slime's `--rm-type remote_rm --rm-url URL --reward-key score`.

As slime's client sends it (slime/rollout/rm_hub/__init__.py, `remote_rm`): one sample a request. The prompt is text in
the policy's template with `--apply-chat-template`, else what the data set holds.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Discriminator, Field, Tag

from criticrm_client.chat_markers import split_response, strip_end
from criticrm_client.schemas import FailFastList

from ...errors import InvalidField
from ..work import ERRORS
from .common import (
    DropInRoute,
    Foreign,
    ForeignMessage,
    PromptResponse,
    QueryOptions,
    check_text,
    direct_score_of,
    going_on,
    known_template,
    score_of,
    score_pairs,
    text_or_list,
)

router = APIRouter(route_class=DropInRoute)


class SlimeRequest(Foreign):
    prompt: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[FailFastList[ForeignMessage], Field(min_length=1), Tag("<list>")],
        Discriminator(text_or_list),
    ]
    response: str
    label: Any = None


class SlimeOptions(QueryOptions):
    """With what slime's `label` is to the critic."""

    label: Literal["reference", "criteria"] | None = Field(
        None,
        description="Send the sample's label to the critic as this: a correct answer, or what to judge by. Default: "
        "the label is not read.",
    )


class SlimeResponse(BaseModel):
    """slime stores this object as `sample.reward` and trains on the field that `--reward-key score` names."""

    score: float
    direct_score: float
    truncated: bool
    critique: str | None = Field(
        description="The critique; several are separated by an empty line. null with critique=false."
    )
    rewards: dict[str, float] | None = Field(
        description="By name, of a model with several rewards, whose weighted sum `score` is; else null."
    )
    warnings: list[str] = Field(description="As in `/score`.")


@router.post("/slime", responses=ERRORS, summary="slime's remote_rm")
async def slime(request: Request, body: SlimeRequest, options: Annotated[SlimeOptions, Query()]) -> SlimeResponse:
    """Score one response."""
    if isinstance(body.prompt, str):
        check_text(request, "prompt", body.prompt)
        with known_template("prompt"):
            pair = PromptResponse(*split_response(body.prompt, body.response))
    else:
        pair = going_on([message.message() for message in body.prompt], strip_end(body.response))
    if options.label is not None and body.label is not None:
        text = _label_text(body.label)
        pair = pair._replace(criteria=text) if options.label == "criteria" else pair._replace(reference=text)
    (result,) = await score_pairs(request, [pair], options)
    return SlimeResponse(
        score=score_of(result),
        direct_score=direct_score_of(result),
        truncated=result.status == "truncated",
        critique="\n\n".join(critique.text for critique in result.critiques) if result.critiques else None,
        rewards=result.rewards and {name: reward.score for name, reward in result.rewards.items()},
        warnings=result.warnings,
    )


def _label_text(label: Any) -> str:
    """Raises InvalidField: it is neither a text nor a number."""
    number = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
    if not (number or (isinstance(label, str) and label)):
        raise InvalidField("label", "must be a text or a finite number, to be sent to the critic")
    return str(label)
