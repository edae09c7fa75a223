"""`POST /verify`, in the shape of a resources server of NeMo-Gym.

Gym's request is the row of the data set with `responses_create_params` and `response`, a Responses object of OpenAI's
(nemo_gym/base_resources_server.py); the answer is the same with a `reward`. An error carries the mark by which Gym
tells a judge that failed from a response that is bad (nemo_gym/judge.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from ...schemas import ChatMessage
from ..work import ERRORS
from .common import DropInRoute, Foreign, ForeignMessage, Pair, QueryOptions, score_of, score_pairs, text_or_list


class VerifyRoute(DropInRoute):
    error_fields: ClassVar[dict[str, str]] = {"_ng_failure_class": "judge_failed"}


router = APIRouter(route_class=VerifyRoute)


class FunctionCall(Foreign):
    """Becomes an assistant's turn: what was called, as JSON."""

    type: Literal["function_call"]
    name: str
    arguments: str

    def message(self) -> ChatMessage:
        call = json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)
        return ChatMessage(role="assistant", content=call)


class FunctionOutput(Foreign):
    """Becomes a tool's turn."""

    type: Literal["function_call_output"]
    output: str

    def message(self) -> ChatMessage:
        return ChatMessage(role="tool", content=self.output)


class Reasoning(Foreign):
    """Left out: the answer is judged, not the way to it."""

    type: Literal["reasoning"]

    def message(self) -> None:
        return None


class ItemMessage(ForeignMessage):
    type: Literal["message"] | None = None


def _item_kind(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else "message"
    return f"<{kind}>" if kind in ("function_call", "function_call_output", "reasoning") else "<message>"


ResponseItem = Annotated[
    Annotated[ItemMessage, Tag("<message>")]
    | Annotated[FunctionCall, Tag("<function_call>")]
    | Annotated[FunctionOutput, Tag("<function_call_output>")]
    | Annotated[Reasoning, Tag("<reasoning>")],
    Discriminator(_item_kind),
]


class CreateParams(Foreign):
    """What the policy was asked."""

    input: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[list[ResponseItem], Tag("<list>")],
        Discriminator(text_or_list),
    ]
    instructions: str | None = None

    def messages(self) -> list[ChatMessage]:
        system = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*system, ChatMessage(role="user", content=self.input)]
        return system + _messages(self.input)


class ResponseObject(Foreign):
    output: list[ResponseItem]


class VerifyRequest(Foreign):
    responses_create_params: CreateParams
    response: ResponseObject


class VerifyResponse(BaseModel):
    """Every field of the request, and the reward."""

    model_config = ConfigDict(extra="allow")

    responses_create_params: dict[str, Any]
    response: dict[str, Any]
    reward: float = Field(description="The score, in reward units: not bounded to [0, 1].")


@router.post("/verify", response_model=VerifyResponse, responses=ERRORS, summary="NeMo-Gym")
async def verify(request: Request, body: VerifyRequest, options: Annotated[QueryOptions, Query()]) -> JSONResponse:
    """Score the policy's last message, after whatever it did before.

    Where its output ends otherwise (with a tool's answer, or empty) it gave no answer, and an empty one is scored.
    """
    (result,) = await score_pairs(request, [_pair(body)], options)
    return JSONResponse(await request.json() | {"reward": score_of(result)})


def _pair(body: VerifyRequest) -> Pair:
    asked, done = body.responses_create_params.messages(), _messages(body.response.output)
    if done and done[-1].role == "assistant":
        return Pair(asked + done[:-1], done[-1].content)
    return Pair(asked + done, "")


def _messages(items: Iterable[ItemMessage | FunctionCall | FunctionOutput | Reasoning]) -> list[ChatMessage]:
    return [message for item in items if (message := item.message()) is not None]
