"""`POST /verify`, in the shape of a resources server of NeMo-Gym.

Gym's request is the row of the data set with `responses_create_params` and `response`, a Responses object of OpenAI's
(nemo_gym/base_resources_server.py); the answer is the same with a `reward`. An error carries the mark by which Gym
tells a judge that failed from a response that is bad (nemo_gym/judge.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Tag,
    model_validator,
)
from pydantic_core import to_json

from criticrm_client.schemas import FailFastList, Message

from ..work import ERRORS
from .common import (
    DropInRoute,
    Foreign,
    ForeignMessage,
    PromptResponse,
    QueryOptions,
    score_of,
    score_pairs,
    text_or_list,
)


class VerifyRoute(DropInRoute):
    error_fields: ClassVar[dict[str, str]] = {"_ng_failure_class": "judge_failed"}


router = APIRouter(route_class=VerifyRoute)


class FunctionCall(Foreign):
    """A tool call; becomes an assistant's turn with the call as JSON."""

    type: Literal["function_call"]
    name: str
    arguments: str

    def message(self) -> Message:
        call = json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)
        return Message(role="assistant", content=call)


class FunctionOutput(Foreign):
    """A tool's output; becomes a tool's turn."""

    type: Literal["function_call_output"]
    output: str

    def message(self) -> Message:
        return Message(role="tool", content=self.output)


class Reasoning(Foreign):
    """Ignored: the answer is judged, not the reasoning."""

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
    """The request that the policy answered."""

    input: Annotated[
        Annotated[str, Tag("<str>")] | Annotated[FailFastList[ResponseItem], Tag("<list>")],
        Discriminator(text_or_list),
    ]
    instructions: str | None = None

    def messages(self) -> list[Message]:
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*system, Message(role="user", content=self.input)]
        return system + _messages(self.input)


class ResponseObject(Foreign):
    output: FailFastList[ResponseItem]


class VerifyRequest(Foreign):
    responses_create_params: CreateParams
    response: ResponseObject
    _row: dict[str, Any] = PrivateAttr()  # as it was sent

    @model_validator(mode="wrap")
    @classmethod
    def _keep_row(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        request = validate(value)
        request._row = value
        return request

    def rewarded(self, reward: float, warnings: list[str]) -> bytes:
        """The row with its reward, as JSON."""
        return to_json(self._row | {"reward": reward, "reward_warnings": warnings})


class VerifyResponse(BaseModel):
    """Every field of the request, and the reward."""

    model_config = ConfigDict(extra="allow")

    responses_create_params: dict[str, Any]
    response: dict[str, Any]
    reward: float = Field(description="The score, in reward units: not bounded to [0, 1].")
    reward_warnings: list[str] = Field(description="The `warnings` of `/score`.")


@router.post("/verify", response_model=VerifyResponse, responses=ERRORS, summary="NeMo-Gym")
async def verify(request: Request, body: VerifyRequest, options: Annotated[QueryOptions, Query()]) -> Response:
    """Score the policy's last message, after its earlier turns and tool calls.

    An output that does not end with a message (but with a tool's output, or empty) is scored as an empty response.
    """
    (result,) = await score_pairs(request, [_pair(body)], options)
    return Response(body.rewarded(score_of(result), result.warnings), media_type="application/json")


def _pair(body: VerifyRequest) -> PromptResponse:
    asked, done = body.responses_create_params.messages(), _messages(body.response.output)
    if done and done[-1]["role"] == "assistant":
        return PromptResponse(asked + done[:-1], done[-1]["content"])
    return PromptResponse(asked + done, "")


def _messages(items: Iterable[ItemMessage | FunctionCall | FunctionOutput | Reasoning]) -> list[Message]:
    return [message for item in items if (message := item.message()) is not None]
