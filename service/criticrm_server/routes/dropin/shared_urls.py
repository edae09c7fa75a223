"""URLs that two protocols share: the fields of a request say which it is, and neither protocol knows the other.

`/classify`: SGLang's has `text`, vLLM's `input` or `messages`. `/get_reward`: align-anything's has `responses`,
OpenRLHF's `query`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from pydantic import BeforeValidator, Discriminator, Tag
from pydantic_core import PydanticCustomError

from ..work import ERRORS
from .align_anything import AlignAnythingRequest, AlignAnythingResponse
from .common import DropInRoute, QueryOptions
from .openrlhf import RewardRequest, RewardResponse
from .sglang import SGLangRequest, SGLangReward, SGLangRewards
from .vllm import ClassifyChat, ClassifyResponse, ClassifyText

router = APIRouter(route_class=DropInRoute)


def _exclusive(field: str, *others: str) -> Callable[[Any], Any]:
    """A check that a request has the fields of one protocol."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and field in value and (both := [name for name in others if name in value]):
            raise PydanticCustomError(
                "two_protocols",
                "has the fields of two protocols, `{field}` and `{other}`: send one of them",
                {"field": field, "other": both[0]},
            )
        return value

    return check


def _classify_kind(value: Any) -> str:
    for name in ("messages", "text"):
        if isinstance(value, dict) and name in value:
            return f"<{name}>"
    return "<input>"


ClassifyRequest = Annotated[
    Annotated[
        Annotated[ClassifyText, Tag("<input>")]
        | Annotated[ClassifyChat, Tag("<messages>")]
        | Annotated[SGLangRequest, Tag("<text>")],
        Discriminator(_classify_kind),
    ],
    BeforeValidator(_exclusive("text", "input", "messages")),
]

AnyRewardRequest = Annotated[
    Annotated[
        Annotated[RewardRequest, Tag("<query>")] | Annotated[AlignAnythingRequest, Tag("<responses>")],
        Discriminator(lambda value: "<responses>" if isinstance(value, dict) and "responses" in value else "<query>"),
    ],
    BeforeValidator(_exclusive("responses", "query")),
]


@router.post("/classify", responses=ERRORS, summary="Classification API of vLLM (verl) and of SGLang")
async def classify(
    request: Request, body: Annotated[ClassifyRequest, Body()], options: Annotated[QueryOptions, Query()]
) -> ClassifyResponse | SGLangReward | SGLangRewards:
    """Score the last assistant's turn of each conversation.

    With `input` or `messages`, as vLLM: `probs` holds the reward with `use_activation: false`. Otherwise it holds a
    probability: the reward's sigmoid, which is that of beating a response of reward 0 (Bradley-Terry).
    With `text`, as SGLang: `embedding` holds the reward.
    """
    return await body.respond(request, options)


@router.post("/get_reward", responses=ERRORS, summary="OpenRLHF and align-anything")
async def get_reward(
    request: Request, body: Annotated[AnyRewardRequest, Body()], options: Annotated[QueryOptions, Query()]
) -> RewardResponse | AlignAnythingResponse:
    """Score each response.

    With `query`, as OpenRLHF: what follows `prompts[i]` in `query[i]`; without prompts, the last assistant's turn of
    `query[i]`. With `prompts` and `responses`, as align-anything.
    """
    return await body.respond(request, options)
